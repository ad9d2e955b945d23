"""The search for the largest batch, on steps whose memory is a known function of the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bert_jax.config import Config, Train
from bert_jax.scale.plan_search import MOST_COMPILATIONS, estimated_max_batch, largest_batch

LIMIT = 16_000


def found_at(memory: Callable[[int], float], rows: int) -> dict[str, Any]:
    used = int(memory(rows))
    kinds = {"parameters": 100, "optimizer": 200, "program": 10, "temporaries": used - 310}
    figures: dict[str, Any] = {"hbm_bytes": used, "hbm_limit_bytes": LIMIT, "hbm_bytes_by_kind": kinds}
    figures |= {"batch_per_chip": rows, "mesh": {"data": 2, "fsdp": 2}, "fits": used <= LIMIT, "compile_seconds": 1.0}
    figures["max_batch_per_chip"] = estimated_max_batch(Config(train=Train()), figures)
    return figures


@pytest.mark.parametrize("start", [8, 64, 500, 4000])
@pytest.mark.parametrize(
    ("memory", "right"),
    [
        (lambda rows: 400 + 20 * rows, 780),
        (lambda rows: 4_000 + 15.5 * rows, 774),  # much that the estimate does not know of
        (lambda rows: 400 + 7 * rows + rows**2 / 100, 947),
        (lambda rows: 400 + (20 * rows if rows < 600 else 30 * rows), 599),  # a jump
    ],
)
def test_the_largest_that_fits_is_nearly_found(memory: Callable[[int], float], right: int, start: int) -> None:
    tried = []

    def step(phase: int, batch: int) -> dict[str, Any]:
        tried.append(batch)
        assert batch % 4 == 0  # data × fsdp
        rows = batch // 4
        return {"hbm_bytes": int(memory(rows)), "fits": memory(rows) <= LIMIT, "compile_seconds": 1.0}

    figures = found_at(memory, start)
    most = largest_batch(Config(train=Train()), 0, figures, step)
    assert len(tried) == len(set(tried)) <= MOST_COMPILATIONS
    assert figures["compile_seconds"] == 1 + len(tried)
    assert memory(most) <= LIMIT
    assert right * 0.85 <= most <= right


def test_nothing_fits() -> None:
    figures = found_at(lambda rows: 20_000 + rows, 8)

    def step(phase: int, batch: int) -> dict[str, Any]:
        return {"hbm_bytes": 20_000 + batch, "fits": False, "compile_seconds": 1.0}

    assert largest_batch(Config(train=Train()), 0, figures, step) == 0
