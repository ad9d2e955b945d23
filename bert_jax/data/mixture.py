"""Several feeds as one: a position's store, and its position there, by arithmetic alone.

Each block of 1,000 positions gives every store its rounded quota, in an order permuted by (seed, block). So the shares
are exact over any thousand steps of one example, and nothing needs to be remembered to resume.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bert_jax.data.permutation import permute
from bert_jax.errors import BertJaxError

Ints = NDArray[np.int64]
Batch = dict[str, np.ndarray]

BLOCK = 1_000
_OF_ROWS = ("padding_share", "examples_per_row")  # what is described of rows; all else of examples


class AnyFeed(Protocol):
    """What a driver needs of a feed: its `length` in tokens, and batches of the examples at int64 positions from 0."""

    length: int

    def examples(self, positions: Ints) -> Batch: ...

    def rows_per_epoch(self, epoch: int) -> int: ...

    def describe(self) -> dict[str, Any]: ...


class MixedFeed(AnyFeed, Protocol):
    """What a mixture needs of a feed besides."""

    store: Any

    @property
    def max_rows(self) -> int: ...


def quotas(weights: Sequence[float], block: int = BLOCK) -> Ints:
    """How many of `block` positions each store gets: int64, adding up to `block`, by largest remainder (ties: first).

    Errors: `BertJaxError` for a weight that is not a positive number, or too small for one position.
    """
    shares = np.asarray(weights, np.float64)
    if not (np.isfinite(shares).all() and (shares > 0).all()):
        raise BertJaxError(f"mixture weights {list(weights)}: expected positive numbers")
    exact = shares / shares.sum() * block
    counts = np.floor(exact).astype(np.int64)
    short = block - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:short]] += 1
    if not counts.all():
        raise BertJaxError(
            f"mixture weight {weights[int(np.argmin(counts))]} is too small: expected at least one example in {block}"
        )
    return counts


class Mixture:
    """Feeds over several stores, mixed by weight. Pure like a feed; each store counts its own epochs."""

    def __init__(self, feeds: Sequence[MixedFeed], weights: Sequence[float], seed: int):
        if len(feeds) != len(weights):
            raise BertJaxError(f"{len(weights)} mixture weights for {len(feeds)} stores: expected one for each")
        _require_same_tokenizer([feed.store for feed in feeds])
        self.feeds, self.seed, self.length = list(feeds), seed, feeds[0].length
        self.quotas = quotas(weights)
        self._stops = np.cumsum(self.quotas)
        # Example numbers must differ between stores: each store's begin above the largest the ones before can have.
        self._id_offsets = np.concatenate([[0], np.cumsum([feed.max_rows for feed in feeds])]).astype(np.int64)
        if self._id_offsets[-1] > 2**32:
            raise BertJaxError(
                f"the mixture may hold {self._id_offsets[-1]:,} examples: expected at most {2**32:,}; use fewer stores"
            )

    def locate(self, positions: Ints) -> tuple[Ints, Ints]:
        """(store number, position in that store's own feed), int64 (B,), of int64 (B,) positions."""
        block, place = np.divmod(np.asarray(positions, np.int64), BLOCK)
        slot = np.empty_like(place)
        for number in np.unique(block).tolist():
            here = np.flatnonzero(block == number)
            slot[here] = permute(place[here], BLOCK, self.seed, "mixture", number)
        store = np.searchsorted(self._stops, slot, side="right")
        return store, block * self.quotas[store] + slot - (self._stops - self.quotas)[store]

    def examples(self, positions: Ints) -> Batch:
        """The examples at `positions`, as a feed gives them; `epochs` are each store's own."""
        stores, inner = self.locate(positions)
        batch: Batch = {}
        for number in np.unique(stores).tolist():
            here = np.flatnonzero(stores == number)
            part = self.feeds[number].examples(inner[here])
            part["example_ids"] = (part["example_ids"] + self._id_offsets[number]).astype(np.uint32)
            for name, array in part.items():
                batch.setdefault(name, np.empty((len(stores), *array.shape[1:]), array.dtype))[here] = array
        return batch

    def rows_per_epoch(self, epoch: int) -> int:
        """How many examples one pass over every store holds."""
        return sum(feed.rows_per_epoch(epoch) for feed in self.feeds)

    def describe(self) -> dict[str, Any]:
        """The feeds' figures as means weighted by share (of rows, or of the examples in them), and each store's own."""
        each = [feed.describe() for feed in self.feeds]
        of_rows = self.quotas / BLOCK
        of_examples = of_rows * [one.get("examples_per_row", 1.0) for one in each]
        of_examples /= of_examples.sum()
        common = [name for name in each[0] if all(name in one and isinstance(one[name], float) for one in each)]
        result = {}
        for name in common:
            shares = (of_rows if name in _OF_ROWS else of_examples).tolist()
            result[name] = sum(share * one[name] for share, one in zip(shares, each, strict=True))
        if "random_share" in result:
            result["majority_label_share"] = max(result["random_share"], 1 - result["random_share"])
        result |= {name: each[0][name] for name in ("split", "length", "objective")}
        result["rows_per_epoch"] = sum(one["rows_per_epoch"] for one in each)
        shares = of_examples.tolist()
        return result | {"stores": [{"share": share, **one} for share, one in zip(shares, each, strict=True)]}


def _require_same_tokenizer(stores: Sequence[Any]) -> None:
    for other in stores[1:]:
        if other.tokenizer_fingerprint != stores[0].tokenizer_fingerprint:
            raise BertJaxError(
                f"stores {stores[0].path} and {other.path} were made with different tokenizers "
                f"({stores[0].tokenizer_fingerprint[:12]} and {other.tokenizer_fingerprint[:12]}): "
                "prepare them with the same one"
            )
