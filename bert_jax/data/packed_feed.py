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

_CHUNK_TOKENS = 1 << 17  # rows are put together so many tokens at a time
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
        self._lock, self._own = threading.RLock(), threading.local()
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

        Seen as one line of tokens, the chunk is a sequence of runs: [CLS] A [SEP] and B [SEP] of each example in turn.
        What lies behind the last run of a row goes on as that run does, and is wiped out by the mask.
        """
        row, number = np.nonzero(used)
        in_a, in_b = spans.a1 - spans.a0, spans.b1 - spans.b0
        sizes = in_a + 2 + in_b + (in_b > 0)
        before = np.cumsum(sizes) - sizes
        first = number == 0  # every row has one
        start = before - np.repeat(before[first], used.sum(axis=1))  # in its row
        begin = row * self.length + start
        begin_b = begin + in_a + 2
        paired = np.flatnonzero(in_b)
        last = np.append(np.flatnonzero(first)[1:], len(row)) - 1  # of each row
        mask = np.less(np.arange(self.length), (start + sizes)[last, None], out=out["input_mask"].view(bool))
        flat = {name: array.reshape(-1) for name, array in out.items() if name != "cls_positions"}

        scratch = self._scratch(mask.size)
        runs = np.stack([begin, begin_b], axis=1)
        kept = np.stack([in_b >= 0, in_b > 0], axis=1)
        documents = self._documents
        address, steps = scratch.address, scratch.steps
        first_of_run = np.stack([documents.token_addresses(spans.a0) - 1, documents.token_addresses(spans.b0)], axis=1)
        _count_up(runs[kept], first_of_run[kept], steps, address)
        ids = documents.token_memory.take(address, mode="clip", out=scratch.ids)
        first_of_run = np.stack(
            [documents.word_start_addresses(spans.a0) - 1, documents.word_start_addresses(spans.b0)], axis=1
        )
        _count_up(runs[kept], first_of_run[kept], steps, address)
        bit = np.bitwise_and(address, 7, out=scratch.bit, casting="unsafe")
        address >>= 3
        starts = documents.word_start_memory.take(address, mode="clip", out=flat["word_starts"])
        starts >>= bit
        starts &= flat["input_mask"]  # leaves the lowest bit

        special = self.plain.special
        first_sep, second_sep = begin_b - 1, (begin_b + in_b)[paired]
        ids[begin] = special.cls
        ids[first_sep] = ids[second_sep] = special.sep
        for at in (begin, begin + 1, first_sep, begin_b[paired], second_sep):
            starts[at] = 1
        flat["input_ids"][...] = ids
        np.copyto(out["input_ids"], special.pad, where=~mask)

        _count_up(begin, np.zeros_like(begin), scratch.narrow_steps, flat["position_ids"])
        _repeat(begin, number + 1, scratch.narrow_steps, flat["sequence_ids"])
        segment = np.broadcast_to([0, 1], runs.shape)
        _repeat(runs[kept], segment[kept], scratch.bit, flat["segment_ids"])
        for name in ("position_ids", "sequence_ids", "segment_ids"):
            out[name] *= mask
        out["cls_positions"][...] = 0
        out["cls_positions"][used] = start

    def _scratch(self, tokens: int) -> _Scratch:
        """Of this thread, for so many tokens."""
        kept: dict[int, _Scratch] = self._own.__dict__.setdefault("scratch", {})
        if tokens not in kept:
            forget_all_but(kept, 1)  # one for whole chunks, one for the last of a batch
            kept[tokens] = _Scratch(tokens, self._documents.token_memory.dtype)
        return kept[tokens]

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


class _Scratch:
    """Memory that is used again for every chunk: fresh memory costs more than all that is computed in it."""

    def __init__(self, tokens: int, ids: np.dtype[Any]):
        self.address, self.steps = np.empty(tokens, np.int64), np.empty(tokens, np.int64)
        self.narrow_steps = np.empty(tokens, np.int32)
        self.ids, self.bit = np.empty(tokens, ids), np.empty(tokens, np.uint8)


def _count_up(begins: Ints, firsts: Ints, steps: np.ndarray, out: np.ndarray) -> None:
    """Fill `out` with runs that begin at `begins` (ascending, the first at 0): first, first + 1, … up to the next."""
    steps.fill(1)
    steps[begins[1:]] = firsts[1:] - firsts[:-1] - np.diff(begins) + 1
    steps[0] = firsts[0]
    np.cumsum(steps, out=out)


def _repeat(begins: Ints, values: Ints, steps: np.ndarray, out: np.ndarray) -> None:
    """Fill `out` with runs that begin at `begins` (ascending, the first at 0), of one value each."""
    steps.fill(0)
    steps[begins] = np.diff(values, prepend=0)
    np.cumsum(steps, out=out, dtype=out.dtype)  # unsigned ones come round to what they should be
