"""Which row of which epoch stands at a position: arithmetic over the row counts of the plan's variants.

    position ──(row counts of the variants)──► epoch, offset ──(keyed permutation)──► row

Epoch e goes once through all rows of plan variant e mod `variants`, in an order keyed by (seed, epoch).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bert_jax.console import warn
from bert_jax.data.permutation import EpochOrder

Ints = NDArray[np.int64]

BLOCK_ROWS = 4096
_PREPARE_NEXT_AFTER = 0.02  # of an epoch: a feed that is only looked at should not plan a second variant


class Positions:
    """The rows of a feed by position, from 0 without end. Safe to call from several threads.

    `count(variant)` says how many rows a variant has, `is_made(variant)` whether its plan is there, `make(variant)`
    makes it. `blocks(rows)` says how the rows of an epoch are ordered: rows of one block, and blocks of a window or
    None (see `EpochOrder`).
    """

    def __init__(
        self,
        seed: int,
        variants: int,
        count: Callable[[int], int],
        is_made: Callable[[int], bool],
        make: Callable[[int], Any],
        blocks: Callable[[int], tuple[int, int | None]],
    ):
        self.seed, self.variants, self.count = seed, variants, count
        self._is_made, self._make, self._blocks = is_made, make, blocks
        self._lock = threading.RLock()
        self._orders: dict[int, EpochOrder] = {}
        self._ends: Ints = np.zeros(0, np.int64)  # rows of epochs 0..e of the first cycle, added up, as far as known
        self.preparing: threading.Thread | None = None
        """What makes the plan of the next epoch, or made it."""

    def locate(self, positions: Ints) -> tuple[Ints, Ints]:
        """(epoch, row), int64 (B,), of int64 (B,) positions counted from 0."""
        self._count_up_to(int(positions.max(initial=0)))
        cycle, rest = np.zeros_like(positions), positions
        if len(self._ends) == self.variants:
            cycle, rest = np.divmod(positions, self._ends[-1])
        turn = np.searchsorted(self._ends, rest, side="right")
        epochs = cycle * self.variants + turn
        offsets = rest - np.concatenate([[0], self._ends])[turn]
        rows = np.empty_like(positions)
        for epoch in np.unique(epochs).tolist():
            here = np.flatnonzero(epochs == epoch)
            rows[here] = self.order(epoch).rows_at(offsets[here])
            if self.variants > 1 and offsets[here[-1]] > _PREPARE_NEXT_AFTER * self._known(epoch):
                self._prepare((epoch + 1) % self.variants)
        return epochs, rows

    def _known(self, epoch: int) -> int:
        """The rows of an epoch that a position was located in."""
        turn = epoch % self.variants
        return int(self._ends[turn] - (self._ends[turn - 1] if turn else 0))

    def _count_up_to(self, position: int) -> None:
        while len(self._ends) < self.variants and (not len(self._ends) or self._ends[-1] <= position):
            with self._lock:
                variant = len(self._ends)
                if variant < self.variants:
                    before = int(self._ends[-1]) if variant else 0
                    self._ends = np.append(self._ends, before + self.count(variant))

    def order(self, epoch: int) -> EpochOrder:
        """The order in which an epoch, that a position was located in, visits its rows."""
        with self._lock:
            if epoch not in self._orders:
                rows = self._known(epoch)
                forget_all_but(self._orders, 3)
                self._orders[epoch] = EpochOrder(rows, self.seed, epoch, *self._blocks(rows))
            return self._orders[epoch]

    def _prepare(self, variant: int) -> None:
        """Make the plan of the coming epoch on another thread, once."""
        name = f"bert_jax plan of variant {variant}"
        with self._lock:
            if self.preparing is not None and (self.preparing.is_alive() or self.preparing.name == name):
                return
            self.preparing = threading.Thread(target=self._make_ahead, args=(variant,), name=name, daemon=True)
            self.preparing.start()

    def _make_ahead(self, variant: int) -> None:
        try:
            if not self._is_made(variant):
                self._make(variant)
        except Exception as error:  # when its turn comes it is tried again, and then the error is raised
            warn(f"the plan of the next epoch could not be made yet: {error}")


def forget_all_but(cache: dict[int, Any], count: int) -> None:
    """Drop the oldest entries."""
    while len(cache) > count:
        cache.pop(next(iter(cache)), None)
