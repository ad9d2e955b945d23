"""Choosing the steps for train.minutes."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_training import TinyFeed, TinyProgram, held_out, tiny_config, two_phases

from bert_jax import compat
from bert_jax.config import Config
from bert_jax.errors import BertJaxError
from bert_jax.train import calibration
from bert_jax.train.calibration import Costs, calibrate, provisional, steps_within
from bert_jax.train.checkpoint import Checkpoints


def _minutes(config: Config, minutes: float) -> Config:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, steps=None, minutes=minutes))


def _seconds(config: Config, steps: int, costs: Costs) -> float:
    """Counted one by one: what a run of `steps` costs."""
    evaluations = sum(step % config.evaluate.every == 0 or step == steps for step in range(1, steps + 1))  # type: ignore[operator]
    saves = sum(step % config.checkpoint.every == 0 or step == steps for step in range(1, steps + 1))
    waiting, free = 0.0, 0.0  # until when the disk is busy, after the end of the training done so far
    for step in range(1, steps + 1):
        free = max(0.0, free - costs.steps[0])
        if step % config.checkpoint.every == 0 or step == steps:
            waiting, free = waiting + free, costs.background
    waiting += free
    return costs.compile + steps * costs.steps[0] + evaluations * costs.evaluation + saves * costs.save + waiting


@pytest.mark.parametrize("background", [0.0, 0.7, 6.0])
@pytest.mark.parametrize("seconds", [50.0, 61.7, 300.0])
def test_the_steps_fill_the_time_and_no_more(seconds: float, background: float) -> None:
    config = _minutes(tiny_config(), 1.0)
    costs = Costs(compile=10.0, steps=(0.2,), evaluation=1.5, save=0.3, background=background)
    steps = steps_within(config, costs, seconds, evaluates=True)
    assert _seconds(config, steps, costs) <= seconds
    assert any(_seconds(config, steps + more, costs) > seconds for more in range(1, 2 + config.checkpoint.every))


def test_later_phases_take_their_part_of_the_time() -> None:
    config = _minutes(two_phases(100), 1.0)
    costs = Costs(compile=0.0, steps=(1.0, 2.0), evaluation=0.0, save=0.0)
    assert steps_within(config, costs, 260.0, evaluates=False) == 60


def test_too_few_minutes_are_refused() -> None:
    config = _minutes(tiny_config(), 1.0)
    assert steps_within(config, Costs(100.0, (2.0,), 0.0, 0.0), 50.0, evaluates=False) == 0
    feed = TinyFeed(provisional(config))
    with pytest.raises(BertJaxError, match=r"train.minutes 1e-06 is too short: .* one step take \d+:\d+; give more"):
        calibrate(_minutes(config, 1e-6), TinyProgram, feed)


def test_a_phase_of_fewer_steps_and_a_long_warm_up_are_calibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_TIMED_SECONDS", 0.2)
    config = _minutes(two_phases(2), 10.0)
    config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, warmup=5000))
    assert provisional(config).train.steps == 10_000
    assert calibrate(config, TinyProgram, TinyFeed(provisional(config))) > 10


def test_calibration_measures_and_trains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_TIMED_SECONDS", 0.2)
    config = _minutes(tiny_config(), 10.0)
    feed = TinyFeed(provisional(config), seconds=0.01)
    steps = calibrate(config, TinyProgram, feed, {"": held_out()})
    assert 10 < steps < 600 / 0.01  # the feed alone takes 0.01 s; the machine may be busy
    assert feed.begun == [0]
    assert feed.closed == 1


def test_a_save_is_timed_on_the_disk_of_the_run_and_nothing_of_it_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = []
    save = calibration.Checkpoints.save

    def seen(checkpoints: Checkpoints, step: int, *arguments: Any) -> None:
        found.append(checkpoints.directory)
        time.sleep(0.2)
        save(checkpoints, step, *arguments)

    caplog.set_level("INFO", "bert_jax")
    monkeypatch.setattr(calibration, "_TIMED_SECONDS", 0.2)
    monkeypatch.setattr(calibration.Checkpoints, "save", seen)
    config = provisional(_minutes(tiny_config(), 10.0))
    (tmp_path / ".run.calibration").mkdir()  # of one that was killed
    costs = calibration.measure(config, TinyProgram, TinyFeed(config), {}, tmp_path / "run")
    assert set(found) == {tmp_path / ".run.calibration"}
    assert costs.save >= 0.2 and costs.background > 0
    assert not list(tmp_path.iterdir())
    assert not caplog.messages  # no checkpoint of the run was saved
    assert not (tmp_path / "none").exists()
    calibration.measure(config, TinyProgram, TinyFeed(config), {}, tmp_path / "none" / "run")
    assert not list(tmp_path.iterdir())


def test_what_lies_in_the_compilation_cache_is_compiled_all_the_same(tmp_path: Path) -> None:
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    config: Any = jax.config
    before, least = config.jax_compilation_cache_dir, config.jax_persistent_cache_min_compile_time_secs
    compilation_cache.reset_cache()
    config.update("jax_compilation_cache_dir", str(tmp_path))
    config.update("jax_persistent_cache_min_compile_time_secs", 0)
    try:
        with compat.uncached_compilation():
            jax.jit(lambda x: x * 3 + 1)(2.0)
        assert not list(tmp_path.iterdir())
        jax.jit(lambda x: x * 3 + 2)(2.0)
        assert list(tmp_path.iterdir())
    finally:
        config.update("jax_compilation_cache_dir", before)
        config.update("jax_persistent_cache_min_compile_time_secs", least)
        compilation_cache.reset_cache()
