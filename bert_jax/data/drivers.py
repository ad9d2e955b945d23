"""What turns a feed, a pure function of positions, into an iterator of batches that lie ready.

Two drivers over the same function give the same batches: a plain prefetching thread, and a tf.data pipeline. The global
batch of step s holds positions [s · batch, (s + 1) · batch); each process makes its own equal slice of it and no more,
so the number of processes may change between runs.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import queue
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from bert_jax.data.mixture import AnyFeed, Batch
from bert_jax.data.without_keras import without_keras
from bert_jax.errors import BertJaxError

DRIVERS = ("auto", "thread", "tf")

# Small batches are made several at a time, so that the fixed price of a call (of tf.data: of an element) hardly counts.
_CHUNK_TOKENS = {"thread": 1 << 18, "tf": 1 << 19}
_PREFETCH_TOKENS = 1 << 20
_END = object()


def batches(
    feed: AnyFeed,
    start_step: int,
    steps: int | None,
    batch_size: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
    driver: str = "auto",
    prefetch: int | None = None,
) -> Batches:
    """This process's slices of the global batches of steps [start_step, start_step + steps), or on without end (None).

    `batch_size` is the global batch; process i of n gets its rows [i/n, (i+1)/n), dict of (batch_size / n, …) arrays.
    `driver`: `thread`, `tf` (needs TensorFlow, which is kept off accelerators) or `auto`: `tf` where it is installed.
    `prefetch`: how many batches may lie ready. Call `close()` on the iterator, or drop it, to stop early.
    Errors: `BertJaxError` for sizes that do not divide; whatever the feed raises is raised from the iterator.
    """
    if driver not in DRIVERS:
        raise BertJaxError(f"feed driver {driver!r} is unknown: expected one of {', '.join(DRIVERS)}")
    if batch_size < 1 or batch_size % process_count:
        raise BertJaxError(
            f"batch size {batch_size} cannot be shared equally by {process_count} processes: expected a multiple of it"
        )
    if not 0 <= process_index < process_count:
        raise BertJaxError(f"process index {process_index} of {process_count}: expected 0 to {process_count - 1}")
    if start_step < 0 or (steps is not None and steps < 0):
        raise BertJaxError(f"steps from {start_step}, {steps} of them: expected numbers not below 0")
    if driver == "auto":
        driver = "tf" if importlib.util.find_spec("tensorflow") is not None else "thread"
    own = batch_size // process_count
    chunks = _Chunks(feed, start_step, steps, batch_size, process_index * own, own, _CHUNK_TOKENS[driver])
    ready = prefetch if prefetch is not None else max(2, _PREFETCH_TOKENS // (chunks.own * feed.length))
    ahead = max(1, -(-ready // chunks.steps_each))
    return (_TensorFlowBatches if driver == "tf" else _ThreadBatches)(chunks, ahead)


class _Chunks:
    """The batches of several steps at a time, as one call of the feed."""

    def __init__(
        self, feed: AnyFeed, start: int, steps: int | None, batch_size: int, first: int, own: int, tokens: int
    ):
        self._feed, self._start, self._batch_size, self._first, self.own = feed, start, batch_size, first, own
        self._stop = None if steps is None else start + steps
        self.steps_each = max(1, tokens // (own * feed.length))
        self.count = None if steps is None else -(-steps // self.steps_each)

    def make(self, number: int) -> list[np.ndarray]:
        """Arrays of chunk `number`, in the order of `names`, (steps · own, …)."""
        first = self._start + number * self.steps_each
        last = first + self.steps_each if self._stop is None else min(self._stop, first + self.steps_each)
        starts = np.arange(first, last, dtype=np.int64) * self._batch_size + self._first
        positions = (starts[:, None] + np.arange(self.own)).reshape(-1)
        batch = self._feed.examples(positions)
        self.names = list(batch)
        return list(batch.values())

    def cut(self, arrays: list[np.ndarray]) -> Iterator[Batch]:
        """The single steps of a chunk."""
        for first in range(0, len(arrays[0]), self.own):
            yield {name: array[first : first + self.own] for name, array in zip(self.names, arrays, strict=True)}


class Batches(Iterator[Batch]):
    """Cuts chunks into batches; subclasses say where the next chunk comes from (`StopIteration`: there is none)."""

    def __init__(self, chunks: _Chunks):
        self._chunks = chunks
        self._current: Iterator[Batch] = iter(())
        self._closed = False

    def __next__(self) -> Batch:
        while not self._closed:
            for batch in self._current:
                return batch
            try:
                self._current = self._chunks.cut(self._next_chunk())
            except BaseException:
                self.close()
                raise
        raise StopIteration

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    def _next_chunk(self) -> list[np.ndarray]:
        raise NotImplementedError

    def close(self) -> None:
        """Stop making batches and wait until nothing runs any more."""
        self._closed = True


class _ThreadBatches(Batches):
    """A worker thread that stays `ahead` chunks in front."""

    def __init__(self, chunks: _Chunks, ahead: int):
        super().__init__(chunks)
        self._queue: queue.Queue[Any] = queue.Queue(ahead)
        self._stop = threading.Event()
        # The thread must not refer to this object: dropping the iterator is then enough to end it.
        arguments = (chunks, self._queue, self._stop)
        self._thread = threading.Thread(target=_work, args=arguments, name="bert_jax feed", daemon=True)
        self._thread.start()

    def _next_chunk(self) -> list[np.ndarray]:
        item = self._queue.get()
        if item is _END:
            raise StopIteration
        if isinstance(item, BaseException):
            raise item
        chunk: list[np.ndarray] = item
        return chunk

    def close(self) -> None:
        super().close()
        self._stop.set()
        with contextlib.suppress(queue.Empty):  # a worker that waits for room sees the event after its next put
            while True:
                self._queue.get_nowait()
        if self._thread is not threading.current_thread():
            self._thread.join()


def _work(chunks: _Chunks, results: queue.Queue[Any], stop: threading.Event) -> None:
    def put(item: Any) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                results.put(item, timeout=0.1)
                return

    number = 0
    try:
        while not stop.is_set() and (chunks.count is None or number < chunks.count):
            put(chunks.make(number))
            number += 1
        put(_END)
    except BaseException as error:
        put(error)


class _TensorFlowBatches(Batches):
    """A tf.data pipeline over the same function: a range of chunk numbers, mapped in order, prefetched."""

    def __init__(self, chunks: _Chunks, ahead: int):
        super().__init__(chunks)
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        self._iterator: Iterator[Any] = iter(())
        tf = tensorflow_on_cpu()
        try:
            self._iterator = _dataset(tf, chunks, ahead, self._stop, self._errors).as_numpy_iterator()
        except BertJaxError as error:  # of the feed: it is raised where the other driver raises it
            self._errors.append(error)

    def _next_chunk(self) -> list[np.ndarray]:
        arrays = list(next(self._iterator, ()))
        if arrays and len(arrays[0]):
            return arrays
        if self._errors:
            raise self._errors[0]
        raise StopIteration

    def close(self) -> None:
        super().close()
        self._stop.set()
        self._iterator = iter(())  # dropping tf.data's own ends its threads


def _dataset(tf: Any, chunks: _Chunks, ahead: int, stop: threading.Event, errors: list[BaseException]) -> Any:
    if chunks.count == 0:
        return tf.data.Dataset.range(0)
    first = chunks.make(0)  # its types and shapes are those of all
    types = [tf.as_dtype(array.dtype) for array in first]
    shapes = [(None, *array.shape[1:]) for array in first]

    def make(number: Any) -> list[np.ndarray]:
        # An error is handed over beside the pipeline, which would make another of it, without its message's line.
        if not stop.is_set() and not errors:
            try:
                return first if number == 0 else chunks.make(int(number))
            except BaseException as error:
                errors.append(error)
        return [array[:0] for array in first]

    def in_graph(number: Any) -> Any:
        arrays = tf.numpy_function(make, [number], types, stateful=False)
        for array, shape in zip(arrays, shapes, strict=True):
            array.set_shape(shape)
        return tuple(arrays)

    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = 1
    numbers = tf.data.Dataset.range(np.iinfo(np.int64).max if chunks.count is None else chunks.count)
    return numbers.map(in_graph).prefetch(ahead).with_options(options)


def tensorflow_on_cpu() -> Any:
    """Import TensorFlow without letting it take an accelerator. Errors: `BertJaxError` when it is not installed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        with without_keras():
            import tensorflow as tf
    except ImportError as error:
        raise BertJaxError(
            "TensorFlow is not installed: pip install 'bert-jax[tf]', or use the thread driver (data.driver thread)"
        ) from error
    for kind in ("GPU", "TPU"):
        # Too late only where this process's owner already uses TensorFlow on the device, which is theirs to decide.
        with contextlib.suppress(RuntimeError, ValueError):
            tf.config.set_visible_devices([], kind)
    return tf
