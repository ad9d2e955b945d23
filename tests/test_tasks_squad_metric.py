"""EM and F1 are the official scripts', to the last digit of what they say of published predictions."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import TaskData
from bert_jax.tasks.squad import read_squad
from bert_jax.tasks.squad_metric import (
    best_threshold,
    exact_match,
    marks_2,
    normalise_answer,
    squad_2_scores,
    squad_scores,
    with_threshold,
    word_f1,
    word_f1_or_none,
)
from bert_jax.tasks.task import Question


def question(name: str, *answers: str) -> Question:
    found = tuple((text, 0) for text in answers)
    return Question(place=name, id=name, question="?", context="x", answers=found, impossible=not answers)


@pytest.mark.parametrize(
    ("name", "exact", "f1"),
    [
        ("v1.1_bert_ensemble", 86.20624408703878, 92.19557978351129),
        ("v1.1_logistic_regression", 40.14191106906339, 50.98153647324482),
    ],
)
def test_published_predictions_of_1_1(data_dir: Path, name: str, exact: float, f1: float) -> None:
    examples = list(read_squad(str(data_dir / "squad/dev-v1.1.json"), TaskData()))
    texts = json.loads((data_dir / f"squad/predictions/{name}.json").read_text("utf-8"))
    assert squad_scores([{"answer": texts.get(example.id)} for example in examples], examples) == {
        "exact": exact,
        "f1": f1,
    }


def test_published_predictions_of_2_0(data_dir: Path) -> None:
    examples = list(read_squad(str(data_dir / "squad/dev-v2.0.json"), TaskData()))
    texts = json.loads((data_dir / "squad/predictions/v2.0_bert_single.json").read_text("utf-8"))
    expected = {
        "exact": 78.74168280973637,
        "f1": 81.77528052374727,
        "has_answer_exact": 74.10593792172739,
        "has_answer_f1": 80.18183293833516,
        "no_answer_accuracy": 83.36417157275021,
    }
    marks = marks_2([texts[example.id] for example in examples], examples)
    assert squad_2_scores(marks, [not example.impossible for example in examples]) == expected
    # Predictions that were made with a threshold are not tuned again.
    predictions = [{"answer": texts[example.id], "no_answer_threshold": 0.0} for example in examples]
    assert squad_scores(predictions, examples) == expected


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Eiffel-Tower, a landmark!", "eiffeltower landmark"),
        ("theatre an-the", "theatre anthe"),
        ("«Ärger» – U.S.", "«ärger» – us"),
        ("a", ""),
    ],
)
def test_normalisation(text: str, normal: str) -> None:
    assert normalise_answer(text) == normal


def test_one_answer() -> None:
    assert exact_match("the Cat.", "cat") == 1
    assert word_f1("the big cat cat", "cat") == pytest.approx(0.5)
    assert word_f1("", "") == word_f1("dog", "cat") == 0
    assert word_f1_or_none("", "") == 1 and word_f1_or_none("", "cat") == 0 and word_f1_or_none("the", "") == 1


def predictions(*pairs: tuple[str, float]) -> list[dict[str, Any]]:
    return [{"answer": text, "no_answer_odds": odds} for text, odds in pairs]


def test_the_threshold_is_the_best_one_for_f1() -> None:
    examples = [question("1", "cat"), question("2", "dog"), question("3"), question("4")]
    given = predictions(("cat", -3.0), ("dog house", -1.0), ("rat", 0.5), ("mat", -2.0))
    scores = squad_scores(given, examples)
    # Answering 1 alone, or all up to question 2 with 4 wrong: (1 + 2) / 4, or (1 + 2/3 + 1) / 4.
    assert scores["no_answer_threshold"] == -3.0
    assert scores["f1"] == scores["exact"] == scores["best_exact"] == 75.0
    assert scores["has_answer_f1"] == 50.0 and scores["no_answer_accuracy"] == 100.0


def test_thresholds_by_trying_them_all() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        count = int(random.integers(1, 12))
        known = random.integers(0, 2, count).astype(bool).tolist()
        marks = [float(mark) if has else 0.0 for mark, has in zip(random.random(count).round(1), known, strict=True)]
        odds = random.integers(-3, 4, count).astype(float).tolist()  # with ties
        tried = {
            threshold: sum(with_threshold(marks, odds, known, threshold)) for threshold in [-99.0, *sorted(set(odds))]
        }
        best, threshold = best_threshold(marks, ["x"] * count, odds, known)
        assert best == pytest.approx(100 * max(tried.values()) / count)
        assert sum(with_threshold(marks, odds, known, threshold)) == pytest.approx(max(tried.values()))


def test_answering_nothing_may_be_best() -> None:
    examples = [question("1"), question("2", "dog")]
    scores = squad_scores(predictions(("cat", -5.0), ("rat", -7.0)), examples)
    assert scores["f1"] == 50.0 and scores["no_answer_threshold"] == math.nextafter(-7.0, -math.inf)


def test_without_answers_there_is_no_score() -> None:
    asked = Question(place="a.json, question 7", id="7", question="?", context="x")
    with pytest.raises(BertJaxError, match=r"a\.json, question 7 has no answers to score against"):
        squad_scores([{"answer": "x"}], [asked])
    assert squad_scores([], []) == {"exact": None, "f1": None}
