"""Runs that learned nothing: the same said of every example, or a score that needs no model.

Fine-tuning of small sets fails now and then (Devlin et al. 2019 on BERT-large, Mosbach et al. 2021): such a run is to
be named, not averaged away. `majority` is measured at every evaluation and so known for each run's best step.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bert_jax.tasks.task import Prediction, Task

MAJORITY = "majority"
"""The score's name in lines of metrics."""
_NEAR = 0.01  # scores that differ by less than this share of the right ones' range are the same
_ALIKE = 0.999  # cosine from which on a vector is the same as the mean of all
_SAID = ("label", "labels", "choice", "answer")  # what a prediction says, by form; what is left out are shares


def majority(predictions: Sequence[Prediction], examples: Sequence[Any]) -> float | None:
    """Share of the commonest prediction, probabilities left out; None of fewer than two.

    Of scores the share that is as good as their median, of vectors (similarity) that as good as their mean: 1 where
    all are the same.
    """
    if len(predictions) < 2:
        return None
    first = predictions[0]
    if "vectors" in first:
        return _near_mean(np.stack([prediction["vectors"][0] for prediction in predictions]))
    if "score" in first:
        right = [float(example.label) for example in examples if isinstance(example.label, int | float)]
        spread = max(right) - min(right) if right else 0.0
        values = np.array([prediction["score"] for prediction in predictions], np.float64)
        return float(np.mean(np.abs(values - np.median(values)) <= _NEAR * spread))
    return Counter(map(_said, predictions)).most_common(1)[0][1] / len(predictions)


def _said(prediction: Prediction) -> str:
    for name in _SAID:
        if name in prediction:
            return json.dumps(prediction[name])
    for name in ("entities", "spans"):
        if name in prediction:
            return json.dumps([(span["kind"], span["text"]) for span in prediction[name]])
    return json.dumps(prediction, sort_keys=True, default=str)


def _near_mean(vectors: np.ndarray) -> float:
    wide = vectors.astype(np.float64)
    units = wide / np.maximum(np.linalg.norm(wide, axis=-1, keepdims=True), 1e-12)
    mean = units.mean(axis=0)
    return float(np.mean(units @ mean >= _ALIKE * np.linalg.norm(mean)))


def degenerate(
    scores: Mapping[str, Mapping[str, float | None]], task: Task, examples: Sequence[Any]
) -> dict[str, str | None]:
    """Of each run why it learned nothing, in words; None where it did, or where none can tell.

    `scores`: by run, those of the task's metric on `examples` with `majority` beside them. Where all examples have the
    same answer, a run that always gives it is as it should be.
    """
    if len({_truth(example) for example in examples}) < 2:
        return dict.fromkeys(scores)
    known = trivial(task, examples)
    return {
        label: _reason(own.get(MAJORITY), own.get(task.score), task, known, examples) for label, own in scores.items()
    }


def _reason(
    share: float | None, score: float | None, task: Task, known: tuple[str, float] | None, examples: Sequence[Any]
) -> str | None:
    if share is not None and share >= 1:
        if task.head == "regression":  # scores are floats: hardly ever the same to the last bit
            return f"all {len(examples)} dev examples are given the same score, up to {_NEAR:.0%} of the scores' range"
        if task.head == "similarity":
            return f"the vectors of all {len(examples)} dev examples point in the same direction"
        return f"the same prediction for all {len(examples)} dev examples"
    if known is not None and score is not None and score <= known[1]:
        return f"{task.score} {score:.4g} is no better than {known[0]} ({known[1]:.4g})"
    return None


def trivial(task: Task, examples: Sequence[Any], training: Sequence[Any] = ()) -> tuple[str, float] | None:
    """What may be said without looking at an example, in words, and how it scores; None where there is nothing.

    What is commonest is so among the `training` examples, or without these among those that are scored.
    """
    if not examples:
        return None
    commonest = Counter(map(_truth, training or examples)).most_common(1)[0][0]
    predictions: list[Prediction]
    match task.head:
        case "classification" | "first_token" | "relation":
            said = f"always {str(commonest)[:40]!r}, the commonest label"
            labels = {example.label for example in examples}
            shares = {label: float(label == commonest) for label in labels}
            one = {"label": commonest, "probability": 1.0, "probabilities": shares}
            predictions = [one] * len(examples)
        case "multi_label":
            said = f"always {', '.join(commonest)[:40] or 'none'}, the commonest set of labels"
            names = {name for example in examples for name in _truth(example)}
            one = {"labels": list(commonest), "probabilities": {name: float(name in commonest) for name in names}}
            predictions = [one] * len(examples)
        case "multiple_choice":
            said = f"always choice {commonest}, the one most often right"
            counts = [(example, len(example.choices)) for example in examples]
            places = [(example, min(commonest or 0, count - 1), count) for example, count in counts]
            predictions = [
                {"choice": at, "text": example.choices[at], "probabilities": [float(i == at) for i in range(count)]}
                for example, at, count in places
            ]
        case "tagging":
            said = "no entity anywhere"
            predictions = [{"tags": ["O"] * len(example.words), "entities": []} for example in examples]
        case "pointers":
            said = "no span anywhere"
            predictions = [{"spans": []} for _ in examples]
        case "question_answering":
            said = "never an answer"
            none: Prediction = {
                "answer": "",
                "start": None,
                "end": None,
                "probability": 1.0,
                "no_answer_odds": 0.0,
                "n_best": [],
            }
            predictions = [none] * len(examples)
        case _:  # scores and vectors: what correlations make of constants is not defined
            return None
    try:
        score = task.metric(predictions, examples).get(task.score)
    except Exception:  # the metric may be a user's own, not made for this: a courtesy must not end a run
        return None
    return None if score is None or not math.isfinite(score) else (said, score)


def _truth(example: Any) -> Any:
    """What is right for an example, hashable."""
    for name in ("tags", "spans"):
        if hasattr(example, name):
            value = getattr(example, name)
            return tuple(value or ()) if name == "spans" else tuple(tag for tag in value or () if tag != "O")
    if hasattr(example, "answers"):
        return (example.impossible, example.answers and tuple(text for text, _ in example.answers))
    if hasattr(example, "texts"):
        return (example.score, example.texts[1])
    return example.label
