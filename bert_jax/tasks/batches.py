"""Rows of tokens → batches of few static shapes: examples of like length together, each once per epoch.

Which length each batch of an epoch has follows from the rows and the settings alone; which examples are in it, from the
run's seed: so runs of several seeds can be computed side by side, batch by batch, and one alone sees the same.
A batch is a pure function of (rows, settings, seed, step); nothing is saved to resume.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bert_jax.data.permutation import permute
from bert_jax.tasks.task import Form, Row

HostBatch = dict[str, np.ndarray]


def bucket_lengths(buckets: Sequence[int], length: int) -> tuple[int, ...]:
    """The row lengths in use, ascending; the last is `length` itself."""
    return (*sorted({size for size in buckets if size < length}), length)


class Part(NamedTuple):
    """One batch: the length of its rows, and which rows are in it."""

    length: int
    rows: np.ndarray


class Epochs:
    """The batches of every epoch of one run.

    Within a length rows are permuted by (seed, epoch). What does not fill a batch goes on to the next greater length,
    where padding costs it least; only the last batch of the greatest length may be partly filled. The batches of an
    epoch come in an order drawn from the epoch alone.
    """

    def __init__(self, row_lengths: Sequence[int], buckets: Sequence[int], batch: int):
        self.batch = batch
        lengths = np.asarray(row_lengths, np.int64)
        places = np.searchsorted(np.asarray(buckets), lengths)
        self._groups = [(size, np.flatnonzero(places == index)) for index, size in enumerate(buckets)]
        parts = self._cut([rows for _, rows in self._groups])
        self.steps_per_epoch = len(parts)
        self.padding_share = 1 - float(lengths.sum()) / sum(part.length * batch for part in parts)

    def _cut(self, groups: Sequence[np.ndarray]) -> list[Part]:
        """Batches of rows given group by group, in their order."""
        parts: list[Part] = []
        carry = np.zeros(0, np.int64)
        for (length, _), rows in zip(self._groups, groups, strict=True):
            pool = np.concatenate([carry, rows])
            full = len(pool) - len(pool) % self.batch
            parts += [Part(length, pool[first : first + self.batch]) for first in range(0, full, self.batch)]
            carry = pool[full:]
        if len(carry):
            parts.append(Part(self._groups[-1][0], carry))
        return parts

    def of(self, epoch: int, seed: int) -> list[Part]:
        """The batches of one epoch of the run with `seed`, in the order in which it trains on them."""
        groups = [
            rows[permute(np.arange(len(rows)), len(rows), seed, epoch, "examples", index)] if len(rows) else rows
            for index, (_, rows) in enumerate(self._groups)
        ]
        parts = self._cut(groups)
        return [parts[index] for index in permute(np.arange(len(parts)), len(parts), epoch, "batches")]


def make_batch(rows: Sequence[Row], part: Part, batch: int, sequences: int, form: Form) -> HostBatch:
    """The arrays of one batch, B = `batch` rows of K = `sequences` sequences and T = `part.length` tokens.

    `input_ids input_mask segment_ids` int32 (B, T), or (B, K, T) where K is not 1, and then `sequence_mask` float32
    (B, K); the rows' targets; `example_ids` uint32 (B,); `weights` float32 (B,), the rows' own, 0 for
    those that only fill, which repeat the first one.
    """
    members = [rows[index] for index in part.rows]
    members += [members[0]] * (batch - len(members))
    shape = (batch, sequences, part.length)
    ids = np.full(shape, form.tokenizer.pad_id, np.int32)
    mask, segments = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    present = np.zeros((batch, sequences), np.float32)
    for place, row in enumerate(members):
        for index in range(sequences):
            own = index if index < len(row.ids) else 0  # a sequence that is missing repeats the first: no empty softmax
            used = len(row.ids[own])
            ids[place, index, :used] = row.ids[own]
            segments[place, index, :used] = row.segments[own]
            mask[place, index, :used] = 1
            present[place, index] = index < len(row.ids)
    arrays: HostBatch = {"input_ids": ids, "input_mask": mask, "segment_ids": segments}
    if sequences == 1:
        arrays = {name: array[:, 0] for name, array in arrays.items()}
    else:
        arrays["sequence_mask"] = present
    arrays["example_ids"] = np.zeros(batch, np.uint32)
    arrays["example_ids"][: len(part.rows)] = part.rows
    weights = [rows[index].weight for index in part.rows]
    arrays["weights"] = np.asarray([*weights, *[0.0] * (batch - len(weights))], np.float32)
    return arrays | _targets(members, part.length, form)


def _targets(members: Sequence[Row], length: int, form: Form) -> HostBatch:
    found: HostBatch = {}
    # Of examples some of which have no label (a test set) only the targets that all have.
    for name in [name for name in members[0].targets if all(name in row.targets for row in members)]:
        values = [np.asarray(row.targets[name]) for row in members]
        if name not in form.token_targets:
            found[name] = np.stack(values)
            continue
        filled = np.full((len(members), length, *values[0].shape[1:]), form.token_targets[name], values[0].dtype)
        for place, value in enumerate(values):
            filled[place, : len(value)] = value
        found[name] = filled
    return found


class TrainingRows:
    """Training batches by step, of one seed or of several side by side (with a leading axis S)."""

    def __init__(self, rows: Sequence[Row], form: Form, buckets: Sequence[int], batch: int, seeds: Sequence[int]):
        self._rows, self._form, self._batch, self._seeds = rows, form, batch, tuple(seeds)
        self._sequences = max(len(row.ids) for row in rows)
        self._epochs = Epochs([row.length for row in rows], buckets, batch)
        self.steps_per_epoch = self._epochs.steps_per_epoch
        self.padding_share = self._epochs.padding_share

    def batches(self, step: int) -> Iterator[Mapping[str, np.ndarray]]:
        """The batches from global step `step` on, without end."""
        while True:
            epoch, first = divmod(step, self.steps_per_epoch)
            orders = [self._epochs.of(epoch, seed) for seed in self._seeds]
            for parts in list(zip(*orders, strict=True))[first:]:
                yield self._of(parts)
                step += 1

    def _of(self, parts: Sequence[Part]) -> HostBatch:
        made = [make_batch(self._rows, part, self._batch, self._sequences, self._form) for part in parts]
        if len(made) == 1:
            return made[0]
        return {name: np.stack([batch[name] for batch in made]) for name in made[0]}
