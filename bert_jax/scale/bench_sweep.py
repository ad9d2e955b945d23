"""`bench sweep`: one workload over every combination of settings, as rows and as a picture."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bert_jax.console import log
from bert_jax.errors import UsageError
from bert_jax.figure_file import write_figure
from bert_jax.scale.bench_apart import measure_apart
from bert_jax.scale.bench_record import machine

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DRAWN = ("mfu", "real_tokens_per_second")
"""What the picture shows: the first that any row has."""


def bench_sweep(
    *, config: str | None = None, vary: Sequence[str] = (), out: str | None = None, steps: int = 10, warmup: int = 2
) -> dict[str, Any]:
    """Time the train step of `config` with every combination of what is varied → `rows`, one record each.

    vary: NAME=VALUE,VALUE,… of an option of `bench train`: batch, length, predictions, packing, attention, dtype,
    dropout, accumulation, remat, attention_dropout, mesh. Each point has a process of its own; one that fails, as when
    memory is short, is a row with `error`. out: a PNG of speed over the first varied option, a line for each
    combination of the others.
    Errors: `UsageError` for an option that is none, or nothing to vary.
    """
    varied = _varied(vary)
    if out is not None:
        import matplotlib  # noqa: F401 - said before the work, not after it
    rows = []
    for values in itertools.product(*varied.values()):
        point = dict(zip(varied, values, strict=True))
        log(" ".join(f"{name}={value}" for name, value in point.items()))
        options = [word for name, value in point.items() for word in (f"--{name.replace('_', '-')}", value)]
        counts = ["--steps", str(steps), "--warmup", str(warmup)]
        measured = measure_apart(["train", *([config] if config else []), *counts, *options])
        rows.append({"name": " ".join(f"{name}={value}" for name, value in point.items()), "point": point, **measured})
    if out is not None:
        write_figure(lambda: draw(rows, list(varied)), Path(out))
    return {"bench": "sweep", "model": config, **machine(), "rows": rows, "out": out}


def _varied(vary: Sequence[str]) -> dict[str, list[str]]:
    from bert_jax.scale.bench_train import bench_train

    known = [name for name in inspect.signature(bench_train).parameters if name not in ("config", "steps", "warmup")]
    found: dict[str, list[str]] = {}
    for item in vary:
        name, _, values = item.partition("=")
        listed = [value for value in values.split(",") if value]
        if name not in known or not listed:
            raise UsageError(f"--vary {item}: expected NAME=VALUE,VALUE,… with a name of {', '.join(known)}")
        found[name] = listed
    if not found:
        raise UsageError("bench sweep has nothing to vary: give --vary batch=8,16,32 (and --vary length=128,512, …)")
    return found


def draw(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Figure:
    """Speed over the first of `names`; the points that failed are left out."""
    from matplotlib.figure import Figure

    shown = next((key for key in DRAWN if any(row.get(key) is not None for row in rows)), DRAWN[-1])
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    lines: dict[str, list[tuple[str, float]]] = {}
    for row in rows:
        if row.get(shown) is not None:
            rest = " ".join(f"{name}={row['point'][name]}" for name in names[1:])
            lines.setdefault(rest, []).append((row["point"][names[0]], row[shown]))
    places = list(dict.fromkeys(row["point"][names[0]] for row in rows))
    for label, points in lines.items():
        axes.plot([places.index(value) for value, _ in points], [y for _, y in points], marker="o", label=label)
    axes.set_xticks(range(len(places)), places)
    axes.set_xlabel(names[0])
    axes.set_ylabel({"mfu": "share of the peak (real tokens)"}.get(shown, "real tokens per second"))
    axes.set_ylim(bottom=0)
    if any(lines):
        axes.legend()
    return figure
