"""Predictions run on one CPU unless told otherwise; parameters are whole on every device, rows are spread."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from bert_jax.errors import BertJaxError
from bert_jax.infer.placing import Placing, prediction_devices


def test_one_cpu_by_default() -> None:
    assert prediction_devices() == jax.local_devices()[:1]
    assert prediction_devices(3) == jax.local_devices()[:3]
    for count in (0, 9):
        with pytest.raises(BertJaxError, match=f"devices is {count}: expected 1 to 8, what this process has .cpu."):
            prediction_devices(count)


def test_whole_parameters_and_spread_rows() -> None:
    placing = Placing(jax.local_devices()[:4])
    array = np.arange(24, dtype=np.float32).reshape(8, 3)
    whole, rows = placing.everywhere({"x": array})["x"], placing.rows(array)
    assert [shard.data.shape for shard in whole.addressable_shards] == [(8, 3)] * 4
    assert [shard.data.shape for shard in rows.addressable_shards] == [(2, 3)] * 4
    np.testing.assert_array_equal(rows, array)
    one = Placing(jax.local_devices()[2:3])
    assert one.everywhere(array).devices() == {jax.local_devices()[2]}
    assert one.rows(array) is array
