"""The measured rate of a device: a rate, of the very multiplication."""

from __future__ import annotations

import time
from typing import Any

import jax
import pytest

from bert_jax.scale import matrix_rate


def test_it_counts_two_flops_for_each_product(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(100))
    clock: Any = type("Clock", (), {"perf_counter": staticmethod(lambda: next(now))})
    monkeypatch.setattr(matrix_rate, "time", clock)
    assert matrix_rate.matrix_rate(jax.devices()[0], size=8) == 2 * 8**3  # each took one second


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_no_faster_than_the_clock_around_it(dtype: str) -> None:
    begun = time.perf_counter()
    rate = matrix_rate.matrix_rate(jax.devices()[0], dtype, size=64)
    assert 0 < 2 * 64**3 / rate < time.perf_counter() - begun
