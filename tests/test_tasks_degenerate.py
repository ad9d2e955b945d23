"""Runs that learned nothing are named, whatever the form; runs that did are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bert_jax.tasks.degenerate import MAJORITY, degenerate, majority, trivial
from bert_jax.tasks.table import TASKS
from bert_jax.tasks.task import (
    ChoiceExample,
    Prediction,
    Question,
    RelationExample,
    Scores,
    SimilarExample,
    SpanExample,
    TaggedExample,
    TextExample,
)


def texts(*labels: Any) -> list[TextExample]:
    return [TextExample(a=f"text {index}", label=label) for index, label in enumerate(labels)]


def vector(*values: float) -> Prediction:
    return {"similarity": 0.5, "vectors": np.array([values, values], np.float32)}


def test_majority_is_the_share_of_the_commonest_without_probabilities() -> None:
    said = [{"label": label, "probabilities": {"x": share}} for label, share in (("x", 0.9), ("x", 0.6), ("y", 0.2))]
    assert majority(said, texts("x", "y", "x")) == pytest.approx(2 / 3)
    assert majority(said[:2], texts("x", "y")) == 1.0
    assert majority(said[:1], texts("x")) is None


@pytest.mark.parametrize(
    ("same", "other"),
    [
        ({"labels": []}, {"labels": ["x"]}),
        ({"choice": 1, "text": "b"}, {"choice": 0, "text": "b"}),
        ({"answer": "", "start": None}, {"answer": "x", "start": 3}),
        ({"tags": ["O"], "entities": []}, {"tags": ["B-X"], "entities": [{"kind": "X", "text": "w"}]}),
        ({"spans": []}, {"spans": [{"kind": "X", "text": "w"}]}),
        ({"score": 2.71}, {"score": 1.0}),
        (vector(1, 0), vector(0, 1)),
    ],
)
def test_majority_of_every_form(same: Prediction, other: Prediction) -> None:
    examples = texts(0.0, 5.0, 2.0)
    assert majority([same, dict(same), dict(same)], examples) == 1.0
    share = majority([same, dict(same), other], examples)
    assert share is not None and share < 1


def test_entities_count_not_the_number_of_words() -> None:
    assert majority([{"tags": ["O"] * n, "entities": []} for n in (1, 5)], []) == 1.0


def test_scores_that_are_nearly_the_same_are_the_same() -> None:
    examples = texts(0.0, 5.0, 2.0)
    assert majority([{"score": value} for value in (2.70, 2.71, 2.72)], examples) == 1.0
    assert majority([{"score": value} for value in (2.5, 2.7, 2.9)], examples) == pytest.approx(1 / 3)


def test_reasons() -> None:
    dev = texts("yes", "yes", "yes", "no")
    scores: dict[str, Scores] = {
        "same": {"accuracy": 0.75, MAJORITY: 1.0},
        "no better": {"accuracy": 0.5, MAJORITY: 0.75},
        "sound": {"accuracy": 1.0, MAJORITY: 0.75},
        "older": {"accuracy": 1.0},
        "undefined": {"accuracy": None, MAJORITY: None},
    }
    found = degenerate(scores, TASKS["classification"], dev)
    assert found == {
        "same": "the same prediction for all 4 dev examples",
        "no better": "accuracy 0.5 is no better than always 'yes', the commonest label (0.75)",
        "sound": None,
        "older": None,
        "undefined": None,
    }


def test_of_scores_and_vectors_it_is_said_what_is_the_same() -> None:
    found = degenerate({"a": {"spearman": 0.1, MAJORITY: 1.0}}, TASKS["stsb"], texts(0.0, 5.0))
    assert found["a"] == "all 2 dev examples are given the same score, up to 1% of the scores' range"
    pairs = [SimilarExample(texts=("a", str(index))) for index in range(3)]
    found = degenerate({"a": {"recall_at_1": 0.1, MAJORITY: 1.0}}, TASKS["retrieval"], pairs)
    assert found["a"] == "the vectors of all 3 dev examples point in the same direction"


def test_what_is_commonest_may_be_so_in_training() -> None:
    dev = [RelationExample(text="a b", first=(0, 1), second=(2, 3), label=one) for one in ("R", "R", "S")]
    found = trivial(TASKS["relation"], dev, [*dev[2:], *dev[2:], dev[0]])
    assert found == ("always 'S', the commonest label", pytest.approx(0.25))


def test_where_all_examples_are_alike_nothing_can_be_told() -> None:
    assert degenerate({"a": {"accuracy": 1.0, MAJORITY: 1.0}}, TASKS["classification"], texts("x", "x")) == {"a": None}
    assert degenerate({"a": {"accuracy": None}}, TASKS["classification"], []) == {"a": None}


TRIVIAL: list[tuple[str, Sequence[Any], float]] = [
    ("sst2", texts("1", "1", "0"), 2 / 3),
    ("cola", texts("1", "1", "0"), 0.0),
    ("mrpc", texts("equivalent", "equivalent", "not_equivalent"), 0.8),
    ("multi_label", texts(("a",), ("a",), ("b", "a")), 6 / 7),
    ("swag", [ChoiceExample(context="c", choices=("p", "q", "r")[:n], label=at) for n, at in ((3, 1), (2, 1), (3, 2))],
     2 / 3),
    ("ner", [TaggedExample(words=("w",), tags=(tag,)) for tag in ("B-X", "O")], 0.0),
    ("spans", [SpanExample(text="ab", spans=spans) for spans in (((0, 1, "X"),), ())], 0.0),
    ("relation", [RelationExample(text="a b", first=(0, 1), second=(2, 3), label=one) for one in ("R", "R", "S")], 0.4),
    ("squad1", [Question(question="q", context="x y", answers=((one, 0),)) for one in "xy"], 0.0),
    ("squad2", [Question(question="q", context="x", answers=a, impossible=not a) for a in ((("x", 0),), ())], 50.0),
    ("cmrc", [Question(question="q", context="x y", answers=((one, 0),)) for one in "xy"], 0.0),
]  # fmt: skip


@pytest.mark.parametrize(("name", "examples", "score"), TRIVIAL, ids=[one[0] for one in TRIVIAL])
def test_what_needs_no_model(name: str, examples: Sequence[Any], score: float) -> None:
    task = TASKS[name]
    found = trivial(task, examples)
    assert found is not None and found[1] == pytest.approx(score)
    assert "no better than" in (degenerate({"x": {task.score: found[1]}}, task, examples)["x"] or "")
    assert degenerate({"x": {task.score: found[1] + 0.1}}, task, examples) == {"x": None}


def test_numbers_and_vectors_have_nothing_that_needs_no_model() -> None:
    assert trivial(TASKS["stsb"], texts(1.0, 2.0)) is None
    pairs = [SimilarExample(texts=("a", "b"), score=0.5), SimilarExample(texts=("a", "c"), score=0.1)]
    assert trivial(TASKS["similarity"], pairs) is None
    assert degenerate({"x": {"spearman": 0.1, MAJORITY: 1.0}}, TASKS["similarity"], pairs)["x"] is not None


def test_a_metric_of_ones_own_that_cannot_be_asked_ends_nothing() -> None:
    def metric(predictions: Sequence[Prediction], examples: Sequence[Any]) -> Scores:
        raise KeyError("logits")

    task = replace(TASKS["classification"], metric=metric)
    assert degenerate({"x": {"accuracy": 0.1, MAJORITY: 0.5}}, task, texts("a", "b")) == {"x": None}
