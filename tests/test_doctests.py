"""The examples in the docstrings of what Python users call: there is one for each, and it runs.

In them `bert_jax` is the package, `bert` a loaded model (drawn at random, with a vocabulary of thirty words),
`classifier`, `tagger`, … the same fine-tuned for a task, and `runs/quickstart` a run directory.
"""

from __future__ import annotations

import dataclasses
import doctest
import inspect
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from small_models import WORDS, small_bert, small_config, small_run, small_tokenizer

import bert_jax
from bert_jax.config_files import to_dict
from bert_jax.finetune_config import TaskOptions
from bert_jax.formats.finetuned import TaskFacts
from bert_jax.formats.model import LoadedModel
from bert_jax.infer.loaded import Bert
from bert_jax.model.bert import abstract_parameters, make_model
from bert_jax.tasks.table import FORMS
from bert_jax.text.interface import SPECIAL_PIECES, Tokenizer

PLUMBING = ("answers", "compiled", "place", "require_head", "require_length")  # of Bert, for the verbs' own files
METHODS = [name for name, _ in inspect.getmembers(Bert, inspect.isfunction) if name[0] != "_" and name not in PLUMBING]
EXAMPLES = {
    "load": bert_jax.load,
    "tokenizer.encode": Tokenizer.encode,
    **{name: getattr(Bert, name) for name in METHODS},
}

# What the examples call a model: its form, its labels, how many classes the head has.
TASKS: dict[str, tuple[str, tuple[str, ...], int]] = {
    "classifier": ("classification", ("negative", "positive"), 2),
    "tagger": ("tagging", ("O", "B-PET", "I-PET"), 3),
    "relater": ("relation", ("Other", "Chases(e1,e2)"), 2),
    "extractor": ("pointers", ("PET",), 2),
    "reader": ("question_answering", (), 2),
    "chooser": ("multiple_choice", (), 1),
}


def fine_tuned(form: str, labels: tuple[str, ...], classes: int) -> Bert:
    """A model drawn at random that says it was fine-tuned."""
    tokenizer = small_tokenizer().with_lines([*SPECIAL_PIECES.values(), *WORDS, "$", "#"])
    head, config = FORMS[form].head, dataclasses.replace(small_config(), vocab_size=tokenizer.vocab_size)
    assert head is not None
    random = np.random.default_rng(0)
    shapes = abstract_parameters(make_model(config, heads=(head,), classes=classes))
    params = jax.tree.map(lambda leaf: random.normal(0, 0.5, leaf.shape).astype(leaf.dtype), shapes)
    options = to_dict(TaskOptions(length=32, query_length=8, doc_stride=8))
    task = TaskFacts(name=form, form=form, labels=labels, options=options, member="seed-0", scores={})
    return Bert(
        LoadedModel(
            config=config,
            params=params,
            tokenizer=tokenizer,
            kind="run",
            path=Path(form),
            step=1,
            heads=(head,),
            classes=classes,
            task=task,
        )
    )


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("doctests")
    small_run(folder / "runs" / "quickstart", {100: None})
    modules: dict[str, Any] = {"bert_jax": bert_jax, "jax": jax, "jnp": jax.numpy, "np": np, "optax": optax}
    models = {name: fine_tuned(*task) for name, task in TASKS.items()}
    return {**modules, **models, "bert": small_bert(), "folder": folder}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_runs(name: str, names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").symlink_to(names["folder"] / "runs")
    monkeypatch.chdir(tmp_path)
    found = doctest.DocTestFinder(recurse=False).find(EXAMPLES[name], name, globs=dict(names))
    assert found and found[0].examples, f"{name} has no example: write one with >>> into its docstring"
    report: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(found[0], out=report.append)
    assert result.failed == 0, "".join(report)
