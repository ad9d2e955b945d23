"""Predictions for many examples at once: what is scored on a dev set, and written for a test set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from bert_jax.tasks.batches import HostBatch, Part, make_batch, make_packed_batch, packed_parts
from bert_jax.tasks.task import Form, Prediction, Row
from bert_jax.train.signals import interrupt_if_asked


class PredictionRows:
    """The rows of examples that are predicted again and again, in batches of like length, or packed.

    `packing`: the most examples in a row; with more than one they share rows of the last of `buckets`.
    """

    def __init__(
        self,
        examples: Sequence[Any],
        rows: Sequence[Sequence[Row]],
        form: Form,
        buckets: Sequence[int],
        packing: int = 1,
    ):
        self.examples, self._form, self._buckets, self._packing = list(examples), form, tuple(buckets), packing
        self._rows = [row for own in rows for row in own]
        self._of_example = np.cumsum([0, *(len(own) for own in rows)])
        self._sequences = max((len(row.ids) for row in self._rows), default=1)

    def _batches(self, batch: int) -> Iterator[tuple[Part, HostBatch]]:
        if self._packing > 1:
            lengths = [row.length for row in self._rows]
            for part in packed_parts(lengths, self._buckets[-1], batch, self._packing):
                yield part, make_packed_batch(self._rows, part, self._form)
        else:
            for part in self._parts(batch):
                yield part, make_batch(self._rows, part, batch, self._sequences, self._form)

    def _parts(self, batch: int) -> Iterator[Part]:
        lengths = np.asarray([row.length for row in self._rows])
        order = np.argsort(-lengths, kind="stable")
        for first in range(0, len(order), batch):
            members = order[first : first + batch]
            longest = int(lengths[members[0]])
            yield Part(next(size for size in self._buckets if size >= longest), members)

    def predictions(
        self, step: Callable[[Mapping[str, np.ndarray]], Mapping[str, jax.Array]], batch: int, members: int = 1
    ) -> list[list[Prediction]]:
        """The predictions of each of `members` runs for all examples, in their order.

        `step(batch)` gives what the form predicts from, with a leading axis where there are several runs. `batch`:
        rows. No more than three batches are on the device at a time. Errors: `Interrupted` when the training that it is
        a part of was asked to stop.
        """
        outputs: list[list[Mapping[str, np.ndarray]]] = [[{}] * len(self._rows) for _ in range(members)]
        waiting: list[tuple[Part, Mapping[str, jax.Array]]] = []

        def fetch() -> None:
            part, computed = waiting.pop(0)
            arrays = jax.device_get(dict(computed))
            for run in range(members):
                own = {name: array[run] for name, array in arrays.items()} if members > 1 else arrays
                for place, row in enumerate(part.rows.reshape(-1).tolist()):
                    if row < 0:  # an unused place
                        continue
                    outputs[run][row] = {name: array[place] for name, array in own.items()}

        for part, arrays in self._batches(batch):
            interrupt_if_asked()
            waiting.append((part, step(arrays)))
            if len(waiting) > 2:
                fetch()
        while waiting:
            fetch()
        return [[self._decoded(run, index) for index in range(len(self.examples))] for run in outputs]

    def _decoded(self, outputs: Sequence[Mapping[str, np.ndarray]], index: int) -> Prediction:
        own = slice(self._of_example[index], self._of_example[index + 1])
        return self._form.decode(self.examples[index], self._rows[own], outputs[own])
