"""Ends a training in which nothing moves any more: stacks on stderr, exit 76, nothing saved.

A lost peer is noticed by the heartbeat of `jax.distributed`. A device or a collective that hangs while all processes
live is not: the main thread waits for ever. Hence a thread that looks at the time of the last step.

Compilation, evaluation and saving take as long as they take: for the start up to the end of the first step, and
whatever is announced by `longer`, the limit is `PATIENCE` times as large.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from bert_jax.errors import EXIT_PEER_LOST

PATIENCE = 4
"""How many times longer than a step the start, an evaluation or a save may take."""


class Watchdog:
    """Knows since when nothing has moved. `seconds`: the limit for a step."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._still, self._at, self._doing, self._factor = 0.0, 0, "starting", PATIENCE
        self._ended = threading.Event()

    def step(self, step: int) -> None:
        """`step` updates are done (dispatched; the loop runs a few ahead of the device at most)."""
        self._still, self._at, self._doing, self._factor = 0.0, step, "training", 1

    @contextmanager
    def longer(self, doing: str) -> Iterator[None]:
        """What is done inside may take `PATIENCE` times as long as a step."""
        before = self._doing, self._factor
        self._still, self._doing, self._factor = 0.0, doing, PATIENCE
        try:
            yield
        finally:
            self._still, (self._doing, self._factor) = 0.0, before

    def watch(self) -> None:
        """The thread: sleeps, looks, and ends the process."""
        tick = min(1.0, self.seconds / 10)
        last = time.monotonic()
        while not self._ended.wait(tick):
            now = time.monotonic()
            # A process that was itself stopped for a while (^Z, a debugger, a suspended machine) has lost nothing.
            self._still += min(now - last, 2 * tick)
            last = now
            if self._still > self._factor * self.seconds:
                self._end()
                return

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()

    def _end(self) -> None:
        stderr = sys.__stderr__ or sys.stderr
        with suppress(Exception):  # a stream without a file behind it
            faulthandler.dump_traceback(stderr, all_threads=True)
        interactive = "ipykernel" in sys.modules or hasattr(sys, "ps1")
        does = "interrupt it" if interactive else f"exit {EXIT_PEER_LOST}, nothing saved; start again"
        print(
            f"error: nothing moved for {self._still:.0f} s after step {self._at} ({self._doing}); the stacks of all "
            f"threads are above; {does} (log.watchdog_seconds {self.seconds:g})",
            file=stderr,
            flush=True,
        )
        if not interactive:  # a notebook's other work is not ended
            os._exit(EXIT_PEER_LOST)


@contextmanager
def watchdog(seconds: float | None) -> Iterator[Watchdog]:
    """A watchdog that looks on during the block; with None it never does."""
    watch = Watchdog(seconds or 0.0)
    thread = None
    if seconds is not None:
        thread = threading.Thread(target=watch.watch, name="watchdog", daemon=True)
        thread.start()
    try:
        yield watch
    finally:
        watch.stop()
        if thread is not None:
            thread.join()
