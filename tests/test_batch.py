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
