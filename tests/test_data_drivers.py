"""Both drivers give the feed's own batches, sliced per process, and end cleanly however they end."""

from __future__ import annotations

import gc
import importlib.util
import threading
import time
from typing import Any

import numpy as np
import pytest

from bert_jax.data import drivers
from bert_jax.data.drivers import batches
from bert_jax.errors import BertJaxError

DRIVERS = ["thread", "tf"]


class Numbers:
    """A feed whose examples are their positions."""

    length = 8

    def __init__(self, fail_at: int | None = None):
        self.fail_at = fail_at
        self.asked: list[np.ndarray] = []

    def examples(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """Positions in several dtypes and shapes."""
        self.asked.append(positions)
        if self.fail_at is not None and (positions >= self.fail_at).any():
            raise BertJaxError("the disk is gone")
        return {
            "input_ids": np.repeat(positions[:, None], 8, axis=1).astype(np.int32),
            "example_ids": positions.astype(np.uint32),
            "weights": positions.astype(np.float32),
        }

    def rows_per_epoch(self, epoch: int) -> int:
        """Any number."""
        return 1_000

    def describe(self) -> dict[str, Any]:
        """Nothing."""
        return {}


def ids(found: list[dict[str, np.ndarray]]) -> list[list[int]]:
    return [one["example_ids"].tolist() for one in found]


def feed_threads() -> int:
    return sum(thread.name == "bert_jax feed" for thread in threading.enumerate())


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("chunk", [1, 300, 1 << 17])
def test_step_s_holds_its_positions(driver: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(drivers._CHUNK_TOKENS, driver, chunk)
    found = list(batches(Numbers(), 5, 11, 12, driver=driver))
    assert ids(found) == [list(range(12 * step, 12 * step + 12)) for step in range(5, 16)]
    for one in found:
        assert list(one) == ["input_ids", "example_ids", "weights"]
        assert one["input_ids"].shape == (12, 8)
        assert [array.dtype.name for array in one.values()] == ["int32", "uint32", "float32"]
        assert np.array_equal(one["input_ids"][:, 7], one["example_ids"].astype(np.int32))


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_slices_of_any_number_of_processes_make_the_global_batch(driver: str, count: int) -> None:
    whole = ids(list(batches(Numbers(), 2, 4, 12, driver="thread")))
    feeds = [Numbers() for _ in range(count)]
    parts = [
        ids(list(batches(feed, 2, 4, 12, process_index=index, process_count=count, driver=driver)))
        for index, feed in enumerate(feeds)
    ]
    assert [[one for part in parts for one in part[step]] for step in range(4)] == whole
    for feed in feeds:  # each process makes its own slice and no more
        assert sum(map(len, feed.asked)) == 4 * 12 // count


@pytest.mark.parametrize("driver", DRIVERS)
def test_starting_later_is_skipping(driver: str) -> None:
    whole = ids(list(batches(Numbers(), 0, 9, 4, driver=driver)))
    assert ids(list(batches(Numbers(), 6, 3, 4, driver=driver))) == whole[6:]
    assert ids([next(batches(Numbers(), 10**6, None, 4, driver=driver))]) == [list(range(4 * 10**6, 4 * 10**6 + 4))]


@pytest.mark.parametrize("driver", DRIVERS)
def test_no_steps_is_no_batches(driver: str) -> None:
    assert list(batches(Numbers(), 3, 0, 4, driver=driver)) == []


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("fail_at", [0, 40])
def test_errors_reach_the_consumer(driver: str, fail_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(drivers._CHUNK_TOKENS, driver, 1)
    iterator = batches(Numbers(fail_at), 0, None, 4, driver=driver)
    for step in range(fail_at // 4):
        assert ids([next(iterator)]) == [list(range(4 * step, 4 * step + 4))]
    with pytest.raises(BertJaxError, match="the disk is gone"):
        next(iterator)
    assert list(iterator) == []
    assert feed_threads() == 0


def test_close_ends_the_thread() -> None:
    with batches(Numbers(), 0, None, 4, driver="thread") as iterator:
        next(iterator)
        assert feed_threads() == 1
    assert feed_threads() == 0
    assert list(iterator) == []


@pytest.mark.parametrize("driver", DRIVERS)
def test_dropping_the_iterator_ends_its_work(driver: str) -> None:
    feed = Numbers()
    iterator = batches(feed, 0, None, 4, driver=driver)
    next(iterator)
    del iterator
    gc.collect()
    assert feed_threads() == 0
    asked = len(feed.asked)
    time.sleep(0.2)
    assert len(feed.asked) <= asked + 2


def test_no_more_than_prefetch_is_made_ahead() -> None:
    feed = Numbers()
    drivers_chunk = drivers._CHUNK_TOKENS["thread"] // 8 // 8_192
    iterator = batches(feed, 0, None, 8_192, driver="thread", prefetch=3)
    time.sleep(0.3)
    made = sum(map(len, feed.asked)) // 8_192
    assert made <= (3 + 2) * max(1, drivers_chunk)
    iterator.close()


def test_auto_is_tensorflow_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(batches(Numbers(), 0, 1, 4), drivers._TensorFlowBatches)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert isinstance(batches(Numbers(), 0, 1, 4), drivers._ThreadBatches)


def test_tensorflow_sees_no_accelerator() -> None:
    tensorflow = drivers.tensorflow_on_cpu()
    assert {device.device_type for device in tensorflow.config.get_visible_devices()} <= {"CPU"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 10, "process_count": 4}, "batch size 10 cannot be shared equally by 4 processes"),
        ({"batch_size": 0}, "batch size 0"),
        ({"process_index": 2, "process_count": 2}, "process index 2 of 2"),
        ({"driver": "grain"}, "feed driver 'grain' is unknown"),
        ({"start_step": -1}, "steps from -1"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BertJaxError, match=message):
        batches(Numbers(), **{"start_step": 0, "steps": 1, "batch_size": 4, **settings})
