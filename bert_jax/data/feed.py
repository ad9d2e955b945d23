"""The feed: which examples stand at which positions, as a pure function; nothing to save, nothing to skip on resume.

    position ──(row counts of the variants)──► epoch, offset ──(keyed permutation)──► row ──(plan)──► spans ──► tokens

Epoch e goes once through all rows of plan variant e mod `variants`, in an order keyed by (seed, epoch). The global
batch of step s holds positions [s · batch, (s + 1) · batch); which host makes which of them does not matter.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bert_jax.data.memory import aligned
from bert_jax.data.mixture import AnyFeed, Batch, Ints, Mixture
from bert_jax.data.packed_feed import PackedFeed, Packing
from bert_jax.data.pairs import Walk
from bert_jax.data.plan import Plan, PlanKey, is_made, open_plan, row_count
from bert_jax.data.positions import BLOCK_ROWS, Positions, forget_all_but
from bert_jax.data.spans import ROW_FIELDS, Spans, decode_rows
from bert_jax.errors import BertJaxError

VARIANTS = 10  # the published dupe_factor
_WINDOW_BYTES = 32 << 30
_CHUNK_TOKENS = 1 << 17  # rows are put together so many tokens at a time: their indices then stay in the cache


@dataclass(frozen=True)
class SpecialIds:
    """The ids a feed puts around segments."""

    cls: int
    sep: int
    pad: int


class Feed:
    """Examples of one split of one store. Make one with `make_feed`; safe to call from several threads."""

    def __init__(
        self,
        store: Any,
        split: str,
        walk: Walk,
        seed: int,
        variants: int,
        plan_dir: Path,
        special: SpecialIds,
        window_bytes: int = _WINDOW_BYTES,
    ):
        self.store, self.split, self.walk, self.seed, self.variants = store, split, walk, seed, variants
        self.length = walk.length
        self._documents = store.split(split)
        self._plan_dir, self.special, self._window_bytes = plan_dir, special, window_bytes
        self._lock = threading.RLock()
        self._plans: dict[int, Plan] = {}
        self.positions = Positions(
            seed,
            variants,
            self.rows_per_epoch,
            lambda variant: is_made(self.key(variant)),
            lambda variant: open_plan(self.key(variant)),
            lambda rows: (BLOCK_ROWS, self.window_blocks(rows, BLOCK_ROWS)),
        )

    # --- positions → rows ---

    @property
    def max_rows(self) -> int:
        """A bound that no variant's row count exceeds: a chunk begins with a sentence, or with a cut piece of one."""
        return int(self._documents.sentences) + int(self._documents.tokens) // self.walk.room

    def rows_per_epoch(self, epoch: int) -> int:
        """How many examples one epoch holds; makes the plan's count first if it is not known."""
        return row_count(self.key(epoch % self.variants))

    def locate(self, positions: Ints) -> tuple[Ints, Ints]:
        """(epoch, row), int64 (B,), of int64 (B,) positions counted from 0."""
        return self.positions.locate(positions)

    def window_blocks(self, rows: int, block: int) -> int | None:
        """How many blocks of `block` of an epoch's `rows` a window holds; None: all, as the store fits into memory."""
        size = int(self._documents.tokens) * (2 if self.store.vocab_size <= 1 << 16 else 4)
        return None if size <= self._window_bytes else max(1, -(-rows // block) * self._window_bytes // size)

    def key(self, variant: int) -> PlanKey:
        """What the plan of a variant depends on."""
        return PlanKey(self.store, self.split, self.walk, self.seed, variant, self._plan_dir)

    def plan(self, variant: int) -> Plan:
        """The plan of a variant, made first if it is not there."""
        with self._lock:
            if variant not in self._plans:
                forget_all_but(self._plans, 2)
                self._plans[variant] = open_plan(self.key(variant))
            return self._plans[variant]

    # --- rows → examples ---

    def spans(self, epochs: Ints, rows: Ints) -> Spans:
        """What stands in the plan for each (epoch, row): split-wide token numbers and labels.

        Asked once for every chunk, packed or not, so here the store's files are looked after (see `watch`).
        """
        self._documents.look()
        variants = epochs % self.variants
        found = np.empty((len(rows), ROW_FIELDS), np.int32)
        for variant in np.unique(variants).tolist():
            here = np.flatnonzero(variants == variant)
            found[here] = self.plan(variant).rows[rows[here]]
        return decode_rows(found)

    def examples(self, positions: Ints) -> Batch:
        """The examples at `positions` (int64 (B,), from 0): the schema `batch.EXAMPLES`, int32 but for uint8 where a
        value is 0 or 1 at each token, and uint32 `example_ids`, which are row numbers. A pure function: equal
        positions give equal arrays, always.

        Word starts: [CLS], [SEP] and the first token of each segment begin a word, padding does not.
        """
        positions = np.asarray(positions, np.int64)
        epochs, rows = self.locate(positions)
        spans = self.spans(epochs, rows)
        shape = len(positions), self.length
        batch = {"input_ids": aligned(shape, np.dtype(np.int32))}
        batch |= {name: aligned(shape, np.dtype(np.uint8)) for name in ("input_mask", "segment_ids", "word_starts")}
        step = max(1, _CHUNK_TOKENS // self.length)
        for first in range(0, len(positions), step):
            part = slice(first, first + step)
            self._fill({name: array[part] for name, array in batch.items()}, Spans(*(field[part] for field in spans)))  # type: ignore[arg-type]
        batch["example_ids"] = rows.astype(np.uint32)
        batch["epochs"] = epochs.astype(np.int32)
        batch["next_sentence_labels"] = spans.label
        return batch

    def _fill(self, out: Batch, spans: Spans) -> None:
        """[CLS] A [SEP] B [SEP] of each row, or [CLS] A [SEP] where B is empty, padded to the length."""
        rows = np.arange(len(spans.a0))
        in_a, in_b = spans.a1 - spans.a0, spans.b1 - spans.b0
        begin_b = in_a + 2
        paired = np.flatnonzero(in_b)
        stop = begin_b + np.where(in_b > 0, in_b + 1, 0)
        last_a, last_b = in_a + 1, stop[paired] - 1
        column = np.arange(self.length, dtype=np.int32)
        mask = column < stop[:, None].astype(np.int32)
        second = column >= begin_b[:, None].astype(np.int32)
        ids = self._tokens(spans, second, begin_b)
        ids[rows, 0] = self.special.cls
        ids[rows, last_a] = self.special.sep
        ids[paired, last_b] = self.special.sep
        out["input_ids"][...] = np.where(mask, ids, ids.dtype.type(self.special.pad))
        out["input_mask"][...] = mask
        starts = self._word_starts(spans, second, begin_b)
        starts[rows, 0] = starts[rows, 1] = starts[rows, last_a] = 1
        starts[paired, begin_b[paired]] = starts[paired, last_b] = 1
        np.logical_and(second, mask, out=second)
        out["segment_ids"][...] = second
        starts &= mask.view(np.uint8)
        out["word_starts"][...] = starts

    def _tokens(self, spans: Spans, second: NDArray[np.bool_], begin_b: Ints) -> np.ndarray:
        """Ids (B, T) with both segments where they belong, and anything elsewhere."""
        memory, addresses = self._documents.token_memory, self._documents.token_addresses
        first = windows(memory, addresses(spans.a0) - 1, self.length)
        return np.where(second, windows(memory, addresses(spans.b0) - begin_b, self.length), first)

    def _word_starts(self, spans: Spans, second: NDArray[np.bool_], begin_b: Ints) -> NDArray[np.uint8]:
        """Word-start bits (B, T), 0 or 1, with both segments where they belong, and anything elsewhere."""
        memory, addresses = self._documents.word_start_memory, self._documents.word_start_addresses
        first = bit_windows(memory, addresses(spans.a0) - 1, self.length)
        return np.where(second, bit_windows(memory, addresses(spans.b0) - begin_b, self.length), first)

    # --- about it ---

    def describe(self) -> dict[str, Any]:
        """What a log should say: examples per epoch, share of random second segments and of the commoner label,
        mean real length and padding share, and from the manifest the unigram entropy in nats, if it is there."""
        plan = self.plan(0)
        rows = max(1, plan.summary["rows"])
        random_share = plan.summary["random"] / rows
        summary = dict(self.store.manifest.get("summary", {}))
        return {
            "split": self.split,
            "length": self.length,
            "objective": self.walk.objective,
            "rows_per_epoch": plan.summary["rows"],
            "random_share": random_share,
            "majority_label_share": max(random_share, 1 - random_share),
            "mean_tokens": plan.summary["tokens"] / rows,
            "padding_share": 1 - plan.summary["tokens"] / rows / self.length,
            **{name: summary[name] for name in ("unigram_entropy", "commonest_token_share") if name in summary},
        }


def windows(memory: np.ndarray, starts: Ints, width: int) -> np.ndarray:
    """memory[start : start + width] for each start, (B, width): whole rows are copied, not elements one by one.

    What a window holds outside `memory` is undefined; nothing outside is read.
    """
    room = len(memory) - width
    if room < 0:
        return memory.take(starts[:, None] + np.arange(width), mode="clip")
    every = np.lib.stride_tricks.as_strided(memory, (room + 1, width), memory.strides * 2, writeable=False)
    found: np.ndarray = every[np.clip(starts, 0, room)]
    outside = np.flatnonzero((starts < 0) | (starts > room))
    if len(outside):
        found[outside] = memory.take(starts[outside, None] + np.arange(width), mode="clip")
    return found


def bit_windows(memory: NDArray[np.uint8], starts: Ints, width: int) -> NDArray[np.uint8]:
    """Like `windows`, over bits packed least significant first: uint8 (B, width), 0 or 1."""
    needed = -(-width // 8)
    packed = windows(memory, starts >> 3, needed + 1)
    shift = (starts & 7).astype(np.uint8)[:, None]
    # numpy shifts a byte by 8 to nothing, as is needed where shift is 0.
    aligned = packed[:, :-1] >> shift | packed[:, 1:] << (np.uint8(8) - shift)
    return np.unpackbits(aligned, axis=1, count=width, bitorder="little")


def make_feed(
    stores: Any | Sequence[Any],
    *,
    split: str = "train",
    length: int,
    seed: int,
    objective: str = "mlm+nsp",
    short_share: float = 0.1,
    variants: int | None = None,
    plan_dir: str | os.PathLike[str],
    weights: Sequence[float] | None = None,
    window_bytes: int = _WINDOW_BYTES,
    packing: Packing | None = None,
) -> AnyFeed:
    """A feed over one token store, or a mixture over several with `weights` (their shares of the examples).

    `objective` is `mlm+nsp`, `mlm` or `mlm+sop` (see `pairs`); `variants` how many plans the epochs go round (10 for
    `train`, 1 for `eval` unless given). Plans are kept in `plan_dir`. With `packing` a row holds several examples; the
    shares of a mixture are still those of the examples. Errors: `BertJaxError` for settings that cannot
    be, a split without examples, stores of different tokenizers.
    """
    if not isinstance(stores, Sequence):
        stores = [stores]
    walk = Walk(length, objective, short_share)
    variants = variants if variants is not None else VARIANTS if split == "train" else 1
    if variants < 1:
        raise BertJaxError(f"variants is {variants}: expected at least 1 (the published value is {VARIANTS})")
    feeds = []
    for store in stores:
        if not store.split(split).documents:
            hint = ": prepare it with a larger --eval-fraction" if split == "eval" else ""
            raise BertJaxError(f"store {store.path} has no documents in its {split} split{hint}")
        feed = Feed(store, split, walk, seed, variants, Path(plan_dir), special_ids(store), window_bytes)
        if not feed.rows_per_epoch(0):
            raise BertJaxError(
                f"store {store.path} gives no examples in its {split} split: its documents are too short"
            )
        feeds.append(feed)
    if packing is None or packing.most == 1:
        return feeds[0] if len(feeds) == 1 and not weights else Mixture(feeds, weights or [1.0] * len(feeds), seed)
    packed = [PackedFeed(feed, packing) for feed in feeds]
    for one in packed:
        one.check()
    if len(packed) == 1 and not weights:
        return packed[0]
    shares = zip(weights or [1.0] * len(packed), packed, strict=True)
    return Mixture(packed, [share / one.examples_per_row() for share, one in shares], seed)


def special_ids(store: Any) -> SpecialIds:
    """The special ids of the tokenizer that a store was made with (read from its own copy)."""
    from bert_jax.text.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(store.tokenizer_path)
    return SpecialIds(tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id)
