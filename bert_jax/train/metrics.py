"""Metrics of a run, without a host synchronisation per step: kept on the device, fetched once per interval.

`metrics.jsonl` has one line per log interval and one per evaluation. `step` is the number of updates done. After a
kill and a resume each step stands there once, and what is counted (sequences, tokens) is exact: the counters, those of
the interval begun among them, travel in the checkpoint.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax

from bert_jax import files
from bert_jax.console import warn
from bert_jax.train.event_files import EventFile

IN_FLIGHT = 4
"""Steps dispatched ahead of the device, at most."""


class Measures(NamedTuple):
    """What a step measures of what is learned, and what a line says of it.

    `learned`: summed over finite updates only; of a skipped one these say nothing. `means`: keys of a line, each the
    quotient of two such sums, or the mean over the updates where the second is None.
    """

    learned: tuple[str, ...]
    means: Mapping[str, tuple[str, str | None]]


PRETRAINING = Measures(
    ("loss", "mlm_loss", "nsp_loss", "grad_norm", "mlm_correct", "mlm_count", "nsp_correct", "nsp_count"),
    {
        "loss": ("loss", None),
        "mlm_loss": ("mlm_loss", None),
        "mlm_accuracy": ("mlm_correct", "mlm_count"),
        "nsp_loss": ("nsp_loss", None),
        "nsp_accuracy": ("nsp_correct", "nsp_count"),
    },
)

_SEEN = ("sequences", "real_tokens", "real_tokens_squared", "tokens")


@dataclass
class Counters:
    """What the loop counts on the host, saved with every checkpoint as plain JSON."""

    sequences_seen: int = 0
    real_tokens_seen: int = 0
    elapsed_seconds: float = 0.0
    skipped: int = 0
    """Non-finite updates skipped in total."""
    skipped_in_a_row: int = 0
    save_failures: int = 0
    warned_chance: bool = False
    """Whether the run was judged against chance, whatever came out."""
    judged_from: float | None = None
    """The masked LM loss that the next judgement is compared with, None while there is none."""
    judge_at: int = 0
    """Not before this step, when the run was still improving at the last judgement."""
    owes_evaluation: bool = False
    """Whether the evaluation of this step was broken off by a signal: it is made first when the run goes on."""
    interval: dict[str, float] = field(default_factory=dict)
    """Sums over the steps since the last line."""
    interval_updates: int = 0
    """Finite updates among those steps."""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Counters:
        """Inverse of `to_dict`; unknown names are ignored."""
        known = {item.name for item in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


class Row(NamedTuple):
    """Non-finite updates in a row: how many, and their first and last step (counted from 0)."""

    length: int
    first: int
    last: int


class Meter:
    """Takes each step's metrics as device scalars and makes a line of them at the end of an interval.

    `flops(sums) -> float`: model FLOPs of the work in `sums`; `peak_flops`: per second, of all devices together.
    """

    def __init__(
        self,
        counters: Counters,
        flops: Callable[[Mapping[str, float]], float] | None = None,
        peak_flops: float | None = None,
        measures: Measures = PRETRAINING,
    ):
        self.counters, self._measures = counters, measures
        self._longest_row: Row | None = None
        self._flops, self._peak_flops = flops, peak_flops
        self._pending: list[tuple[int, Mapping[str, jax.Array], bool]] = []
        self._in_flight: collections.deque[jax.Array] = collections.deque()
        self._last: dict[str, float] = {}
        self._timed: dict[str, float] = {}
        self._began = self._clock = time.monotonic()
        self._before = counters.elapsed_seconds

    def add(self, step: int, metrics: Mapping[str, jax.Array], timed: bool = True) -> None:
        """Note the metrics of step `step` (counted from 0). Untimed steps (compilation) count in no speed."""
        self._pending.append((step, metrics, timed))
        self._in_flight.append(metrics["loss"])
        if len(self._in_flight) > IN_FLIGHT:
            self._in_flight.popleft().block_until_ready()  # bounds how far the host runs ahead, fetches nothing

    def fetch(self) -> None:
        """Bring what is pending to the host and add it up, step by step: sums do not depend on when this is called."""
        pending, self._pending = self._pending, []
        self._in_flight.clear()
        fetched = jax.device_get([metrics for _, metrics, _ in pending])
        for (step, _, timed), metrics in zip(pending, fetched, strict=True):
            self._add_up(step, {name: value.item() for name, value in metrics.items()}, timed)
        self.counters.elapsed_seconds = self._before + time.monotonic() - self._began

    def _add_up(self, step: int, metrics: dict[str, float], timed: bool) -> None:
        counters = self.counters
        finite = not metrics["nonfinite"]
        counters.sequences_seen += int(metrics["sequences"])
        counters.real_tokens_seen += int(metrics["real_tokens"])
        if finite:
            counters.skipped_in_a_row = 0
            counters.interval_updates += 1
        else:
            counters.skipped += 1
            counters.skipped_in_a_row += 1
            row = Row(counters.skipped_in_a_row, step - counters.skipped_in_a_row + 1, step)
            self._longest_row = max(row, self._longest_row or row)
        for name in (*self._measures.learned, *_SEEN) if finite else _SEEN:
            counters.interval[name] = counters.interval.get(name, 0.0) + metrics.get(name, 0.0)
        if timed:
            for name in (*_SEEN, "mlm_count"):
                self._timed[name] = self._timed.get(name, 0.0) + metrics.get(name, 0.0)
        self._last = metrics

    def take_longest_row(self) -> Row | None:
        """The longest row of non-finite updates since this was last asked, None when there was none."""
        row, self._longest_row = self._longest_row, None
        return row

    @contextmanager
    def stopped_clock(self) -> Iterator[None]:
        """Time spent inside (evaluation, saving, compilation) counts in no speed."""
        self.fetch()
        began = time.monotonic()
        try:
            yield
        finally:
            self._clock += time.monotonic() - began

    def line(self, step: int) -> dict[str, Any]:
        """The line of the interval that ends after `step` updates; a new interval begins."""
        self.fetch()
        counters, sums, updates = self.counters, self.counters.interval, self.counters.interval_updates
        seconds = time.monotonic() - self._clock
        timed = self._timed
        speed = 1 / seconds if timed and seconds > 0 else math.nan
        mfu = None
        if self._flops is not None and self._peak_flops and timed:
            mfu = self._flops(timed) * speed / self._peak_flops
        line = {
            "step": step,
            "time": time.time(),
            "elapsed_seconds": round(counters.elapsed_seconds, 3),
            **{
                key: _ratio(sums.get(part), updates if whole is None else sums.get(whole))
                for key, (part, whole) in self._measures.means.items()
            },
            "learning_rate": self._last.get("learning_rate"),
            "grad_norm": _ratio(sums.get("grad_norm"), updates),
            "param_norm": self._last.get("param_norm"),
            "sequences_seen": counters.sequences_seen,
            "real_tokens_seen": counters.real_tokens_seen,
            "sequences_per_second": timed.get("sequences", math.nan) * speed,
            "real_tokens_per_second": timed.get("real_tokens", math.nan) * speed,
            "padding_share": 1 - (_ratio(sums.get("real_tokens"), sums.get("tokens")) or math.nan),
            "mfu": mfu,
            "skipped": counters.skipped,
            "save_failures": counters.save_failures,
        }
        counters.interval, counters.interval_updates = {}, 0
        self._timed, self._clock = {}, time.monotonic()
        return files.finite(line)


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


class MetricsWriter:
    """Writes lines to `metrics.jsonl` and TensorBoard; on the first process only.

    A disk that is full costs lines, with one warning, not the training. `owed`: the evaluation at `restored_step` is
    made once more, and a line that there may be of it is dropped like those of later steps.
    """

    def __init__(self, path: Path, tensorboard: Path | None, restored_step: int, owed: bool = False):
        self._path, self._warned = path, False
        self._events: EventFile | None = None
        self.active = jax.process_index() == 0
        if not self.active:
            return
        truncate(path, restored_step, owed)
        if tensorboard is not None:
            with files.clear_errors("write", tensorboard):
                self._events = EventFile(tensorboard, restored_step + 1)  # 1 as well: a start may have saved nothing

    def write(self, line: Mapping[str, Any]) -> None:
        """Add one line; its numbers also go to TensorBoard at its `step`."""
        if not self.active:
            return
        try:
            files.append_line(self._path, files.to_json(line))
            if self._events is not None:
                numbers = {_tag(name): value for name, value in line.items() if isinstance(value, int | float)}
                self._events.write(line["step"], {tag: numbers[tag] for tag in numbers if tag not in _NOT_DRAWN})
        except OSError as error:
            if not self._warned:
                warn(f"cannot write {self._path}: {error.strerror}; training goes on, lines are missing there")
            self._warned = True

    def close(self) -> None:
        """Finish the event file."""
        if self._events is not None:
            self._events.close()


_NOT_DRAWN = ("train/step", "train/time")


def _tag(name: str) -> str:
    return f"eval/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a `metrics.jsonl`; a torn one is left out."""
    if not path.is_file():
        return []
    with files.clear_errors("read", path):
        text = path.read_text(encoding="utf-8", errors="replace")
    lines = []
    for line in text.splitlines():
        with suppress(ValueError):
            value = files.parse_json(line)
            if isinstance(value, dict) and isinstance(value.get("step"), int):
                lines.append(value)
    return lines


def truncate(path: Path, step: int, owed: bool = False) -> None:
    """Drop lines after `step` updates, and torn ones, in one atomic replacement; nothing is done when none is.

    `owed`: evaluations at `step` too.
    """
    if not path.is_file():
        return

    def stays(line: Mapping[str, Any]) -> bool:
        evaluated = any(name.startswith("eval_") for name in line)
        return line["step"] < step or (line["step"] == step and not (owed and evaluated))

    kept = "".join(files.to_json(line) + "\n" for line in read_metrics(path) if stays(line))
    with files.clear_errors("read", path):
        unchanged = path.read_bytes() == kept.encode()
    if not unchanged:
        files.write_text(path, kept)
