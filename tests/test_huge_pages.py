"""Huge pages: asked for once, where they help, without touching what the user set."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bert_jax import huge_pages
from bert_jax.huge_pages import TUNABLE, environment_with_huge_pages


@pytest.fixture
def giving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that gives huge pages to who asks, with a glibc that can ask."""
    setting = tmp_path / "enabled"
    setting.write_text("always [madvise] never\n")
    monkeypatch.setattr(huge_pages, "_SETTING", setting)
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.35", raising=False)
    return setting


def test_adds_the_tunable_to_those_there(giving: Path) -> None:
    assert environment_with_huge_pages({"A": "b"}) == {"A": "b", "GLIBC_TUNABLES": f"{TUNABLE}=1"}
    found = environment_with_huge_pages({"GLIBC_TUNABLES": "glibc.malloc.check=1"})
    assert found == {"GLIBC_TUNABLES": f"glibc.malloc.check=1:{TUNABLE}=1"}


def test_what_the_user_set_stays(giving: Path) -> None:
    assert environment_with_huge_pages({"GLIBC_TUNABLES": f"{TUNABLE}=0"}) is None


@pytest.mark.parametrize("setting", ["[always] madvise never\n", "always madvise [never]\n", None])
def test_nothing_where_it_is_of_no_use(giving: Path, setting: str | None) -> None:
    giving.unlink() if setting is None else giving.write_text(setting)
    assert environment_with_huge_pages({}) is None


@pytest.mark.parametrize("version", ["glibc 2.31", "musl 1.2", "", None])
def test_nothing_where_the_c_library_cannot(giving: Path, monkeypatch: pytest.MonkeyPatch, version: str | None) -> None:
    monkeypatch.setattr(os, "confstr", lambda name: version, raising=False)
    assert environment_with_huge_pages({}) is None


def test_restarts_once_as_the_same_command(tmp_path: Path) -> None:
    """The process keeps its number, its arguments and its Python's options."""
    script = tmp_path / "program.py"
    setting = tmp_path / "enabled"
    setting.write_text("[madvise]")
    script.write_text(
        "import os, pathlib, sys\n"
        "from bert_jax import huge_pages\n"
        f"huge_pages._SETTING = pathlib.Path({str(setting)!r})\n"
        "os.confstr = lambda name: 'glibc 2.35'\n"
        "print(os.getpid(), sys.argv[1:], sys.flags.utf8_mode, os.environ.get('GLIBC_TUNABLES'), flush=True)\n"
        "huge_pages.restart_with_huge_pages()\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
    environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
    command = [sys.executable, "-X", "utf8", str(script), "two words"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    first, second = result.stdout.splitlines()
    assert first == second.replace(f"{TUNABLE}=1", "None")
    assert "['two words'] 1 " in first
