"""The examples in the docstrings of what Python users call: there is one for each, and it runs.

In them `bert_jax` is the package, `bert` a loaded model (drawn at random, with a vocabulary of thirty words), and
`runs/quickstart` a run directory.
"""

from __future__ import annotations

import doctest
import inspect
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from small_models import small_bert, small_run

import bert_jax
from bert_jax.infer.loaded import Bert
from bert_jax.text.interface import Tokenizer

PLUMBING = ("answers", "compiled", "place", "require_head", "require_length")  # of Bert, for the verbs' own files
METHODS = [name for name, _ in inspect.getmembers(Bert, inspect.isfunction) if name[0] != "_" and name not in PLUMBING]
EXAMPLES = {
    "load": bert_jax.load,
    "tokenizer.encode": Tokenizer.encode,
    **{name: getattr(Bert, name) for name in METHODS},
}


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("doctests")
    small_run(folder / "runs" / "quickstart", {100: None})
    modules = {"bert_jax": bert_jax, "jax": jax, "jnp": jax.numpy, "np": np, "optax": optax}
    return {**modules, "bert": small_bert(), "folder": folder}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_runs(name: str, names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").symlink_to(names["folder"] / "runs")
    monkeypatch.chdir(tmp_path)
    found = doctest.DocTestFinder(recurse=False).find(EXAMPLES[name], name, globs=dict(names))
    assert found and found[0].examples, f"{name} has no example: write one with >>> into its docstring"
    report: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(found[0], out=report.append)
    assert result.failed == 0, "".join(report)
