"""Rows of tokens → batches of few static shapes: examples of like length together, each once per epoch.

Which length each batch of an epoch has follows from the rows and the settings alone; which examples are in it, from the
run's seed: so runs of several seeds can be computed side by side, batch by batch, and one alone sees the same.
A batch is a pure function of (rows, settings, seed, step); nothing is saved to resume.

Packed, examples share rows of one length (`bert_jax.data.packing`). R rows, P the most examples of one, T its tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bert_jax.data.packing import fewest_rows, fill_rows, packed_rows
from bert_jax.data.permutation import permute
from bert_jax.tasks.task import Form, Row

HostBatch = dict[str, np.ndarray]
PACKED_ROWS = ("input_ids", "input_mask", "segment_ids", "position_ids", "sequence_ids", "cls_positions")
"""Keys of a packed batch that belong to its rows; the others have a value for each place of an example."""


def bucket_lengths(buckets: Sequence[int], length: int) -> tuple[int, ...]:
    """The row lengths in use, ascending; the last is `length` itself."""
    return (*sorted({size for size in buckets if size < length}), length)


class Part(NamedTuple):
    """One batch: the length of its rows, and which examples are in it, (B,), or (R, P) when packed, -1 where unused."""

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


_COARSE = 16  # from so many rows on their number is rounded up, by an eighth at most


class PackedEpochs:
    """As `Epochs`, of batches that are packed: `batch` examples each, in as many rows of `length` tokens as it takes.

    In each epoch, which lengths meet in a batch is drawn from the epoch alone, and of each length, which example is
    where, from (seed, epoch). Only the last batch of an epoch may be smaller. `most`: examples in a row; the number of
    rows is a multiple of `split`.
    """

    def __init__(self, row_lengths: Sequence[int], length: int, batch: int, most: int, split: int = 1):
        self._length, self._batch, self._most, self._split = length, batch, most, split
        self._lengths = np.asarray(row_lengths, np.int64)
        self._ascending = np.sort(self._lengths)
        self.steps_per_epoch = -(-len(self._lengths) // batch)
        self._drawn = 0, self._draw(0)
        rows = sum(len(members) for members in self._drawn[1])
        self.padding_share = 1 - float(self._lengths.sum()) / (rows * length)

    def of(self, epoch: int, seed: int) -> list[Part]:
        """The batches of one epoch of the run with `seed`, in the order in which it trains on them."""
        if self._drawn[0] != epoch:
            self._drawn = epoch, self._draw(epoch)
        count = len(self._lengths)
        order = permute(np.arange(count), count, seed, epoch, "examples")
        dealt = order[np.argsort(self._lengths[order], kind="stable")]  # by length, those of one length as drawn
        return [Part(self._length, np.where(places < 0, -1, dealt[places])) for places in self._drawn[1]]

    def _draw(self, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch as places (R, P) in the order of the lengths."""
        count, least = len(self._ascending), 1
        order = permute(np.arange(count), count, epoch, "lengths")
        batches: list[np.ndarray] = []
        for first in range(0, count, self._batch):
            own = order[first : first + self._batch]
            filled = fill_rows(self._ascending[own], self._length, self._most)
            if len(own) < self._batch and batches:  # the last: no program for itself
                least = min(len(members) for members in batches)
            members = np.full((max(_rows_in_use(len(filled), self._split), least), self._most), -1)
            members[: len(filled)] = np.where(filled < 0, -1, own[filled])
            batches.append(members)
        return batches


def _rows_in_use(needed: int, split: int) -> int:
    """A number of rows that holds those needed: few different ones, so that few programs are compiled."""
    each = split
    while needed > _COARSE * each:
        each *= 2
    return -(-needed // each) * each


def packed_parts(row_lengths: Sequence[int], length: int, batch: int, most: int) -> list[Part]:
    """Batches of `batch` packed rows that hold every example once, for predictions."""
    planned = fewest_rows(np.asarray(row_lengths), length, most)
    members = np.full((-(-len(planned) // batch) * batch, most), -1)
    members[: len(planned)] = planned
    return [Part(length, members[first : first + batch]) for first in range(0, len(members), batch)]


def make_packed_batch(rows: Sequence[Row], part: Part, form: Form) -> HostBatch:
    """The arrays of one packed batch: int32 `input_ids input_mask segment_ids position_ids sequence_ids` (R, T) and
    `cls_positions` (R, P); for each place in turn, (R · P, …): the rows' targets, uint32 `example_ids`, and float32
    `weights`, 0 where a place is unused, whose targets repeat those of an example.
    """
    used = part.rows >= 0
    sequences = [rows[index] for index in part.rows[used].tolist()]
    members = np.full(part.rows.shape, -1)
    members[used] = np.arange(len(sequences))
    arrays: HostBatch = dict(
        packed_rows([(row.ids[0], row.segments[0]) for row in sequences], members, part.length, form.tokenizer.pad_id)
    )
    arrays["example_ids"] = np.where(used, part.rows, 0).astype(np.uint32).reshape(-1)
    weights = np.zeros(part.rows.shape, np.float32)
    weights[used] = [row.weight for row in sequences]
    arrays["weights"] = weights.reshape(-1)
    return arrays | _targets([sequences[max(index, 0)] for index in members.reshape(-1).tolist()], part.length, form)


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
    """Training batches by step, of one seed or of several side by side (with a leading axis S).

    `packing`: the most examples in a row; with more than one they share rows of the last of `buckets`, a multiple of
    `split` of them.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        form: Form,
        buckets: Sequence[int],
        batch: int,
        seeds: Sequence[int],
        packing: int = 1,
        split: int = 1,
    ):
        self._rows, self._form, self._batch, self._seeds = rows, form, batch, tuple(seeds)
        self._sequences = max(len(row.ids) for row in rows)
        lengths = [row.length for row in rows]
        self._epochs = (
            Epochs(lengths, buckets, batch)
            if packing == 1
            else PackedEpochs(lengths, buckets[-1], batch, packing, split)
        )
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
        made = [self._made(part) for part in parts]
        if len(made) == 1:
            return made[0]
        return {name: np.stack([batch[name] for batch in made]) for name in made[0]}

    def _made(self, part: Part) -> HostBatch:
        if part.rows.ndim == 2:
            return make_packed_batch(self._rows, part, self._form)
        return make_batch(self._rows, part, self._batch, self._sequences, self._form)
