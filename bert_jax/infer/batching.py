"""Token ids in any number and length → a few static shapes, answers in the order of the inputs.

A compiled program serves one shape, so rows are padded to one of a few lengths and batches to one of a few sizes.
Inputs are taken a window at a time and sorted by length inside it: memory stays bounded however many there are, and
rows of nearly one length share a batch, whatever stands between them in the input. A length has one full size, so
that many inputs make about as many programs as there are lengths, and none is made twice.

Packed, a row holds several inputs one after the other: fewer rows, nearly full, of one length where the inputs are
short (`bert_jax.data.packing`). P is the most inputs in a row.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from bert_jax.data.packing import fewest_rows, packed_rows
from bert_jax.errors import BertJaxError, UsageError

# Dense where sentences are: each length is a program to compile, but each place of padding is computed every time
# (in steps of 8 and 16 it was 19 % of all places of sentences of English Wikipedia, in these steps 10 %).
LENGTHS = (8, *range(12, 48, 4), 48, 56, 64, 80, 96, 128, 192, 256, 384, 512)
FEW_ROWS = (1, 8)  # sizes of a batch that is not full
# Its lengths are among these, and its model's limit: where there is less to compute, compiling counts for more.
FEW_LENGTHS = (16, 24, 32, 40, 48, 64, 80, 96, 128, 192, 256, 384, 512)
PACKED_LENGTHS = (64, 128, 256, 512)  # of rows that hold several inputs: what is short makes one program
PACKING = 8  # inputs in a row where nothing else is asked for: rows of 64 are then full of texts of 8 tokens and more
# A place of a packed row costs more than one of a short row, for its attention is over the whole row: MiniLM on a CPU
# gained 17 % where places were 22 % fewer, 2 % where they were 6 % fewer.
PAYS = 0.9
MOST_ROWS = 64
# Places (rows × length) of a full batch on one device. On a CPU the intermediate arrays should stay in its caches; an
# accelerator wants work for thousands of lanes.
CPU_TOKENS = 512
ACCELERATOR_TOKENS = 8192
WINDOW = 2048
LIVE_WINDOW = 32  # the first window of inputs that come as they are typed; then twice as many each time

UNUSED = -1

Answer = TypeVar("Answer")


class Encoded(NamedTuple):
    """One input as ids: `source` is what the answer is made from besides, `slots` places asked about (masks)."""

    input_ids: list[int]
    segment_ids: list[int]
    slots: tuple[int, ...] = ()
    source: Any = None


class Part(NamedTuple):
    """Inputs that share a batch, by their places in the window, and the batch's shape.

    members: one input for each row from the first on; packed, P for each, UNUSED where a row holds fewer.
    """

    members: list[int]
    rows: int
    length: int
    slots: int


def with_known_segments(item: Encoded, segments: int, model: object) -> Encoded:
    """`item`. Errors: `BertJaxError` for a pair where the model has one segment (`segments`, its type_vocab_size)."""
    if max(item.segment_ids) >= segments:
        raise BertJaxError(f"a pair has two segments, and {model} has {segments} (type_vocab_size): give single texts")
    return item


def bucket(size: int, sizes: Sequence[int]) -> int:
    """The smallest of the ascending `sizes` that holds `size`; past the last one, the next power of two."""
    for candidate in sizes:
        if size <= candidate:
            return candidate
    return 1 << (size - 1).bit_length()


def length_buckets(limit: int) -> tuple[int, ...]:
    """The row lengths in use by a model of `limit` positions, ascending; the last is `limit` itself."""
    return (*(length for length in LENGTHS if length < limit), limit)


def row_sizes(length: int, tokens: int) -> tuple[int, ...]:
    """The numbers of rows in use on one device at `length`, ascending; the last makes up about `tokens` places."""
    full = min(MOST_ROWS, max(1, tokens // length))
    return (*(rows for rows in FEW_ROWS if rows < full), full)


def parts_of(
    chunk: Sequence[Encoded], lengths: Sequence[int], slot_sizes: Sequence[int], tokens: int, devices: int
) -> Iterator[Part]:
    """The batches of one window: longest rows first, each batch full but the last ones.

    A batch has as many rows as its longest asks for, and ends early where the next row fits into half its length.
    With `devices` its number of rows is a multiple of theirs.
    """
    groups: dict[int, list[int]] = {}
    sparse = [length for length in lengths if length in FEW_LENGTHS or length == lengths[-1]]
    for index, item in enumerate(chunk):
        slots = bucket(len(item.slots), slot_sizes) if slot_sizes else 0
        groups.setdefault(slots, []).append(index)
    for slots, members in groups.items():
        members.sort(key=lambda index: -len(chunk[index].input_ids))
        while members:
            longest = len(chunk[members[0]].input_ids)
            length = bucket(longest, lengths)
            sizes = row_sizes(length, tokens)
            taken = members[: sizes[-1] * devices]
            halves = (n for n, index in enumerate(taken) if 2 * bucket(len(chunk[index].input_ids), lengths) <= length)
            taken = taken[: next(halves, len(taken))]
            members = members[len(taken) :]
            rows = bucket(-(-len(taken) // devices), sizes)
            yield Part(taken, devices * rows, length if rows == sizes[-1] else bucket(longest, sparse), slots)


def packed_parts_of(chunk: Sequence[Encoded], limit: int, packing: int, tokens: int, devices: int) -> Iterator[Part]:
    """The batches of one window in rows of up to `packing` inputs: those of the longest rows first."""
    lengths = (*(length for length in PACKED_LENGTHS if length < limit), limit)
    groups: dict[int, list[int]] = {}
    for index, item in enumerate(chunk):
        groups.setdefault(bucket(len(item.input_ids), lengths), []).append(index)
    for length, members in sorted(groups.items(), reverse=True):
        sizes = row_sizes(length, tokens)
        planned = fewest_rows(np.array([len(chunk[index].input_ids) for index in members]), length, packing)
        numbers = np.where(planned < 0, UNUSED, np.asarray(members)[planned])
        for first in range(0, len(numbers), sizes[-1] * devices):
            taken = numbers[first : first + sizes[-1] * devices]
            rows = devices * bucket(-(-len(taken) // devices), sizes)
            yield Part(taken.reshape(-1).tolist(), rows, length, 0)


def packed_batch(items: Sequence[Encoded], part: Part, packing: int, pad_id: int) -> dict[str, np.ndarray]:
    """One batch of packed rows: int32 `input_ids input_mask segment_ids position_ids sequence_ids` (B, T),
    `cls_positions` (B, P). `items`: one for each of `part.members`, any where that is UNUSED; further rows are padding.
    """
    members = np.full((part.rows, packing), UNUSED)
    used = np.asarray(part.members) != UNUSED
    members.reshape(-1)[: len(used)] = np.where(used, np.arange(len(used)), UNUSED)
    return packed_rows([item[:2] for item in items], members, part.length, pad_id)


def places_of(parts: Sequence[Part]) -> int:
    """Tokens and padding of all batches."""
    return sum(part.rows * part.length for part in parts)


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
    first: int = WINDOW,
    tokens: int = CPU_TOKENS,
    devices: int = 1,
    packing: int | None = 1,
) -> Iterator[Answer]:
    """Answers to `items`, in their order, at most `window` of them in memory at a time, of the very first `first`.

    `compute(batch, items of the batch)` gives one answer per item (rows past them are filling). `limit` is the
    model's number of positions; `slot_sizes` the numbers M of slots that batches are padded to, empty without slots;
    `tokens` the places of a full batch on one of `devices`, over which its rows can be spread evenly.
    `packing`: the most inputs in a row; with more than one the batch is one of `packed_batch`, and `compute` is given
    P items for each row and gives P answers: where a row holds fewer any item stands in, whose answer is not used.
    None: PACKING, in those windows where that pays.
    An input that cannot be read ends the answers, after those to the inputs before it. Errors: `UsageError` for a
    packing below 1.
    """
    if packing is not None and packing < 1:
        raise UsageError(f"packing is {packing}: expected at least 1, the most inputs in a row")
    assert packing == 1 or not slot_sizes, "slots are places of a row that is one input"
    lengths = length_buckets(limit)
    source, size = iter(items), min(first, window)
    failure: BertJaxError | None = None
    while failure is None:
        chunk: list[Encoded] = []
        try:
            chunk.extend(itertools.islice(source, size))  # keeps what came before an input that cannot be read
        except BertJaxError as error:
            failure = error
        if not chunk:
            break
        size = min(2 * size, window)
        answers: list[Answer | None] = [None] * len(chunk)
        parts = [] if packing is not None and packing > 1 else [*parts_of(chunk, lengths, slot_sizes, tokens, devices)]
        most = 1
        if packing != 1:
            packed = [*packed_parts_of(chunk, limit, packing or PACKING, tokens, devices)]
            if not parts or places_of(packed) < PAYS * places_of(parts):
                parts, most = packed, packing or PACKING
        for part in parts:
            batch_items = [chunk[max(index, 0)] for index in part.members]
            if most > 1:
                batch = packed_batch(batch_items, part, most, pad_id)
            else:
                batch = pad_batch(batch_items, part.rows, part.length, part.slots, pad_id)
            for index, answer in zip(part.members, compute(batch, batch_items), strict=True):
                if index != UNUSED:
                    answers[index] = answer
        yield from answers  # type: ignore[misc]
    if failure is not None:
        raise failure
