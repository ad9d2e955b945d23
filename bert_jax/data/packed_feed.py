"""The feed of packed rows: several examples one after the other in a row, as a pure function of positions.

    position ──► epoch, packed row ──(packed plan)──► examples of the plan ──► spans ──► tokens

An example is what it is unpacked: its tokens, its number and its epoch, from which its masks and dropout are drawn.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bert_jax.data.memory import aligned
from bert_jax.data.mixture import Batch, Ints
from bert_jax.data.packed_plan import PackedKey, example_lengths
from bert_jax.data.plan import Plan, PlanKey
from bert_jax.data.positions import BLOCK_ROWS, Positions, forget_all_but
from bert_jax.data.rows_file import Rows, Sums
from bert_jax.data.spans import Spans
from bert_jax.errors import BertJaxError

_CHUNK_TOKENS = 1 << 17  # rows are put together so many tokens at a time: their indices then stay in the cache
_CHECKED_ROWS = 1 << 18


class Packing(NamedTuple):
    """How rows are packed.

    `most`: examples in a row. `places`: predictions that a row has room for, None where that is enough for any row;
    `counts` (length + 1,): the predictions of an example by its tokens, needed where `places` is given.
    """

    most: int
    places: int | None = None
    counts: NDArray[np.int32] | None = None


class PlainFeed(Protocol):
    """What is needed of the feed whose examples are packed."""

    store: Any
    split: str
    length: int
    seed: int
    variants: int
    special: Any

    @property
    def max_rows(self) -> int: ...

    def key(self, variant: int) -> PlanKey: ...

    def plan(self, variant: int) -> Plan: ...

    def rows_per_epoch(self, epoch: int) -> int: ...

    def window_blocks(self, rows: int, block: int) -> int | None: ...

    def spans(self, epochs: Ints, rows: Ints) -> Spans: ...

    def describe(self) -> dict[str, Any]: ...


class PackedFeed:
    """Rows of several examples of one split of one store; the interface of `Feed`, safe to call from several threads.

    `plain` is the feed of the same examples, one per row.
    """

    def __init__(self, plain: PlainFeed, packing: Packing):
        self.plain, self.packing = plain, packing
        self.store, self.split, self.length = plain.store, plain.split, plain.length
        self._documents = plain.store.split(plain.split)
        self._lock = threading.RLock()
        self._plans: dict[int, tuple[Rows, Sums]] = {}
        self.positions = Positions(
            plain.seed,
            plain.variants,
            self.rows_per_epoch,
            lambda variant: self._key(variant).is_made(),
            lambda variant: self._key(variant).open(),
            self._blocks,
        )

    @property
    def max_rows(self) -> int:
        """A bound on the number of examples (not of packed rows) of every variant."""
        return self.plain.max_rows

    def rows_per_epoch(self, epoch: int) -> int:
        """How many packed rows one epoch holds; makes the packed plan's count first if it is not known."""
        return self._key(epoch % self.plain.variants).row_count()

    def examples_per_row(self) -> float:
        """The mean over the rows of the first variant."""
        rows, sums = self._plan(0)
        return sums["examples"] / max(1, len(rows))

    def locate(self, positions: Ints) -> tuple[Ints, Ints]:
        """(epoch, packed row), int64 (B,), of int64 (B,) positions counted from 0."""
        return self.positions.locate(positions)

    def _key(self, variant: int) -> PackedKey:
        return PackedKey(self.plain.key(variant), self.packing.most)

    def _blocks(self, rows: int) -> tuple[int, int | None]:
        """Blocks as large as those that were packed together, if the store is larger than the window: see `Feed`."""
        if self.plain.window_blocks(rows, BLOCK_ROWS) is None:
            return BLOCK_ROWS, None
        block = max(BLOCK_ROWS, self._key(0).block_rows())
        return block, self.plain.window_blocks(rows, block)

    def _plan(self, variant: int) -> tuple[Rows, Sums]:
        with self._lock:
            if variant not in self._plans:
                forget_all_but(self._plans, 2)
                found = self._key(variant).open()
                self._check_places(variant, found[0])
                self._plans[variant] = found
            return self._plans[variant]

    def check(self) -> None:
        """Plan the first variant where `places` may be too few. Errors: `BertJaxError` when they are."""
        if self.packing.places is not None:
            self._plan(0)

    def _check_places(self, variant: int, rows: Rows) -> None:
        """Errors: `BertJaxError` when the examples of a row are to be given more predictions than it has places."""
        places, counts = self.packing.places, self.packing.counts
        if places is None or counts is None:
            return
        each = np.append(counts[example_lengths(self.plain.plan(variant).rows)], 0)  # the last one for unused places
        parts = (rows[first : first + _CHECKED_ROWS] for first in range(0, len(rows), _CHECKED_ROWS))
        worst = max((int(each[part].sum(axis=1).max()) for part in parts), default=0)
        if worst > places:
            raise BertJaxError(
                f"row_predictions is {places}, and packed rows of {self.store.path} (length {self.length}, up to "
                f"{self.packing.most} examples, plan variant {variant}) have up to {worst} predictions: give {worst}, "
                "or leave row_predictions out, which is enough for any row"
            )

    def examples(self, positions: Ints) -> Batch:
        """The rows at `positions` (int64 (B,), from 0): the schemas `batch.EXAMPLES` and `batch.PACKED`.

        int32, but for uint8 where a value is 0 or 1 at each token, and uint32 `example_ids`, which are rows of the
        plan. `example_ids`, `epochs`, `next_sentence_labels` and `cls_positions` are (B, P) and 0 at unused places.
        A pure function, see `Feed.examples`.
        """
        epochs, rows = self.locate(np.asarray(positions, np.int64))
        members = np.empty((len(rows), self.packing.most), np.int32)
        for variant in np.unique(epochs % self.plain.variants).tolist():
            here = np.flatnonzero(epochs % self.plain.variants == variant)
            members[here] = self._plan(variant)[0][rows[here]]
        used = members >= 0
        spans = self.plain.spans(np.broadcast_to(epochs[:, None], used.shape)[used], members[used].astype(np.int64))
        labels = np.zeros(used.shape, np.int32)
        labels[used] = spans.label
        shape = len(rows), self.length
        wide, narrow = ("input_ids", "position_ids", "sequence_ids"), ("input_mask", "segment_ids", "word_starts")
        batch: Batch = {name: aligned(shape, np.dtype(np.int32)) for name in wide}
        batch |= {name: aligned(shape, np.dtype(np.uint8)) for name in narrow}
        batch["cls_positions"] = np.empty(used.shape, np.int32)
        firsts = np.concatenate([[0], np.cumsum(used.sum(axis=1))])
        step = max(1, _CHUNK_TOKENS // self.length)
        for first in range(0, len(rows), step):
            part = slice(first, first + step)
            inside = slice(int(firsts[first]), int(firsts[min(first + step, len(rows))]))
            piece = Spans(*(field[inside] for field in spans))  # type: ignore[arg-type]
            self._fill({name: array[part] for name, array in batch.items()}, used[part], piece)
        batch["example_ids"] = np.where(used, members, 0).astype(np.uint32)
        batch["epochs"] = np.where(used, epochs[:, None], 0).astype(np.int32)
        batch["next_sentence_labels"] = labels
        return batch

    def _fill(self, out: Batch, used: NDArray[np.bool_], spans: Spans) -> None:
        """The rows of a chunk: `used` (B, P) says which places hold an example, `spans` (E,) which, in their order.

        A row is a sequence of stretches: [CLS] A [SEP] and B [SEP] of each place in turn, then padding. All that is
        said of a token is some number of its stretch plus the token's own place, so it is made by repeating.
        """
        rows, most = used.shape
        in_a, in_b = (_spread(used, end - begin) for begin, end in ((spans.a0, spans.a1), (spans.b0, spans.b1)))
        sizes = np.zeros((rows, 2 * most + 1), np.int64)
        sizes[:, 0:-1:2] = np.where(used, in_a + 2, 0)
        sizes[:, 1::2] = in_b + (in_b > 0)
        sizes[:, -1] = self.length - sizes.sum(axis=1)
        begins = (np.cumsum(sizes) - sizes.ravel()).reshape(sizes.shape)  # of each stretch, in all rows end to end
        begin_a, begin_b = begins[:, 0:-1:2], begins[:, 1::2]
        place = np.arange(rows * self.length)

        def of_tokens(values: np.ndarray) -> np.ndarray:
            return np.repeat(values.ravel(), sizes.ravel())

        stretch = of_tokens(np.broadcast_to(np.arange(2 * most + 1, dtype=np.min_scalar_type(2 * most)), sizes.shape))
        mask = stretch < 2 * most
        documents = self._documents
        address = of_tokens(_offsets(used, begins, documents.token_addresses, spans))
        address += place
        ids = documents.token_memory.take(address, mode="clip")
        address = of_tokens(_offsets(used, begins, documents.word_start_addresses, spans))
        address += place
        bit = address.astype(np.uint8)  # of which the lowest three bits count
        bit &= np.uint8(7)
        address >>= 3
        starts = documents.word_start_memory.take(address, mode="clip")
        starts >>= bit
        starts &= mask.view(np.uint8)  # leaves the lowest bit

        paired = in_b > 0
        cls, first_sep = begin_a[used], (begin_a + in_a + 1)[used]
        second_sep = (begin_b + in_b)[paired]
        ids[cls] = self.plain.special.cls
        ids[first_sep] = ids[second_sep] = self.plain.special.sep
        ids[np.flatnonzero(~mask)] = self.plain.special.pad
        for at in (cls, cls + 1, first_sep, begin_b[paired], second_sep):
            starts[at] = 1

        inside = np.zeros(sizes.shape, np.int32)
        inside[:, 0:-1:2] = inside[:, 1::2] = begin_a
        position = place.astype(np.int32)
        position -= of_tokens(inside)
        position *= mask
        number = np.append(np.arange(2 * most, dtype=np.int32) // 2 + 1, np.int32(0))
        tokens = {
            "input_ids": ids,
            "input_mask": mask,
            "segment_ids": stretch & stretch.dtype.type(1),
            "word_starts": starts,
            "position_ids": position,
            "sequence_ids": of_tokens(np.broadcast_to(number, sizes.shape)),
        }
        for name, values in tokens.items():
            out[name][...] = values.reshape(rows, self.length)
        out["cls_positions"][...] = np.where(used, begin_a - self.length * np.arange(rows)[:, None], 0)

    def describe(self) -> dict[str, Any]:
        """What the unpacked feed says, with `padding_share` and `rows_per_epoch` those of packed rows; besides
        `examples_per_epoch`, `examples_per_row` and `padding_share_unpacked`."""
        plain = self.plain.describe()
        rows, sums = self._plan(0)
        return plain | {
            "rows_per_epoch": len(rows),
            "examples_per_epoch": sums["examples"],
            "examples_per_row": self.examples_per_row(),
            "padding_share": 1 - sums["tokens"] / max(1, len(rows)) / self.length,
            "padding_share_unpacked": plain["padding_share"],
        }


def _spread(used: NDArray[np.bool_], values: Ints) -> Ints:
    """(B, P): `values` (E,) at the used places, 0 elsewhere."""
    found = np.zeros(used.shape, np.int64)
    found[used] = values
    return found


def _offsets(used: NDArray[np.bool_], begins: Ints, addresses: Any, spans: Spans) -> Ints:
    """(B, 2P + 1): what to add to a token's place (in all rows end to end) to get its address, by stretch.

    Of [CLS] and [SEP], which are written over what lies there, it is a neighbour's; of padding near 0.
    """
    found = -begins
    found[:, 0:-1:2] += _spread(used, addresses(spans.a0) - 1)
    found[:, 1::2] += _spread(used, addresses(spans.b0))
    return found
