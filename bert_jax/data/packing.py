"""Packing: which examples share a row, planned from the histogram of their lengths.

A *pattern* is a few lengths that fit one row, and how many rows are filled so. The longest example left begins a
pattern; of all ways to fill the rest of the row most nearly with lengths that are left (sums of lengths are bits of one
large integer, so this is some shifts), one is taken, and repeated until a length of it is used up. So there are about
as many patterns as lengths, whatever the number of examples, which are only dealt out to them at the end.

It is the histogram packing of Krell et al. 2021 ("Efficient sequence packing without cross-contamination",
arXiv 2107.02027) with a look at the whole rest of the row instead of one example at a time. How many examples should
share the rest is tried in three ways, and the fewest rows win: as few as can be (best with many places in a row), as
many (with few), or as many as the mean length suggests.

A pattern is repeated, and what is left at the end fills its rows badly: of the few examples of one batch (`fill_rows`)
that would be all of them, and each looks for its own row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bert_jax.data.permutation import permute
from bert_jax.errors import BertJaxError

VERSION = 1
"""Part of every packed plan's digest: raise it when the rows made from the same lengths change."""

Ints = NDArray[np.int64]


class Pattern(NamedTuple):
    """Lengths that share a row, the longest first, and how many rows are like it."""

    rows: int
    lengths: tuple[int, ...]


def plan_rows(lengths: NDArray[np.integer], capacity: int, most: int, key: tuple[int | str, ...]) -> NDArray[np.int32]:
    """Which examples share each row: int32 (R, most) numbers of examples, -1 where a place is unused (at the end).

    `lengths` (N,): tokens of each example, from 1 to `capacity`. A row holds at most `capacity` tokens and `most`
    examples. Which of the examples of one length goes where, and the order of the rows, are drawn from `key`: or else
    neighbours in the corpus would meet in every epoch. A pure function. Errors: `BertJaxError` for a length that does
    not fit, or a place number below 1.
    """
    _check(lengths, capacity, most)
    if not len(lengths):
        return np.zeros((0, most), np.int32)
    counts = np.bincount(lengths, minlength=capacity + 1)
    patterns = plan_patterns(counts, capacity, most)
    # In random order first, then stably by length: of one length the order stays random. (16 bits are sorted fastest.)
    drawn = permute(np.arange(len(lengths), dtype=np.int64), len(lengths), *key, "examples")
    narrow = lengths[drawn].astype(np.uint16 if capacity < 1 << 16 else np.int32)
    dealt = drawn[np.argsort(narrow, kind="stable")].astype(np.int32)
    following = (np.cumsum(counts) - counts).tolist()  # of each length, where the next one to deal lies
    rows = np.full((sum(pattern.rows for pattern in patterns), most), -1, np.int32)
    first = 0
    for count, members in patterns:
        for place, length in enumerate(members):
            begin = following[length]
            rows[first : first + count, place] = dealt[begin : begin + count]
            following[length] = begin + count
        first += count
    ordered: NDArray[np.int32] = rows[permute(np.arange(len(rows), dtype=np.int64), len(rows), *key, "rows")]
    return ordered


def _check(lengths: NDArray[np.integer], capacity: int, most: int) -> None:
    if most < 1 or len(lengths) >= 2**31:
        raise BertJaxError(f"{len(lengths):,} examples, at most {most} of them in a row, cannot be packed")
    low, high = (int(lengths.min()), int(lengths.max())) if len(lengths) else (1, 1)
    if low < 1 or high > capacity:
        raise BertJaxError(f"examples of {low} to {high} tokens cannot be packed into rows of {capacity}")


def fill_rows(lengths: NDArray[np.integer], capacity: int, most: int) -> NDArray[np.int32]:
    """As `plan_rows`, for few examples and with nothing drawn: the longest first, each into the fullest row it fits."""
    _check(lengths, capacity, most)
    rows: list[list[int]] = []
    by_space: list[list[int]] = [[] for _ in range(capacity)]  # rows that take more, by the tokens they have room for
    for index in np.argsort(-lengths.astype(np.int64), kind="stable").tolist():
        length = int(lengths[index])
        space = next((space for space in range(length, capacity) if by_space[space]), capacity)
        row = len(rows) if space == capacity else by_space[space].pop()
        if space == capacity:
            rows.append([])
        rows[row].append(index)
        if len(rows[row]) < most:
            by_space[space - length].append(row)
    filled = np.full((len(rows), most), -1, np.int32)
    for row, members in enumerate(rows):
        filled[row, : len(members)] = members
    return filled


