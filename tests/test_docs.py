"""The pages of docs/ do what they say: their Python is taken out of the text and run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from minilm import minilm_directory
from small_models import small_run
from small_tasks import small_start, write_animals

import bert_jax

DOCS = Path(__file__).resolve().parent.parent / "docs"


def python_of(page: str, kind: str = "") -> str:
    """All ```python blocks of a page, one after another, each on its own lines of the page so that errors name them.

    `kind`: a word that stands behind ```python; blocks with another one are left out.
    """
    text = (DOCS / page).read_text(encoding="utf-8")
    code = [""] * (text.count("\n") + 1)
    for match in re.finditer(rf"^```python{kind and ' ' + kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        first = text.count("\n", 0, match.start(1))
        lines = match.group(1).splitlines()
        code[first : first + len(lines)] = lines
    return "\n".join(code)


@pytest.mark.ci  # half a minute, most of it in the compiler
def test_an_own_head_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "minilm").symlink_to(minilm_directory())
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    code = python_of("own_head.md")
    exec(compile(code, "own_head.md", "exec"), names)
    losses = names["losses"]
    assert losses[0] == pytest.approx(np.log(2), abs=1e-6)
    assert losses[-1] < 0.4 * losses[0]
    assert names["answers"].tolist() == [1, 0, 1, 0]
    body = code[code.index("import bert_jax") : code.index("losses = []")]
    assert len([line for line in body.splitlines() if line.strip()]) <= 20


def test_the_stablehlo_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_run(tmp_path / "run", {3: 1.0})
    bert_jax.convert(str(tmp_path / "run"), str(tmp_path / "served"), to="stablehlo")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(python_of("models.md"), "models.md", "exec"), names)
    expected = bert_jax.load(tmp_path / "run").apply(names["batch"])
    np.testing.assert_allclose(names["outputs"]["pooled_output"], expected["pooled_output"], atol=1e-5)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")  # the exporter's own, by the dozen
def test_the_onnx_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("torch", "transformers", "onnxscript", "onnxruntime"):
        pytest.importorskip(module)
    bert_jax.convert(str(minilm_directory()), str(tmp_path / "bert-base"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(python_of("models.md", "onnx"), "models.md", "exec"), names)
    features = bert_jax.load(tmp_path / "bert-base").features(["A dog.", "The cat sat on the mat."])
    for row, answer in enumerate(features):
        found = names["vectors"][row, : len(answer["tokens"])]
        np.testing.assert_allclose(found, answer["vectors"], atol=2e-5)


def test_a_task_of_your_own_is_twenty_lines_and_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    start = small_start(tmp_path / "base")
    write_animals(tmp_path / "train.tsv", 120)
    code = python_of("finetuning.md", "config")
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    (tmp_path / "mine.py").write_text(code)
    fast = ["--data.train", "train.tsv", "--optimizer.learning-rate", "2e-2", "--finetune.dropout", "0.0"]
    shape = ["--task.length", "16", "--finetune.batch", "8", "--finetune.epochs", "6", "--finetune.buckets", "16"]
    result = bert_jax.finetune("mine.py", run="runs/mine", init=start, overrides=fast + shape)
    assert result["task"] == "mine" and result["best"]["accuracy"] > 0.8
    assert bert_jax.load("runs/mine").classify("the cat sat")["label"] in ("cat", "dog")
