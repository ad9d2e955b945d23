"""Randomness as arithmetic: keyed streams of bits, and keyed permutations that need no state and no memory.

Everything the feed decides (pairs, truncation, order) is a function of a seed and of where it is used, so a batch can
be made again anywhere, in any order. Only raw Philox words, integer operations and one exact float product are used:
the same numbers come out on every platform and numpy version.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 8
_MIX_1 = np.uint32(0x9E3779B1)
_MIX_2 = np.uint32(0x85EBCA77)
_MAX_ROWS = 2**32


def key_words(*parts: int | str, count: int = 2) -> NDArray[np.uint64]:
    """`count` uint64 words (at most 8) that identify `parts`: a SHA-512 of their text."""
    data = hashlib.sha512("\x1f".join(f"{type(part).__name__}:{part}" for part in parts).encode()).digest()
    return np.frombuffer(data, "<u8", count).astype(np.uint64)


class Bits:
    """An endless stream of random words that depends on `parts` alone (Philox-4x64, a counter-based generator)."""

    def __init__(self, *parts: int | str):
        self._generator = np.random.Generator(np.random.Philox(key=key_words(*parts)))

    def words(self, count: int) -> NDArray[np.uint64]:
        """The next `count` words of 64 random bits."""
        # Over the whole range `integers` hands out Philox's raw words, ten times as fast as `random_raw` does.
        return self._generator.integers(0, 2**64 - 1, count, np.uint64, endpoint=True)

    def below(self, limits: NDArray[np.int64]) -> NDArray[np.int64]:
        """One uniform integer in [0, limit) for each limit (≥ 1); its bias is below limit / 2⁵³."""
        return scaled(self.words(len(limits)), limits)


def unit(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Each word as a float64 uniform in [0, 1), a multiple of 2⁻⁵³: exact on every platform."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def scaled(words: NDArray[np.uint64], limits: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """Each word as a uniform integer in [0, limit)."""
    # The product of 53 bits and a large limit may round up to the limit itself, hence the minimum.
    return np.minimum((unit(words) * limits).astype(np.int64), np.asarray(limits, np.int64) - 1)


def permute(index: NDArray[np.int64], size: int, *parts: int | str) -> NDArray[np.int64]:
    """Where a permutation of range(size), chosen by `parts`, sends each `index` (int64, 0 ≤ index < size < 2³²).

    A Feistel network over the smallest power of two that holds `size`; results outside are sent through again until
    they fall inside ("cycle walking", Black and Rogaway 2002), less than twice on average.
    """
    assert 0 < size <= _MAX_ROWS
    if size == 1:
        return np.zeros_like(index)
    width = max(2, (size - 1).bit_length())
    round_keys = key_words("permute", *parts, count=_ROUNDS // 2).view(np.uint32)
    result = _feistel(index.astype(np.uint32), width, round_keys).astype(np.int64)
    outside = np.flatnonzero(result >= size)
    while len(outside):
        again = _feistel(result[outside].astype(np.uint32), width, round_keys).astype(np.int64)
        result[outside] = again
        outside = outside[again >= size]
    return result


def _feistel(value: NDArray[np.uint32], width: int, keys: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """One pass over `width` bits: halves (of unequal width when it is odd) are xored with a hash of each other."""
    low_bits = width // 2
    low_width, high_width = np.uint32(low_bits), np.uint32(width - low_bits)
    low = value & np.uint32((1 << low_bits) - 1)
    high = value >> low_width
    for number, key in enumerate(keys):
        if number % 2:
            low = low ^ _hash(high, key, low_width)
        else:
            high = high ^ _hash(low, key, high_width)
    return (high << low_width) | low


def _hash(value: NDArray[np.uint32], key: np.uint32, width: np.uint32) -> NDArray[np.uint32]:
    mixed = (value ^ key) * _MIX_1
    mixed ^= mixed >> np.uint32(15)
    mixed *= _MIX_2
    mixed ^= mixed >> np.uint32(13)
    mixed *= _MIX_1
    return mixed >> (np.uint32(32) - width)


class EpochOrder:
    """The order in which one epoch visits `rows` rows, chosen by (seed, epoch): every row exactly once.

    Two levels: blocks of `block_rows` neighbouring rows are permuted over the epoch, then rows are permuted inside
    each window of `window_blocks` consecutive blocks (None: one window holds all). While the epoch is inside one
    window only that window's blocks are read, which is what lets a store larger than memory be staged.
    """

    def __init__(self, rows: int, seed: int, epoch: int, block_rows: int = 4096, window_blocks: int | None = None):
        assert 0 < rows <= _MAX_ROWS
        self.rows, self.block_rows = rows, block_rows
        self.blocks = -(-rows // block_rows)
        self.window_blocks = min(window_blocks or self.blocks, self.blocks)
        self._parts = (seed, epoch)
        # The last block may be short. The slot it is sent to has a hole behind it that every later row steps over.
        self._hole = self.blocks * block_rows - rows
        slots = np.arange(self.blocks, dtype=np.int64) if self.window_blocks < self.blocks else np.zeros(0, np.int64)
        self._block_of_slot = permute(slots, self.blocks, *self._parts, "blocks") if len(slots) else slots
        self._short_slot = int(np.argmax(self._block_of_slot)) if len(slots) else self.blocks - 1

    def rows_at(self, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row (int64) visited at each offset (int64, 0 ≤ offset < rows) of the epoch."""
        if self.window_blocks == self.blocks:
            return permute(offsets, self.rows, *self._parts, "rows", 0)
        window_rows = self.window_blocks * self.block_rows
        short_window = self._short_slot // self.window_blocks
        late = offsets >= (short_window + 1) * window_rows - self._hole
        window = (offsets + late * self._hole) // window_rows
        slots = np.empty_like(offsets)
        for number in np.unique(window):
            here = np.flatnonzero(window == number)
            first = int(number) * window_rows - (self._hole if number > short_window else 0)
            last = min(self.rows, (int(number) + 1) * window_rows - (self._hole if number >= short_window else 0))
            inside = permute(offsets[here] - first, last - first, *self._parts, "rows", int(number))
            virtual = inside + int(number) * window_rows
            if number == short_window:
                virtual += self._hole * (virtual >= (self._short_slot + 1) * self.block_rows - self._hole)
            slots[here] = virtual
        return self._block_of_slot[slots // self.block_rows] * self.block_rows + slots % self.block_rows
