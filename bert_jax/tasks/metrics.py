"""Scores of predictions as GLUE and its like define them; None where one is not defined, never NaN.

The functions at the top take plain sequences, those below predictions and examples: they are the metrics of tasks.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from bert_jax.tasks.task import Metric, Prediction, Scores, TextExample

LabelSets = Sequence[Sequence[str]]


def accuracy(predicted: Sequence[Any], true: Sequence[Any]) -> float | None:
    """Share of equal pairs; None of none."""
    return sum(p == t for p, t in zip(predicted, true, strict=True)) / len(true) if true else None


def f1(hits: int, predicted: int, true: int) -> float | None:
    """2 · hits / (predicted + true): precision and recall's harmonic mean; None where there is neither."""
    return 2 * hits / (predicted + true) if predicted + true else None


def binary_f1(predicted: Sequence[str], true: Sequence[str], positive: str) -> float | None:
    """F1 of the class `positive`; None where it is neither there nor predicted."""
    hits = sum(p == t == positive for p, t in zip(predicted, true, strict=True))
    return f1(hits, list(predicted).count(positive), list(true).count(positive))


def matthews(predicted: Sequence[str], true: Sequence[str]) -> float | None:
    """Matthews correlation, for any number of classes.

    One class predicted throughout gives 0, as GLUE's script has it; one class to be predicted None.
    """
    if len(set(true)) < 2:
        return None
    classes = sorted({*predicted, *true})
    seen, given = Counter(true), Counter(predicted)
    hits, n = sum(p == t for p, t in zip(predicted, true, strict=True)), len(true)
    both = hits * n - sum(seen[c] * given[c] for c in classes)
    spread = (n * n - sum(given[c] ** 2 for c in classes)) * (n * n - sum(seen[c] ** 2 for c in classes))
    return both / math.sqrt(spread) if spread else 0.0


def pearson(predicted: Sequence[float], true: Sequence[float]) -> float | None:
    """Linear correlation; None of fewer than two pairs, or where one side is constant or not finite."""
    return _correlation("pearsonr", predicted, true)


def spearman(predicted: Sequence[float], true: Sequence[float]) -> float | None:
    """Rank correlation, ties at their mean rank; None as for `pearson`."""
    return _correlation("spearmanr", predicted, true)


def _correlation(name: str, predicted: Sequence[float], true: Sequence[float]) -> float | None:
    import scipy.stats  # a second to import, and only these two are needed

    x, y = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    if len(x) < 2 or not (np.isfinite(x).all() and np.isfinite(y).all()) or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of nearly constant input; the result says it
        result = float(getattr(scipy.stats, name)(x, y)[0])
    return result if math.isfinite(result) else None


def label_f1(predicted: LabelSets, true: LabelSets) -> tuple[float | None, float | None]:
    """(micro, macro) F1 of sets of labels: of all decisions together, and the mean over labels.

    Labels that are neither there nor predicted have no F1 and are left out of the mean.
    """
    given = Counter(label for labels in predicted for label in set(labels))
    seen = Counter(label for labels in true for label in set(labels))
    hits = Counter(label for p, t in zip(predicted, true, strict=True) for label in set(p) & set(t))
    micro = f1(hits.total(), given.total(), seen.total())
    each = [2 * hits[label] / (given[label] + seen[label]) for label in sorted({*given, *seen})]
    return micro, sum(each) / len(each) if each else None


# --- metrics of tasks -------------------------------------------------------------------------------------------------


def _labels(predictions: Sequence[Prediction], examples: Sequence[TextExample]) -> tuple[list[str], list[str]]:
    return [str(prediction["label"]) for prediction in predictions], [str(example.label) for example in examples]


def classes(predictions: Sequence[Prediction], examples: Sequence[TextExample]) -> Scores:
    """`accuracy`, and `macro_f1` over the classes."""
    predicted, true = _labels(predictions, examples)
    macro = label_f1([[label] for label in predicted], [[label] for label in true])[1]
    return {"accuracy": accuracy(predicted, true), "macro_f1": macro}


def correct(predictions: Sequence[Prediction], examples: Sequence[TextExample]) -> Scores:
    """`accuracy`."""
    return {"accuracy": accuracy(*_labels(predictions, examples))}


def acceptability(predictions: Sequence[Prediction], examples: Sequence[TextExample]) -> Scores:
    """`matthews` (CoLA's), and `accuracy`."""
    predicted, true = _labels(predictions, examples)
    return {"matthews": matthews(predicted, true), "accuracy": accuracy(predicted, true)}


def accuracy_and_f1(positive: str) -> Metric:
    """The metric `accuracy`, and `f1` of the class `positive` (MRPC's and QQP's)."""

    def metric(predictions: Sequence[Prediction], examples: Sequence[TextExample]) -> Scores:
        predicted, true = _labels(predictions, examples)
        return {"accuracy": accuracy(predicted, true), "f1": binary_f1(predicted, true, positive)}

    return metric


def correlations(predictions: Sequence[Prediction], examples: Sequence[TextExample]) -> Scores:
    """`pearson` and `spearman` of scores (STS-B's), and `mean_squared_error`."""
    predicted = [float(prediction["score"]) for prediction in predictions]
    true = [float(example.label) for example in examples]  # type: ignore[arg-type]
    error = float(np.mean(np.square(np.subtract(predicted, true)))) if true else math.nan
    return {
        "pearson": pearson(predicted, true),
        "spearman": spearman(predicted, true),
        "mean_squared_error": error if math.isfinite(error) else None,
    }


def label_sets(predictions: Sequence[Prediction], examples: Sequence[TextExample]) -> Scores:
    """`micro_f1`, `macro_f1`, and `exact`, the share of examples whose labels are all right."""
    predicted = [list(prediction["labels"]) for prediction in predictions]
    true = [[e.label] if isinstance(e.label, str) else list(e.label or ()) for e in examples]  # type: ignore[arg-type]
    micro, macro = label_f1(predicted, true)
    return {"micro_f1": micro, "macro_f1": macro, "exact": accuracy([*map(set, predicted)], [*map(set, true)])}
