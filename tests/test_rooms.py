"""Imports go one way through the package, heavy libraries stay where they belong, and importing is fast."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "bert_jax"
BOTTOM_ROW = (
    "errors",
    "supervise",
    "files",
    "huge_pages",
    "console",
    "figure_file",
    "batch",
    "compat",
    "bert_config",
    "config",
    "finetune_config",
    "arguments",
    "config_files",
)
ROOMS = (
    "text",
    "data",
    "model",
    "train",
    "formats",
    "tasks",
    "infer",
    "scale",
    "evaluating",
    "pretraining",
    "finetuning",
    "commands",
    "cli",
    "__main__",
)
HEAVY = ("tensorflow", "tensorflow_datasets", "flax", "orbax", "jax", "sentencepiece", "pyarrow", "zstandard", "torch")


def room_of(module: str) -> int:
    """Rank of a module of the package: 0 for the bottom row, then the rooms from left to right."""
    first = module.removeprefix("bert_jax").strip(".").split(".")[0]
    if first in (*BOTTOM_ROW, "", "__version__"):
        return 0
    return 1 + ROOMS.index(first)


def modules() -> list[tuple[str, ast.Module]]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(("bert_jax", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        if not name.startswith("bert_jax.configs"):
            found.append((name, ast.parse(path.read_text("utf-8"))))
    return found


def imports(tree: ast.AST, top_level_only: bool = False) -> list[str]:
    nodes = tree.body if top_level_only and isinstance(tree, ast.Module) else ast.walk(tree)
    names = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def test_imports_go_leftwards_only() -> None:
    wrong = [
        f"{name} imports {imported}"
        for name, tree in modules()
        if name != "bert_jax"
        for imported in imports(tree)
        if imported.startswith("bert_jax.") and room_of(imported) > room_of(name)
    ]
    assert not wrong


def test_data_and_model_do_not_know_each_other() -> None:
    for name, tree in modules():
        other = {"bert_jax.data": "bert_jax.model", "bert_jax.model": "bert_jax.data"}.get(
            ".".join(name.split(".")[:2])
        )
        if other:
            assert not [imported for imported in imports(tree) if imported.startswith(other)], name


def test_each_library_stays_in_its_room() -> None:
    for name, tree in modules():
        libraries = {imported.split(".")[0] for imported in imports(tree)}
        room = name.split(".")[1] if "." in name else ""
        if "flax" in libraries:
            assert room == "model", f"{name} imports flax"
        if room in ("text", "data"):
            assert "jax" not in libraries, f"{name} imports jax"
        if "tensorflow" in libraries:
            assert room in ("data", "formats"), f"{name} imports tensorflow"


@pytest.mark.parametrize("rooms", [("bert_jax", "text", "data", *BOTTOM_ROW)])
def test_nothing_heavy_is_imported_at_the_top_of_light_modules(rooms: tuple[str, ...]) -> None:
    for name, tree in modules():
        room = name.split(".")[1] if "." in name else "bert_jax"
        if room in rooms:
            heavy = {imported.split(".")[0] for imported in imports(tree, top_level_only=True)} & set(HEAVY)
            assert not heavy, f"{name} imports {heavy} at its top"


def test_importing_the_package_loads_no_framework() -> None:
    code = "import sys, bert_jax; print([m for m in ('jax', 'tensorflow', 'flax', 'numpy') if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    assert result.stdout.strip() == "[]"


def test_no_room_is_a_junk_drawer() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert path.stem not in ("utils", "helpers", "misc", "common"), path
