"""Stopping when asked to: a signal sets a flag that the loop reads once per step, and an evaluation once per batch."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType

import jax


class StopRequest:
    """Whether this training was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: str | None = None
        self._asked = 0

    def reached(self) -> bool:
        """Whether to stop now; several processes ask the same number of times, and agree on the time.

        One process reads its own flag. Several use the coordination service of `jax.distributed`, which passes a
        SIGTERM of any process on to all and names the time, without a collective each time.
        """
        self._asked += 1
        if jax.process_count() == 1:
            return self.signal is not None
        from jax.experimental import multihost_utils

        if multihost_utils.reached_preemption_sync_point(self._asked):
            self.signal = self.signal or "SIGTERM"
            return True
        return False


class Interrupted(Exception):
    """Asked to stop in the middle of what can be done again."""


_current: ContextVar[StopRequest | None] = ContextVar("stop_request", default=None)


def interrupt_if_asked() -> None:
    """Raise `Interrupted` when the training that this is a part of was asked to stop; elsewhere nothing."""
    stop = _current.get()
    if stop is not None and stop.reached():
        raise Interrupted


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Catch SIGTERM and SIGINT inside the block, in the main thread; the handlers before it are put back.

    A second interrupt is not waited for: it raises `KeyboardInterrupt` at once.
    """
    stop = StopRequest()
    before = _current.set(stop)
    try:
        with _caught(stop):
            yield stop
    finally:
        _current.reset(before)


@contextmanager
def _caught(stop: StopRequest) -> Iterator[None]:
    several = jax.process_count() > 1
    if threading.current_thread() is not threading.main_thread():
        yield
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
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
