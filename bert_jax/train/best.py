"""The best parameters of each fine-tuning run, by its score on held-out examples, and when to stop for want of better.

`RUN/models/LABEL.safetensors` holds one run's best parameters by path, float32, with step, scores and a digest of its
own. Which step was best, and whether a run has ended, is a function of the evaluations in `metrics.jsonl` alone: so a
run that is killed and goes on comes to the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from bert_jax.errors import BertJaxError
from bert_jax.files import atomic_writer, clear_errors, parse_json
from bert_jax.model.parameters import flatten, unflatten
from bert_jax.train.metrics import read_metrics
from bert_jax.train.supervised import Member

SUFFIX = ".safetensors"


@dataclass
class Course:
    """How one run has done so far."""

    best: float | None = None
    step: int = 0
    since: int = 0
    """Evaluations since the best one."""
    scores: dict[str, Any] = field(default_factory=dict)


class Best:
    """Keeps the best parameters of runs side by side; a `loop.Judge`.

    `score` is the name of the metric, greater is better; `patience` how many evaluations without a better one end a
    run (None: none do). Runs that have ended keep what they have while the others go on.
    """

    def __init__(self, folder: Path, metrics: Path, members: Sequence[Member], score: str, patience: int | None):
        self._folder, self._metrics, self._members = folder, metrics, tuple(members)
        self._score, self._patience = score, patience
        self.courses = {member.label: Course() for member in members}

    def ended(self, step: int) -> bool:
        """Whether all runs had ended at `step`, by the evaluations up to there."""
        self.courses = {member.label: Course() for member in self._members}
        for line in read_metrics(self._metrics):
            if line["step"] <= step and f"eval_{self._score}" in line:
                self._take(line)
        return self._all_ended()

    def evaluated(self, line: Mapping[str, Any], params: Any) -> bool:
        """Keep the parameters of the runs that are better than before. Whether all runs have ended.

        Errors: `BertJaxError` when the score is not defined for any run.
        """
        if all(self._score_of(line, label) is None for label in self.courses):
            raise BertJaxError(
                f"{self._score} is not defined on the dev set at step {line['step']}, so it cannot choose the best: "
                "the dev set may have one class only, or the outputs are not finite (lower optimizer.learning_rate)"
            )
        labels = list(self.courses)
        for label in self._take(line):
            own = _one_of(params, labels.index(label)) if len(labels) > 1 else params
            write_best(self._folder, label, _on_host(own), self.courses[label])
        return self._all_ended()

    def _score_of(self, line: Mapping[str, Any], label: str) -> float | None:
        """One run's score in a line, which has them by name where there are several."""
        return line.get(f"eval_{self._score}_{label}" if len(self._members) > 1 else f"eval_{self._score}")

    def _ended(self, course: Course) -> bool:
        return self._patience is not None and course.since >= self._patience

    def _all_ended(self) -> bool:
        return all(map(self._ended, self.courses.values()))

    def _take(self, line: Mapping[str, Any]) -> list[str]:
        """Note one evaluation; the runs that it is the best of."""
        better = []
        for label, course in self.courses.items():
            if self._ended(course):
                continue
            score = self._score_of(line, label)
            if score is not None and (course.best is None or score > course.best):
                course.best, course.step, course.since = score, line["step"], 0
                course.scores = _scores_of(line, label if len(self._members) > 1 else None)
                better.append(label)
            else:
                course.since += 1
        return better


def _scores_of(line: Mapping[str, Any], label: str | None) -> dict[str, Any]:
    """The scores of one run in a line of metrics, by their plain names."""
    found = {name.removeprefix("eval_"): value for name, value in line.items() if name.startswith("eval_")}
    if label is None:
        return found
    return {name.removesuffix(f"_{label}"): value for name, value in found.items() if name.endswith(f"_{label}")}


def _one_of(params: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], params)


def _on_host(params: Any) -> dict[str, np.ndarray]:
    """Parameters by path as host arrays; every process takes part."""
    leaves = flatten(params)
    if jax.process_count() == 1:
        return {path: np.asarray(leaf, np.float32) for path, leaf in leaves.items()}
    from jax.experimental import multihost_utils

    gathered = {path: multihost_utils.process_allgather(leaf, tiled=True) for path, leaf in leaves.items()}
    return {path: np.asarray(leaf, np.float32) for path, leaf in gathered.items()}


class BestModel(NamedTuple):
    """What is known of one run's best parameters without reading them."""

    label: str
    step: int
    score: float
    scores: dict[str, Any]


def write_best(folder: Path, label: str, leaves: Mapping[str, np.ndarray], course: Course) -> None:
    """Write `LABEL.safetensors`, in place of what it held before; on the first process only."""
    from safetensors.numpy import save

    if jax.process_index() != 0:
        return
    arrays = {path: np.ascontiguousarray(leaf) for path, leaf in leaves.items()}
    metadata = {
        "step": str(course.step),
        "score": json.dumps(course.best),
        "scores": json.dumps(course.scores),
        "sha256": _digest(arrays),
    }
    with atomic_writer(folder / f"{label}{SUFFIX}") as file:
        file.write(save(arrays, metadata=metadata))


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    total = hashlib.sha256()
    for path in sorted(arrays):
        total.update(f"{path} {arrays[path].shape} {arrays[path].dtype}\n".encode())
        total.update(np.ascontiguousarray(arrays[path]).reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def best_models(folder: Path) -> dict[str, BestModel]:
    """The runs whose best parameters lie in `folder`, the best first."""
    found = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        metadata = _metadata(path)
        try:
            step, score, scores = (parse_json(metadata[name]) for name in ("step", "score", "scores"))
        except ValueError as error:
            raise BertJaxError(f"{path} is damaged ({error}): train again, or restore it from a copy") from error
        if type(step) is not int or not isinstance(score, int | float) or not isinstance(scores, dict):
            raise BertJaxError(f"{path} is damaged (step {step!r}, score {score!r}): train again, or restore a copy")
        found.append(BestModel(path.name.removesuffix(SUFFIX), step, score, scores))
    return {model.label: model for model in sorted(found, key=lambda model: -model.score)}


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    try:
        with clear_errors("read", path), safe_open(path, framework="np") as file:
            metadata: dict[str, str] = file.metadata() or {}
        return {name: metadata[name] for name in ("step", "score", "scores", "sha256")}
    except (SafetensorError, KeyError) as error:
        raise BertJaxError(f"{path} is damaged ({error}): train again, or restore it from a copy") from error


def read_best(folder: Path, label: str) -> dict[str, Any]:
    """One run's best parameters as a nested dict. Errors: `BertJaxError` when they are not as they were written."""
    from safetensors.numpy import load_file

    path = folder / f"{label}{SUFFIX}"
    written = _metadata(path)["sha256"]
    arrays = load_file(path)
    if _digest(arrays) != written:
        raise BertJaxError(f"{path} is damaged: its bits are not those written; train again, or restore it from a copy")
    return unflatten(arrays)
