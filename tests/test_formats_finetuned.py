"""Fine-tuned runs as models: which member, what it is for, and what others read of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_tasks import animal_config, small_start

import bert_jax
from bert_jax.errors import BertJaxError
from bert_jax.formats.model import load_model
from bert_jax.tasks.glue import read_classes
from bert_jax.tasks.metrics import classes
from bert_jax.tasks.task import Task
from bert_jax.train.best import Course, write_best

TEXTS = ["the cat sat", "a dog was tired .", "wet rain"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run, with a second member that scored less."""
    folder = tmp_path_factory.mktemp("finetuned")
    config = animal_config(folder / "data", epochs=2.0)
    bert_jax.finetune(config, run=str(folder / "run"), init=small_start(folder / "start"))
    best = load_model(folder / "run")
    leaves = {path: np.asarray(leaf) for path, leaf in _flat(best.params).items()}
    write_best(folder / "run" / "models", "seed-1", leaves, Course(best=-1.0, step=7, scores={"accuracy": -1.0}))
    return folder / "run"


def _flat(params: dict) -> dict:
    from bert_jax.model.parameters import flatten

    return flatten(params)


def test_the_best_member_is_the_model_and_others_by_name(run: Path) -> None:
    best, other = load_model(run), load_model(f"{run}@seed-1")
    assert best.task is not None and other.task is not None
    assert (best.task.member, other.task.member) == ("seed-0", "seed-1")
    assert (best.task.form, best.task.labels, best.task.options["length"]) == ("classification", ("cat", "dog"), 16)
    assert other.step == 7 and load_model(f"{run}@best").step == best.step
    with pytest.raises(BertJaxError, match="has no seed-5: it has seed-0, seed-1"):
        load_model(f"{run}@seed-5")


def test_it_answers_with_its_labels(run: Path) -> None:
    answers = bert_jax.load(run).classify(TEXTS)
    assert [answer["text"] for answer in answers] == TEXTS
    for answer in answers:
        assert set(answer["probabilities"]) == {"cat", "dog"}
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-6)
    lines = [json.loads(line) for line in bert_jax.predict("classify", str(run), tuple(TEXTS))]
    assert lines == answers


def test_what_it_was_not_trained_for_is_refused(run: Path) -> None:
    bert = bert_jax.load(run)
    with pytest.raises(
        BertJaxError, match=r"was fine-tuned for classification \(classification\): it cannot tag words"
    ):
        bert.tag("the cat")
    with pytest.raises(BertJaxError, match="is a fine-tuned run, made by finetune"):
        bert_jax.show(str(run)).__next__()


def test_hugging_face_gets_the_labels(run: Path, tmp_path: Path) -> None:
    result = bert_jax.convert(str(run), str(tmp_path / "theirs"))
    assert result["class"] == "BertForSequenceClassification"
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    assert config["id2label"] == {"0": "cat", "1": "dog"}
    assert config["problem_type"] == "single_label_classification"
    again = bert_jax.load(tmp_path / "theirs").classify(TEXTS)
    for answer, expected in zip(again, bert_jax.load(run).classify(TEXTS), strict=True):
        assert answer["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-6)


def test_heads_that_nobody_else_has_are_refused_before_anything_is_written(run: Path, tmp_path: Path) -> None:
    task = Task(name="raw", head="first_token", read=read_classes, metric=classes, score="accuracy")
    config = animal_config(tmp_path / "data", epochs=0.1)
    bert_jax.finetune(config, run=str(tmp_path / "raw"), init=str(run), task=task)
    with pytest.raises(BertJaxError, match="has the head first_token, which no class of transformers has"):
        bert_jax.convert(str(tmp_path / "raw"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_run_that_has_scored_nothing_yet_is_no_model(tmp_path: Path, run: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "run.json").write_text((run / "run.json").read_text())
    with pytest.raises(BertJaxError, match="has no model yet"):
        load_model(tmp_path / "new")
