"""Learning rates by hand, for every shape and for several phases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bert_jax.config import Config, Optimizer, Phase, Train
from bert_jax.errors import BertJaxError
from bert_jax.train.schedule import count_start, make_schedule, stretches, warmup_steps


def rates(steps: int = 100, later: tuple[Phase, ...] = (), **optimizer: Any) -> np.ndarray:
    config = Config(train=Train(steps=steps, later_phases=later), optimizer=Optimizer(**optimizer))
    schedule = make_schedule(config)
    return np.array([schedule(step) for step in range(config.total_steps + 1)])


def test_published_linear_decay_runs_beneath_the_warm_up() -> None:
    """google-research/bert `optimization.py`: peak·s/w below w, peak·(1 − s/n) from w: a small drop at s = w."""
    found = rates(learning_rate=1.0, warmup=10)
    expected = [step / 10 if step < 10 else 1 - step / 100 for step in range(101)]
    np.testing.assert_allclose(found, expected, atol=1e-7)
    assert found[0] == 0
    assert (found[9], found[10]) == (np.float32(0.9), np.float32(0.9))
    assert found.max() == np.float32(0.9)  # the peak itself is never reached
    assert found.dtype == np.float32


def test_decay_from_the_end_of_the_warm_up() -> None:
    found = rates(learning_rate=1.0, warmup=0.1, decay_from="warmup")
    expected = [step / 10 if step < 10 else 1 - (step - 10) / 90 for step in range(101)]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_polynomial_of_power_a_half() -> None:
    found = rates(learning_rate=6e-3, warmup=0.25, decay="polynomial", decay_power=0.5)
    np.testing.assert_allclose(found[[25, 50, 100]], [6e-3 * 0.75**0.5, 6e-3 * 0.5**0.5, 0], rtol=1e-5, atol=1e-9)


def test_cosine_constant_and_warmup_stable_decay() -> None:
    cosine = rates(learning_rate=2.0, warmup=0, decay="cosine", end_learning_rate=0.5)
    np.testing.assert_allclose(cosine[[0, 50, 100]], [2.0, 1.25, 0.5], rtol=1e-6)
    constant = rates(learning_rate=2.0, warmup=4, decay="constant")
    np.testing.assert_allclose(constant[[0, 1, 4, 100]], [0, 0.5, 2, 2])
    stable = rates(learning_rate=1.0, warmup=10, decay="wsd", decay_share=0.2, end_learning_rate=0.1)
    np.testing.assert_allclose(stable[[5, 10, 80, 90, 100]], [0.5, 1, 1, 0.55, 0.1], rtol=1e-6)


def test_end_learning_rate_is_held_past_the_end() -> None:
    schedule = make_schedule(Config(train=Train(steps=10), optimizer=Optimizer(end_learning_rate=1e-6)))
    np.testing.assert_allclose(schedule(1_000_000), 1e-6)


def test_one_schedule_spans_all_phases_unless_one_restarts() -> None:
    second = Phase(length=512, batch=8, steps=50)
    np.testing.assert_array_equal(rates(50, (second,), warmup=0.1), rates(100, warmup=0.1))
    again = Phase(length=512, batch=8, steps=50, learning_rate=0.5, warmup=0.2, restart=True)
    found = rates(100, (again,), learning_rate=1.0, warmup=10)
    np.testing.assert_array_equal(found[:100], rates(100, learning_rate=1.0, warmup=10)[:100])
    np.testing.assert_array_equal(found[100:], rates(50, learning_rate=0.5, warmup=10))
    config = Config(train=Train(steps=100, later_phases=(again, second)), optimizer=Optimizer(warmup=10))
    assert [span.begin for span in config.spans] == [0, 100, 150]
    assert [count_start(config, index) for index in range(3)] == [0, 100, 100]
    assert [(part.start, part.steps, part.warmup_steps) for part in stretches(config)] == [(0, 100, 10), (100, 100, 20)]


def test_the_published_large_batch_recipe() -> None:
    second = Phase(512, 32768, 1563, 80, learning_rate=4e-3, warmup=0.128, restart=True)
    optimizer = Optimizer("lamb", 6e-3, 0.2843, "polynomial", 0.5)
    config = Config(train=Train(batch=65536, steps=7038, later_phases=(second,)), optimizer=optimizer)
    assert [part.warmup_steps for part in stretches(config)] == [2000, 200]
    schedule = make_schedule(config)
    np.testing.assert_allclose(schedule(1000), 3e-3, rtol=1e-6)
    np.testing.assert_allclose(schedule(7038 + 100), 2e-3, rtol=1e-6)
    np.testing.assert_allclose(schedule(7038 + 1000), 4e-3 * (1 - 1000 / 1563) ** 0.5, rtol=1e-5)


def test_warmup_as_a_share_or_a_number() -> None:
    assert [warmup_steps(*case) for case in ((0, 10), (0.29, 100), (0.5, 3), (1, 10), (9, 10))] == [0, 29, 1, 1, 9]


@pytest.mark.parametrize("warmup", [-1, 100, 250])
def test_a_warmup_that_never_ends_is_an_error(warmup: float) -> None:
    with pytest.raises(BertJaxError, match=r"warmup .* of 100 steps"):
        rates(warmup=warmup)


def test_a_rate_of_its_own_needs_restart() -> None:
    with pytest.raises(BertJaxError, match=r"phase 1 has its own learning_rate or warmup.*restart=True"):
        rates(10, (Phase(512, 8, 5, learning_rate=1e-3),))
