"""What came of a fine-tuning run: the scores of its members, and predictions as files."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bert_jax.console import warn
from bert_jax.files import atomic_writer, to_json
from bert_jax.tasks.degenerate import degenerate
from bert_jax.tasks.task import Prediction, Task
from bert_jax.train.best import best_models
from bert_jax.train.run import Run


def member_scores(run: Run, task: Task, dev: Sequence[Any]) -> dict[str, Any]:
    """What the members scored on dev at their best step: each, their mean and standard deviation, and the best.

    `degenerate` is why a member has learned nothing, None where it has.
    """
    found = best_models(run.path / "models")
    if not found:
        return {}
    best = next(iter(found.values()))
    failed = degenerate({label: model.scores for label, model in found.items()}, task, dev)
    for label, reason in failed.items():
        if reason is not None and jax.process_index() == 0:
            warn(f"{label} is degenerate: {reason}")
    scores = [model.score for model in found.values()]
    said: dict[str, Any] = {
        "score": task.score,
        "best": {"member": best.label, "step": best.step, **best.scores, "degenerate": failed[best.label]},
    }
    if len(run.facts["members"]) > 1:
        said["mean"] = statistics.fmean(scores)
        said["std"] = statistics.stdev(scores) if len(scores) > 1 else None
        said["members"] = {
            label: {"step": found[label].step, **found[label].scores, "degenerate": failed[label]}
            for label in run.facts["members"]
            if label in found
        }
    return said


def write_predictions(path: Path, examples: Sequence[Any], predictions: Sequence[Prediction]) -> None:
    """One JSON line per example: what it says, what is right and what was predicted; on the first process only."""
    if jax.process_index() != 0:
        return
    with atomic_writer(path, "w") as file:
        for example, prediction in zip(examples, predictions, strict=True):
            fields = [item.name for item in dataclasses.fields(example) if item.compare]  # not its whole document
            values = {name: getattr(example, name) for name in fields}
            shown = {name: value for name, value in values.items() if value is not None and value != ""}
            file.write(to_json({**shown, "predicted": _plain(prediction)}) + "\n")


def _plain(prediction: Prediction) -> dict[str, Any]:
    return {name: value for name, value in prediction.items() if not isinstance(value, np.ndarray)}
