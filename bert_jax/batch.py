"""The two batch schemas, where the data room and the model room meet; checked once, at the boundary.

*Examples* go from the feed to the step. *Masked* goes from the step's masking to the model, and is what
google-research/bert's `create_pretraining_data.py` wrote (its seven feature names). Letters as in the package's
legend: B batch, T position, M predictions per sequence, P packed sequences per row.

`epochs` stands beside the keys that the masks are drawn from: a batch may straddle the end of an epoch, and each
store of a mixture counts its own, so the epoch belongs to the example and not to the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bert_jax.errors import BertJaxError


class Key(NamedTuple):
    """One array of a schema: axes by letter, kind ('i' integer, 'f' float, 'b' bool or 0/1 integer), and what it is."""

    axes: str
    kind: str
    meaning: str


EXAMPLES: dict[str, Key] = {
    "input_ids": Key("BT", "i", "token ids, [PAD] after the end"),
    "input_mask": Key("BT", "b", "1 at real tokens"),
    "segment_ids": Key("BT", "b", "0 in [CLS] A [SEP], 1 in B [SEP]"),
    "word_starts": Key("BT", "b", "1 where a word begins; the pieces after it belong to it"),
    "example_ids": Key("B", "i", "uint32, unique within an epoch"),
    "epochs": Key("B", "i", "int32, which pass over the data each example belongs to"),
    "next_sentence_labels": Key("B", "i", "0 when B follows A, 1 when it is random (or swapped)"),
}

# A row that holds P examples has these three besides, and example_ids, epochs, next_sentence_labels of shape (B, P).
PACKED: dict[str, Key] = {
    "position_ids": Key("BT", "i", "position inside the example"),
    "sequence_ids": Key("BT", "i", "1..P for the example a token belongs to, 0 at padding"),
    "cls_positions": Key("BP", "i", "where each example's [CLS] stands; an unused place repeats the first"),
}

MASKED: dict[str, Key] = {
    "input_ids": Key("BT", "i", "token ids after masking"),
    "input_mask": Key("BT", "b", "1 at real tokens"),
    "segment_ids": Key("BT", "b", "0 in A, 1 in B"),
    "masked_lm_positions": Key("BM", "i", "positions to predict, 0 where unused"),
    "masked_lm_ids": Key("BM", "i", "the original ids there, 0 where unused"),
    "masked_lm_weights": Key("BM", "f", "1.0 where a prediction counts"),
    "next_sentence_labels": Key("B", "i", "0 when B follows A, 1 when it is random (or swapped)"),
}


def check(batch: Mapping[str, Any], schema: Mapping[str, Key]) -> None:
    """Check names, ranks, sizes and dtypes of `batch` (numpy or jax arrays) against a schema.

    Keys outside the schema are allowed. Errors: `BertJaxError` naming the key, what came and what was expected.
    """
    sizes: dict[str, tuple[int, str]] = {}
    for name, key in schema.items():
        if name not in batch:
            raise BertJaxError(f"batch key {name!r} is missing: expected {key.axes} {key.meaning}; got {sorted(batch)}")
        array = batch[name]
        axes = key.axes
        if axes == "B" and "cls_positions" in batch:
            axes = "BP"
        if len(array.shape) != len(axes):
            raise BertJaxError(f"batch key {name!r} has shape {tuple(array.shape)}: expected axes ({', '.join(axes)})")
        for axis, size in zip(axes, array.shape, strict=True):
            known, by = sizes.setdefault(axis, (size, name))
            if size != known:
                raise BertJaxError(
                    f"batch key {name!r} has shape {tuple(array.shape)}: axis {axis} is {known} in {by!r}"
                )
        if array.dtype.kind not in {"i": "iu", "b": "iub", "f": "f"}[key.kind] and array.dtype.name != "bfloat16":
            expected = {"i": "an integer", "b": "a bool or 0/1 integer", "f": "a float"}[key.kind]
            raise BertJaxError(f"batch key {name!r} is {array.dtype}: expected {expected} ({key.meaning})")


def prediction_counts(length: int, predictions: int, share: float = 0.15) -> NDArray[np.int32]:
    """n for an example of 0..`length` tokens, specials counted: min(predictions, max(1, round(share · tokens))).

    int32 (length + 1,). Python's round (halves to even), as in google-research/bert `create_pretraining_data.py`:
    a table, because no accelerator rounds 0.15 · 50 like it.
    """
    return np.array([min(predictions, max(1, round(share * tokens))) for tokens in range(length + 1)], np.int32)


def row_predictions(length: int, packing: int, predictions: int, share: float = 0.15) -> int:
    """The most predictions that up to `packing` examples of together at most `length` tokens can have.

    More than for one example of all the tokens: each example rounds up for itself, and has at least one.
    """
    counts = prediction_counts(length, predictions, share)
    most = np.zeros(length + 1, np.int32)  # by the tokens that all examples so far have at most
    for _ in range(packing):
        before = most
        for tokens in range(_SHORTEST, length + 1):
            more = before[: length + 1 - tokens] + counts[tokens]
            most = np.concatenate([most[:tokens], np.maximum(most[tokens:], more)])
        if np.array_equal(most, before):
            break
    return int(most[-1])


_SHORTEST = 3  # [CLS] A [SEP]
