"""Segments as spans of tokens: how a plan's rows hold them, and how they are truncated."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bert_jax.data.permutation import Bits
from bert_jax.errors import BertJaxError

Ints = NDArray[np.int64]

ROW_FIELDS = 5
_STRETCH_BITS = 30
_STRETCHES = 1 << 15


class Spans(NamedTuple):
    """Decoded plan rows: split-wide token numbers, int64 (R,); A is [a0, a1), B is [b0, b1); label int32 (R,)."""

    a0: Ints
    a1: Ints
    b0: Ints
    b1: Ints
    label: NDArray[np.int32]


def encode_rows(spans: Spans) -> NDArray[np.int32]:
    """Spans as int32 rows (R, 5): a0, a1, b0, b1, random.

    A split may hold more than 2³¹ tokens, so each segment is counted from the start of the stretch of 2³⁰ tokens it
    begins in; the last field is label + 2 · (A's stretch) + 2¹⁶ · (B's stretch).
    """
    stretch_a, stretch_b = spans.a0 >> _STRETCH_BITS, spans.b0 >> _STRETCH_BITS
    if len(spans.a0) and max(int(stretch_a.max()), int(stretch_b.max())) >= _STRETCHES:
        raise BertJaxError("a split of more than 2^45 tokens cannot be planned: cut it into several stores")
    rows = np.empty((len(spans.a0), ROW_FIELDS), np.int32)
    rows[:, 0] = spans.a0 - (stretch_a << _STRETCH_BITS)
    rows[:, 1] = spans.a1 - (stretch_a << _STRETCH_BITS)
    rows[:, 2] = spans.b0 - (stretch_b << _STRETCH_BITS)
    rows[:, 3] = spans.b1 - (stretch_b << _STRETCH_BITS)
    rows[:, 4] = spans.label | stretch_a << 1 | stretch_b << 16
    return rows


def decode_rows(rows: NDArray[np.int32]) -> Spans:
    """The inverse of `encode_rows`."""
    flags = rows[:, 4].astype(np.int64)
    base_a, base_b = (flags >> 1 & (_STRETCHES - 1)) << _STRETCH_BITS, (flags >> 16) << _STRETCH_BITS
    label = (rows[:, 4] & 1).astype(np.int32)
    return Spans(rows[:, 0] + base_a, rows[:, 1] + base_a, rows[:, 2] + base_b, rows[:, 3] + base_b, label)


def truncate(spans: Spans, room: int, bits: Bits) -> Spans:
    """Drop tokens until A and B together have `room`, as many from each side as dropping one by one would.

    The longer loses tokens until both are level, then they take turns, B first; each token goes from the front by a
    fair coin, so the number dropped in front is the number of ones among that many random bits.
    """
    in_a, in_b = spans.a1 - spans.a0, spans.b1 - spans.b0
    excess = np.maximum(in_a + in_b - room, 0)
    until_level = np.minimum(excess, np.abs(in_a - in_b))
    rest = excess - until_level
    from_a = np.where(in_a > in_b, until_level, 0) + rest // 2
    from_b = excess - from_a
    front_a, front_b = _ones(from_a, bits), _ones(from_b, bits)
    return Spans(
        spans.a0 + front_a,
        spans.a1 - (from_a - front_a),
        spans.b0 + front_b,
        spans.b1 - (from_b - front_b),
        spans.label,
    )


def _ones(flips: Ints, bits: Bits) -> Ints:
    """How many of `flips` fair coins show one."""
    ones = np.zeros_like(flips)
    some = np.flatnonzero(flips)
    if len(some):
        words_each = (flips[some] + 63) >> 6
        ends = np.cumsum(words_each)
        words = bits.words(int(ends[-1]))
        words[ends - 1] >>= (64 * words_each - flips[some]).astype(np.uint64)
        ones[some] = np.add.reduceat(_bit_count(words), ends - words_each)
    return ones


def _bit_count(words: NDArray[np.uint64]) -> Ints:
    counter: Any = getattr(np, "bitwise_count", None)  # numpy ≥ 2
    if counter is None:
        return np.unpackbits(words.view(np.uint8).reshape(-1, 8), axis=1).sum(axis=1, dtype=np.int64)
    return counter(words).astype(np.int64)
