"""A jax trace of a few steps, to be looked at in TensorBoard or Perfetto."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from bert_jax.console import clock, log


@contextmanager
def trace(directory: Path, steps: tuple[int, int] | None) -> Iterator[Callable[[int], None]]:
    """Yields `at(i)`, to be called before the i-th step of this process: begins and ends the trace.

    The host runs a few steps ahead of the device, so the trace also shows a few steps besides.
    """
    began: float | None = None

    def end() -> None:
        nonlocal began
        if began is not None:
            jax.profiler.stop_trace()
            log(f"wrote a trace of {clock(time.monotonic() - began)} under {directory}")
            began = None

    def at(index: int) -> None:
        nonlocal began
        if steps is None or jax.process_index() != 0:
            return
        if index == steps[0]:
            jax.profiler.start_trace(str(directory))
            began = time.monotonic()
        elif index == steps[1]:
            end()

    try:
        yield at
    finally:
        end()