def fewest_rows(lengths: NDArray[np.integer], capacity: int, most: int) -> NDArray[np.int32]:
    """The fewer rows of `plan_rows` and `fill_rows`, with nothing drawn: of dozens of examples, or thousands."""
    return min(plan_rows(lengths, capacity, most, ("fewest",)), fill_rows(lengths, capacity, most), key=len)


def packed_rows(
    sequences: Sequence[tuple[Sequence[int] | NDArray[np.integer], Sequence[int] | NDArray[np.integer]]],
    members: NDArray[np.integer],
    length: int,
    pad_id: int,
) -> dict[str, NDArray[np.int32]]:
    """Rows of sequences (token ids, segment ids), those of a row one after the other, as the model takes them.

    `members` (R, P): which of `sequences` each row holds, -1 (behind the others) where a place is unused; a row may
    hold none. int32 `input_ids input_mask segment_ids` (R, T = `length`) and the keys of `batch.PACKED`.
    """
    wide = ("input_ids", "input_mask", "segment_ids", "position_ids", "sequence_ids")
    batch = {name: np.zeros((len(members), length), np.int32) for name in wide}
    batch["input_ids"][...] = pad_id
    batch["cls_positions"] = np.zeros(members.shape, np.int32)
    for row, own in enumerate(members.tolist()):
        begin = 0
        for place, index in enumerate(own):
            if index < 0:
                break
            ids, segments = sequences[index]
            inside = (row, slice(begin, begin + len(ids)))
            batch["input_ids"][inside] = ids
            batch["segment_ids"][inside] = segments
            batch["input_mask"][inside] = 1
            batch["position_ids"][inside] = np.arange(len(ids))
            batch["sequence_ids"][inside] = place + 1
            batch["cls_positions"][row, place] = begin
            begin += len(ids)
    return batch


def count_rows(counts: Ints, capacity: int, most: int) -> int:
    """How many rows `plan_rows` makes of `counts` (capacity + 1,) examples of each length."""
    return sum(pattern.rows for pattern in plan_patterns(counts, capacity, most))


def plan_patterns(counts: Ints, capacity: int, most: int) -> list[Pattern]:
    """Patterns that use up all of `counts` (capacity + 1,) examples of each length; the fewest rows of three ways."""
    ways: tuple[Callable[[int, float], float], ...] = (
        lambda space, mean: 0,
        lambda space, mean: most,
        lambda space, mean: space / mean,
    )
    found = [_patterns(counts, capacity, most, wanted) for wanted in ways]
    return min(found, key=lambda patterns: sum(pattern.rows for pattern in patterns))


def _patterns(counts: Ints, capacity: int, most: int, wanted: Callable[[int, float], float]) -> list[Pattern]:
    """`wanted(space, mean)`: how many examples should fill a space, given the mean length of those left."""
    left = counts.tolist()
    lengths = [length for length, count in enumerate(left) if count]  # those left, ascending
    examples = sum(left)
    tokens = sum(length * left[length] for length in lengths)
    found = []
    while lengths:
        longest = lengths[-1]
        left[longest] -= 1
        space = capacity - longest
        rest = _fill(left, lengths, space, most - 1, wanted(space, tokens / examples))
        left[longest] += 1
        members = [longest, *rest]
        uses = {length: members.count(length) for length in members}
        rows = min(left[length] // used for length, used in uses.items())
        for length, used in uses.items():
            left[length] -= rows * used
        examples -= rows * len(members)
        tokens -= rows * sum(members)
        lengths = [length for length in lengths if left[length]]
        found.append(Pattern(rows, tuple(members)))
    return found


def _fill(left: list[int], lengths: list[int], space: int, most: int, wanted: float) -> list[int]:
    """At most `most` of the `lengths` that fill `space` as nearly as can be, descending.

    Of several numbers of examples that fill it alike the one nearest to `wanted` is taken. (A length may be chosen
    more often than it is `left`: then the filling ends where it runs out.)
    """
    fitting = [length for length in lengths if length <= space and left[length]]
    within = (1 << (space + 1)) - 1
    sums = [1]  # bit s of the n-th: n of the lengths may add up to s
    while fitting and len(sums) <= most:
        reached = 0
        for length in fitting:
            reached |= sums[-1] << length
        if not reached & within:
            break
        sums.append(reached & within)
        if not wanted and sums[-1] >> space & 1:
            break
    total = max(reached.bit_length() for reached in sums) - 1
    number = min((n for n, reached in enumerate(sums) if reached >> total & 1), key=lambda n: (abs(n - wanted), n))
    chosen: list[int] = []
    taken = dict.fromkeys(fitting, 0)
    for others in reversed(range(number)):
        for length in reversed(fitting):
            if length <= total and sums[others] >> (total - length) & 1 and taken[length] < left[length]:
                chosen.append(length)
                taken[length] += 1
                total -= length
                break
        else:
            break
    return chosen
