"""Stopping when asked to: a signal sets a flag that the loop reads once per step."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import jax


class StopRequest:
    """Whether this training was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: str | None = None

    def reached(self, step: int) -> bool:
        """Whether to stop before step `step`; with several processes all of them agree on the step.

        One process reads its own flag. Several use the coordination service of `jax.distributed`, which passes a
        SIGTERM of any process on to all and names the step, without a collective per step.
        """
        if jax.process_count() == 1:
            return self.signal is not None
        from jax.experimental import multihost_utils

        if multihost_utils.reached_preemption_sync_point(step):
            self.signal = self.signal or "SIGTERM"
            return True
        return False


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Catch SIGTERM and SIGINT inside the block, in the main thread; the handlers before it are put back.

    A second interrupt is not waited for: it raises `KeyboardInterrupt` at once.
    """
    stop = StopRequest()
    several = jax.process_count() > 1
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        # Nothing is printed here: the handler may run in the middle of another print.
        stop.signal = signal.Signals(number).name
        if several:
            os.kill(os.getpid(), signal.SIGTERM)  # what the coordination service listens to

    # With several processes SIGTERM belongs to the coordination service.
    caught = (signal.SIGINT,) if several else (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, on_signal) for number in caught}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
