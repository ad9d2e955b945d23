"""Plans of packed rows: which examples of a plan share each row, kept beside it in the same way (see `rows_file`).

    DIR/packed-<digest>.json, .rows    int32 (rows, P): rows of the plan, -1 where a place is unused

The examples of a plan are packed a block of neighbours at a time, so that memory stays bounded and a row reads from
one part of the store; a block is so large that its last, badly filled rows do not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bert_jax.data import packing
from bert_jax.data.plan import PlanKey, is_made, open_plan
from bert_jax.data.rows_file import Rows, RowsFile, Sums
from bert_jax.errors import BertJaxError
from bert_jax.files import digest

Ints = NDArray[np.int64]

_BLOCK_EXAMPLES = 1 << 20


@dataclass(frozen=True)
class PackedKey:
    """All that packed rows depend on: the plan whose examples they hold, and the most examples of a row."""

    plan: PlanKey
    most: int

    @property
    def file(self) -> RowsFile:
        """Where the rows are kept."""
        name = digest([packing.VERSION, _BLOCK_EXAMPLES, self.plan.name, self.most])[:32]
        return RowsFile(self.plan.cache_dir, f"packed-{name}", self.most)

    def is_made(self) -> bool:
        """Whether the rows, and the plan that they point into, are on disk."""
        return self.file.is_made() and is_made(self.plan)

    def row_count(self) -> int:
        """How many packed rows there are; of a plan that was not made yet from lengths alone, nothing else written."""
        return self.file.count(self._count)

    def block_rows(self) -> int:
        """About how many rows were packed together."""
        rows, sums = self.open()
        return len(rows) * min(_BLOCK_EXAMPLES, sums["examples"]) // max(1, sums["examples"])

    def open(self) -> tuple[Rows, Sums]:
        """The rows (R, P), memory-mapped, and `rows`, `examples` and `tokens`; both plans are made if need be.

        Errors: `BertJaxError` for a damaged store, a full disk, or more examples than int32 can number.
        """
        return self.file.open(self._make)

    def _count(self) -> int:
        pieces = [open_plan(self.plan).rows] if is_made(self.plan) else self.plan.make_rows()
        capacity = self.plan.walk.length
        return sum(
            packing.count_rows(np.bincount(lengths, minlength=capacity + 1), capacity, self.most)
            for lengths in _blocks(pieces)
        )

    def _make(self, sums: Sums) -> Iterator[Rows]:
        plan, capacity = open_plan(self.plan), self.plan.walk.length
        if len(plan.rows) >= 2**31:
            raise BertJaxError(f"{len(plan.rows):,} examples cannot be packed: cut the store into several")
        first = 0
        for lengths in _blocks([plan.rows]):
            key = (self.plan.seed, self.plan.variant, "packing", first)
            rows = packing.plan_rows(lengths, capacity, self.most, key)
            yield np.where(rows < 0, rows, rows + np.int32(first))
            first += len(lengths)
        sums |= {"examples": len(plan.rows), "tokens": plan.summary["tokens"]}


def example_lengths(rows: Rows) -> Ints:
    """Tokens of the examples (N, 5) of a plan: [CLS] A [SEP] B [SEP], or [CLS] A [SEP] where B is empty."""
    in_b = rows[:, 3].astype(np.int64) - rows[:, 2]
    return rows[:, 1].astype(np.int64) - rows[:, 0] + in_b + 2 + (in_b > 0)


def _blocks(pieces: Iterable[Rows]) -> Iterator[Ints]:
    """The lengths of all examples in blocks of `_BLOCK_EXAMPLES`, however the pieces are cut; the last may be short."""
    waiting: list[Ints] = []
    room = _BLOCK_EXAMPLES
    for piece in pieces:
        while len(piece):
            waiting.append(example_lengths(piece[:room]))
            piece = piece[room:]
            room -= len(waiting[-1])
            if not room:
                yield np.concatenate(waiting)
                waiting, room = [], _BLOCK_EXAMPLES
    if waiting:
        yield np.concatenate(waiting)
