"""`bench suite`: six named workloads that stay what they are, so that figures of two machines or commits compare."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from bert_jax.console import log
from bert_jax.errors import UsageError
from bert_jax.scale.bench_apart import measure_apart
from bert_jax.scale.bench_record import machine

VERSION = 1
"""Raised when a workload changes: rows of different versions do not compare."""


class Named(NamedTuple):
    """A workload: arguments of `bench`, and what is added on an accelerator and on a CPU, where steps take seconds."""

    arguments: tuple[str, ...]
    accelerator: tuple[str, ...] = ()
    cpu: tuple[str, ...] = ()


_FEW = ("--steps", "4", "--warmup", "1")
_PACKED = ("--length", "512", "--predictions", "77", "--packing", "8")
SUITE: dict[str, Named] = {
    "base_128": Named(
        ("train", "base", "--length", "128", "--predictions", "20"), ("--batch", "256"), ("--batch", "8", *_FEW)
    ),
    "base_512_packed": Named(("train", "base", *_PACKED), ("--batch", "64"), ("--batch", "2", *_FEW)),
    "large_512_packed": Named(("train", "large", *_PACKED), ("--batch", "32"), ("--batch", "1", *_FEW)),
    "embed_1x32": Named(("predict", "base", "--texts", "32", "--requests", "32", "--length", "32")),
    "embed_256": Named(("predict", "base", "--texts", "256", "--requests", "8")),
    "prepare": Named(("prepare",)),
}


def bench_suite(*, only: Sequence[str] = ()) -> dict[str, Any]:
    """Run the workloads (or those named in `only`) one after the other → `rows`, one record each under its `name`.

    Batches are those of the device found: a CPU is given a few sequences and steps. A workload that fails is a row
    with `error`. Errors: `UsageError` for a name that is none of `SUITE`.
    """
    if unknown := [name for name in only if name not in SUITE]:
        raise UsageError(f"no workload {', '.join(unknown)}: expected some of {', '.join(SUITE)}")
    platform = _platform()
    rows = []
    begun = time.perf_counter()
    for name, workload in SUITE.items():
        if not only or name in only:
            log(f"{name}: {' '.join(workload.arguments)}")
            further = workload.cpu if platform == "cpu" else workload.accelerator
            rows.append({"name": name, **measure_apart([*workload.arguments, *further])})
    seconds = time.perf_counter() - begun
    return {"bench": "suite", "suite": VERSION, **machine(), "seconds": seconds, "rows": rows}


def _platform() -> str:
    """Of the device that the workloads will find; asked in a process of its own, since a TPU has one owner."""
    command = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    return result.stdout.strip() or "cpu"
