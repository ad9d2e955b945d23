"""Token ids in any number and length → a few static shapes, answers in the order of the inputs.

A compiled program serves one shape, so rows are padded to one of a few lengths and batches to one of a few sizes.
Inputs are taken a window at a time and sorted by length inside it: memory stays bounded however many there are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from bert_jax.errors import BertJaxError

LENGTHS = (16, 32, 64, 128, 256, 512)
ROWS = (1, 8, 32)
WINDOW = 1024

Answer = TypeVar("Answer")


class Encoded(NamedTuple):
    """One input as ids: `source` is what the answer is made from besides, `slots` places asked about (masks)."""

    input_ids: list[int]
    segment_ids: list[int]
    slots: tuple[int, ...] = ()
    source: Any = None


def bucket(size: int, sizes: Sequence[int]) -> int:
    """The smallest of the ascending `sizes` that holds `size`; past the last one, the next power of two."""
    for candidate in sizes:
        if size <= candidate:
            return candidate
    return 1 << (size - 1).bit_length()


def length_buckets(limit: int) -> tuple[int, ...]:
    """The row lengths in use by a model of `limit` positions, ascending; the last is `limit` itself."""
    return (*(length for length in LENGTHS if length < limit), limit)


def pad_batch(items: Sequence[Encoded], rows: int, length: int, slots: int, pad_id: int) -> dict[str, np.ndarray]:
    """One batch (B=rows, T=length) of int32 arrays: `input_ids input_mask segment_ids`, and where `slots` is not 0
    `masked_lm_positions` (B, M=slots), 0 where unused.

    Rows past the items repeat the first one: a row without a single real token would have no softmax.
    """
    batch = {
        "input_ids": np.full((rows, length), pad_id, np.int32),
        "input_mask": np.zeros((rows, length), np.int32),
        "segment_ids": np.zeros((rows, length), np.int32),
    }
    if slots:
        batch["masked_lm_positions"] = np.zeros((rows, slots), np.int32)
    for row in range(rows):
        item = items[row] if row < len(items) else items[0]
        used = len(item.input_ids)
        batch["input_ids"][row, :used] = item.input_ids
        batch["segment_ids"][row, :used] = item.segment_ids
        batch["input_mask"][row, :used] = 1
        if slots:
            batch["masked_lm_positions"][row, : len(item.slots)] = item.slots
    return batch


def stream(
    items: Iterable[Encoded],
    compute: Callable[[dict[str, np.ndarray], list[Encoded]], list[Answer]],
    *,
    limit: int,
    pad_id: int,
    slot_sizes: Sequence[int] = (),
    window: int = WINDOW,
) -> Iterator[Answer]:
    """Answers to `items`, in their order, `window` of them in memory at a time.

    `compute(batch, items of the batch)` gives one answer per item (rows past them are filling). `limit` is the
    model's number of positions; `slot_sizes` the numbers M of slots that batches are padded to, empty without slots.
    An input that cannot be read ends the answers, after those to the inputs before it.
    """
    lengths = length_buckets(limit)
    source = iter(items)
    failure: BertJaxError | None = None
    while failure is None:
        chunk: list[Encoded] = []
        try:
            chunk.extend(itertools.islice(source, window))  # keeps what came before an input that cannot be read
        except BertJaxError as error:
            failure = error
        if not chunk:
            break
        groups: dict[tuple[int, int], list[int]] = {}
        for index, item in enumerate(chunk):
            slots = bucket(len(item.slots), slot_sizes) if slot_sizes else 0
            groups.setdefault((bucket(len(item.input_ids), lengths), slots), []).append(index)
        answers: list[Answer | None] = [None] * len(chunk)
        for (length, slots), members in groups.items():
            for start in range(0, len(members), ROWS[-1]):
                part = members[start : start + ROWS[-1]]
                batch_items = [chunk[index] for index in part]
                batch = pad_batch(batch_items, bucket(len(part), ROWS), length, slots, pad_id)
                for index, answer in zip(part, compute(batch, batch_items), strict=True):
                    answers[index] = answer
        yield from answers  # type: ignore[misc]
    if failure is not None:
        raise failure
