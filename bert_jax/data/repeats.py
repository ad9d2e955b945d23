"""Which lines of a corpus repeat an earlier one: exact, in bounded memory, from the hashes of all lines on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bert_jax.files import clear_errors

_PART_LINES = 1 << 22  # looked at together


def mark_repeated(hashes: Sequence[Path], marks: Sequence[Path], part_lines: int = _PART_LINES) -> int:
    """Mark every line but the first of each kind, files and lines in order. Returns how many.

    `hashes`: one `.npy` of uint64 (lines,) per file; `marks`: where to write bool (lines,) for each. Lines of one hash
    are looked at together, so the range of hashes is cut into parts of about `part_lines` lines, one after the other.
    """
    found = [np.load(path, mmap_mode="r", allow_pickle=False) for path in hashes]
    bits = (max(sum(map(len, found)) - 1, 0) // part_lines).bit_length()
    count = 0
    repeated = []
    for path, lines in zip(marks, found, strict=True):
        with clear_errors("write", path):
            np.save(path, np.zeros(len(lines), bool))
            repeated.append(np.load(path, mmap_mode="r+" if len(lines) else None, allow_pickle=False))
    for part in range(1 << bits):
        places = [_places(lines, part, bits) for lines in found]
        keys = np.concatenate([lines[place] for lines, place in zip(found, places, strict=True)])
        order = np.argsort(keys, kind="stable")
        is_repeated = np.zeros(len(keys), bool)
        is_repeated[order[1:]] = keys[order[1:]] == keys[order[:-1]]
        count += int(is_repeated.sum())
        ends = np.cumsum([len(place) for place in places])
        for marked, place, some in zip(repeated, places, np.split(is_repeated, ends[:-1]), strict=True):
            marked[place[some]] = True
    for marked in repeated:
        if isinstance(marked, np.memmap):
            marked.flush()
    return count


def _places(hashes: np.ndarray, part: int, bits: int) -> np.ndarray:
    if not bits:
        return np.arange(len(hashes))
    return np.flatnonzero(hashes >> np.uint64(64 - bits) == part)
