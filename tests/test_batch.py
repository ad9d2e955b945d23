"""batch: an error names the key, what came and what was expected."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bert_jax import batch
from bert_jax.errors import BertJaxError


def examples(rows: int = 2, length: int = 8) -> dict[str, Any]:
    arrays = {
        name: np.zeros([{"B": rows, "T": length}[axis] for axis in key.axes], np.int32)
        for name, key in batch.EXAMPLES.items()
    }
    arrays["example_ids"] = np.arange(rows, dtype=np.uint32)
    return arrays


def test_good_batches_pass() -> None:
    batch.check(examples(), batch.EXAMPLES)
    packed = examples()
    packed |= {"position_ids": packed["input_ids"], "sequence_ids": packed["input_ids"]}
    packed["cls_positions"] = np.zeros((2, 3), np.int32)
    for name in ("example_ids", "epochs", "next_sentence_labels"):
        packed[name] = np.zeros((2, 3), np.int32)
    batch.check(packed, batch.EXAMPLES | batch.PACKED)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"word_starts": None}, "'word_starts' is missing: expected BT"),
        ({"input_mask": np.zeros((2, 9), np.int32)}, r"'input_mask' has shape \(2, 9\): axis T is 8 in 'input_ids'"),
        ({"segment_ids": np.zeros((2, 8), np.float32)}, "'segment_ids' is float32: expected a bool or 0/1 integer"),
        ({"example_ids": np.zeros((2, 1), np.int32)}, r"'example_ids' has shape \(2, 1\): expected axes \(B\)"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], message: str) -> None:
    arrays = {key: value for key, value in (examples() | change).items() if value is not None}
    with pytest.raises(BertJaxError, match=message):
        batch.check(arrays, batch.EXAMPLES)


@pytest.mark.parametrize(
    ("length", "packing", "predictions", "share"), [(12, 3, 3, 0.15), (20, 2, 9, 0.3), (9, 1, 2, 0.15)]
)
def test_room_for_the_predictions_of_any_packed_row(length: int, packing: int, predictions: int, share: float) -> None:
    """Against all ways to share a row."""
    counts = batch.prediction_counts(length, predictions, share).tolist()

    def most(space: int, places: int) -> int:
        sizes = range(3, space + 1) if places else ()
        return max((counts[size] + most(space - size, places - 1) for size in sizes), default=0)

    assert batch.row_predictions(length, packing, predictions, share) == most(length, packing)


def test_a_packed_row_needs_little_more_room_than_one_example() -> None:
    assert batch.row_predictions(512, 1, 77) == 77
    assert [batch.row_predictions(512, packing, 77) for packing in (2, 4, 12)] == [77, 78, 83]
    assert batch.row_predictions(512, 4, 10) == 40
