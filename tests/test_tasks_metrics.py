"""Metrics equal scikit-learn's and scipy's where those are defined, and are None where they are not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bert_jax.tasks import metrics
from bert_jax.tasks.task import TextExample

RANDOM = np.random.default_rng(0)
CLASSES = ("no", "yes", "maybe")


def drawn(count: int, classes: int = 2) -> list[str]:
    return [CLASSES[i] for i in RANDOM.integers(0, classes, count)]


@pytest.mark.parametrize("classes", [2, 3])
def test_classes_equal_scikit_learn(classes: int) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    for count in (2, 5, 40):
        predicted, true = drawn(count, classes), [*CLASSES[:2], *drawn(count - 2, classes)]
        assert metrics.accuracy(predicted, true) == pytest.approx(sklearn.accuracy_score(true, predicted))
        expected = sklearn.matthews_corrcoef(true, predicted)
        assert metrics.matthews(predicted, true) == pytest.approx(expected, abs=1e-12)
        f1 = sklearn.f1_score(true, predicted, labels=["yes"], average=None, zero_division=0)[0]
        assert metrics.binary_f1(predicted, true, "yes") == pytest.approx(f1)
        examples = [TextExample(a="", label=label) for label in true]
        scores = metrics.classes([{"label": label} for label in predicted], examples)
        assert scores["macro_f1"] == pytest.approx(sklearn.f1_score(true, predicted, average="macro"))


def test_one_class() -> None:
    assert metrics.matthews(["yes", "no"], ["yes", "yes"]) is None
    assert metrics.matthews(["yes", "yes"], ["yes", "no"]) == 0
    assert metrics.binary_f1(["no", "no"], ["no", "no"], "yes") is None
    assert metrics.binary_f1(["no", "no"], ["no", "yes"], "yes") == 0
    assert metrics.accuracy([], []) is None


def test_correlations_equal_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    x, y = RANDOM.normal(size=50), RANDOM.integers(0, 6, 50).astype(float)  # with ties
    assert metrics.pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    assert metrics.spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    ranks = stats.rankdata(x), stats.rankdata(y)
    assert metrics.spearman(x, y) == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-12)


@pytest.mark.parametrize(
    ("predicted", "true"),
    [([], []), ([1.0], [2.0]), ([1.0, 1.0], [1.0, 2.0]), ([1.0, 2.0], [3.0, 3.0]), ([1.0, math.nan], [1.0, 2.0])],
)
def test_correlations_that_are_not_defined(predicted: list[float], true: list[float]) -> None:
    assert metrics.pearson(predicted, true) is None
    assert metrics.spearman(predicted, true) is None


def test_scores_of_a_run() -> None:
    examples = [TextExample(a="", label=score) for score in (0.0, 1.0, 2.0)]
    scores = metrics.correlations([{"score": score} for score in (1.0, 2.0, 4.0)], examples)
    assert scores == {"pearson": pytest.approx(0.98198, abs=1e-5), "spearman": 1.0, "mean_squared_error": 2.0}
    worse = metrics.correlations([{"score": score} for score in (1.0, math.nan, 4.0)], examples)
    assert worse == {"pearson": None, "spearman": None, "mean_squared_error": None}


def test_sets_of_labels_equal_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    for count in (1, 6, 30):
        predicted, true = RANDOM.integers(0, 2, (2, count, 4))
        predicted[:, 3] = true[:, 3] = 0  # neither there nor predicted: not part of the mean
        names = [[str(c) for c in range(4) if row[c]] for row in true]
        given = [{"labels": [str(c) for c in range(4) if row[c]]} for row in predicted]
        scores = metrics.label_sets(given, [TextExample(a="", label=tuple(labels)) for labels in names])
        for average in ("micro", "macro"):
            expected = sklearn.f1_score(true, predicted, average=average, zero_division=np.nan)
            assert scores[f"{average}_f1"] == pytest.approx(expected)
        assert scores["exact"] == pytest.approx(sklearn.accuracy_score(true, predicted))
    nothing = metrics.label_sets([{"labels": []}], [TextExample(a="", label=())])
    assert nothing == {"micro_f1": None, "macro_f1": None, "exact": 1.0}


def test_metrics_of_tasks() -> None:
    examples = [TextExample(a="", label=label) for label in ("yes", "yes", "no", "no")]
    predictions = [{"label": label} for label in ("yes", "no", "no", "no")]
    assert metrics.correct(predictions, examples) == {"accuracy": 0.75}
    assert metrics.accuracy_and_f1("yes")(predictions, examples) == {"accuracy": 0.75, "f1": pytest.approx(2 / 3)}
    assert metrics.acceptability(predictions, examples) == {
        "accuracy": 0.75,
        "matthews": pytest.approx(0.57735, abs=1e-5),
    }
