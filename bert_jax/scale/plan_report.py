"""A plan as a person reads it: lines of text for stderr."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from bert_jax.console import clock
from bert_jax.scale.plan_stop import stop_report
from bert_jax.scale.topologies import GIB


def phase_report(found: dict[str, Any]) -> list[str]:
    """A small table of one phase, and its notes."""
    kinds, seconds = found["hbm_bytes_by_kind"], found["bound_seconds"]
    memory = f"{found['hbm_bytes'] / GIB:.2f} of {found['hbm_limit_bytes'] / GIB:.2f} GiB"
    measured = "seen to fit" if found["max_batch_source"] == "compiled" else "by estimate"
    mesh = ", ".join(f"{axis} {size}" for axis, size in found["mesh"].items() if size > 1) or "one device"
    rows = [
        ("fits" if found["fits"] else "DOES NOT FIT", memory),
        ("  of it", ", ".join(f"{name.replace('_', ' ')} {size / GIB:.2f}" for name, size in kinds.items() if size)),
        ("sequences per chip", f"{found['batch_per_chip']}; at most {found['max_batch_per_chip']} ({measured})"),
        ("attention", f"{found['attention_engine']} ({found['attention_reason']})"),
        ("FLOPs per step", f"{found['flops_per_step']:.3g}"),
        ("sent per chip", sent(found["collective_bytes"])),
        (
            "at least",
            f"{milliseconds(found['step_seconds_bound'])} per step, bound by {found['bound']} ("
            + ", ".join(f"{name} {milliseconds(value)}" for name, value in seconds.items())
            + ")",
        ),
        ("at most", f"{found['sequences_per_second_bound']:,.0f} sequences/s, MFU {found['mfu_bound']:.2f}"),
    ]
    if found["compile_seconds"]:
        rows.append(("compiled in", clock(found["compile_seconds"])))
    title = f"phase {found['phase']}: {found['batch']:,} × {found['length']}, {mesh}, {found['dtype']}"
    return [title, *_table(rows), *(f"  - {note}" for note in found["notes"])]


def run_report(result: dict[str, Any], price: float | None) -> list[str]:
    """The last lines: the whole run."""
    lines = []
    if result["days_bound"] is not None:
        cost = "" if price is None else f", {result['cost_bound']:,.0f} at {price:g} per chip-hour"
        lines.append(f"the whole run, {result['steps']:,} steps: at least {result['days_bound']:.2f} days{cost}")
    lines.append(stop_report(result))
    if not result["fits"]:
        lines.append("it does not fit: see above what to change")
    return lines


def scaling_report(plans: list[dict[str, Any]]) -> list[str]:
    """A line for each phase on each topology: the bytes a chip sends should not grow with the number of chips."""
    rows = [("topology", "phase", "chips", "sequences per chip", "sent per chip", "GiB", "at least", "bound by")]
    for found in plans:
        for phase in found["phases"]:
            size = sum(size for axes in phase["collective_bytes"].values() for size in axes.values())
            memory = f"{phase['hbm_bytes'] / GIB:.2f}{'' if phase['fits'] else ' (does not fit)'}"
            numbers = (phase["phase"], found["chips"], phase["batch_per_chip"])
            least = milliseconds(phase["step_seconds_bound"])
            rows.append((found["topology"], *map(str, numbers), f"{size / 1e6:,.1f} MB", memory, least, phase["bound"]))
    return columns(rows)


def sent(collective_bytes: Mapping[str, Mapping[str, float]]) -> str:
    """{kind: {mesh axis: bytes}} in words."""
    sizes = ((f"{kind} over {axis}", size) for kind, axes in collective_bytes.items() for axis, size in axes.items())
    return ", ".join(f"{name} {size / 1e6:,.1f} MB" for name, size in sizes) or "nothing"


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells that stand under each other, two blanks between them."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def milliseconds(seconds: float) -> str:
    """Seconds as milliseconds, three figures."""
    return f"{seconds * 1e3:.3g} ms"


def _table(rows: list[tuple[str, str]]) -> list[str]:
    """Two columns, wrapped by rich to the width of a page."""
    from rich.console import Console
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, value in rows:
        table.add_row(f"  {name}", value)
    text = io.StringIO()
    Console(file=text, width=118, markup=False, highlight=False).print(table)
    return [line.rstrip() for line in text.getvalue().splitlines()]
