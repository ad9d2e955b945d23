"""How many steps fit into N minutes on this machine: measured before step 0 on a throw-away state, nothing trained."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from bert_jax import compat
from bert_jax.config import Config
from bert_jax.console import clock, log
from bert_jax.errors import BertJaxError
from bert_jax.train.checkpoint import Checkpoints
from bert_jax.train.evaluation import Evaluation, opened
from bert_jax.train.loop import Feed, evaluation_interval
from bert_jax.train.run import with_steps

_PROVISIONAL_STEPS = 1000
_TIMED_SECONDS = 6.0
_TIMED_STEPS = (3, 50)  # fewest, most


class Costs(NamedTuple):
    """Seconds: to compile all phases, per step of each phase, per evaluation, per save.

    `save` is what the loop waits for; until the save is on disk `background` more seconds go by, beside the training
    or, where the next save or the end comes sooner, waited for as well.
    """

    compile: float
    steps: tuple[float, ...]
    evaluation: float
    save: float
    background: float = 0.0


def provisional(config: Config) -> Config:
    """`config` with some number of steps, so that programs and feeds can be made for `calibrate`."""
    return with_steps(config, max(_PROVISIONAL_STEPS, 2 * math.ceil(config.optimizer.warmup)))


def _agreed(number: int) -> int:
    """The first process's number, on all of them: what follows is done together."""
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(jax.numpy.int32(number)))


def calibrate(
    config: Config,
    program_for_phase: Callable[[int], Any],
    feed: Feed,
    evaluations: Mapping[str, Evaluation] | None = None,
    run: Path | None = None,
) -> int:
    """The number of steps for which training takes about `config.train.minutes`, this calibration included.

    `program_for_phase` and `feed` are made for `provisional(config)`; saves are timed beside `run`, on its disk. All
    processes get the same number. Errors: `BertJaxError` when the minutes do not suffice for a single step, or the
    disk does not take a checkpoint.
    """
    minutes = config.train.minutes
    assert minutes is not None, "calibrate is for train.minutes"
    began = time.monotonic()
    with compat.uncached_compilation():
        costs = measure(provisional(config), program_for_phase, feed, evaluations or {}, run)
    spent = time.monotonic() - began
    steps = _agreed(steps_within(config, costs, minutes * 60 - spent, bool(evaluations)))
    if steps == 0:
        needed = spent + _seconds(config, costs, 1, bool(evaluations))
        raise BertJaxError(
            f"train.minutes {minutes:g} is too short: calibration, compilation and one step take {clock(needed)}; "
            "give more minutes, or train.steps"
        )
    log(
        f"train.minutes {minutes:g}: {steps} steps of {costs.steps[0]:.3f} s "
        f"(compilation {costs.compile:.1f} s, an evaluation {costs.evaluation:.1f} s, a checkpoint "
        f"{costs.save + costs.background:.1f} s, calibration {clock(spent)})"
    )
    return steps


def measure(
    config: Config,
    program_for_phase: Callable[[int], Any],
    feed: Feed,
    evaluations: Mapping[str, Evaluation],
    run: Path | None = None,
) -> Costs:
    """Compile and time a few steps of every phase, one evaluation and one save."""
    compile_seconds, step_seconds, evaluation_seconds, save = 0.0, [], 0.0, (0.0, 0.0)
    for span in config.spans:
        program = program_for_phase(span.phase)
        with opened(feed(span.begin)) as batches:
            state, first, each = _time_steps(program, batches)
        compile_seconds += first
        step_seconds.append(each)
        if span.phase == 0:
            if run is not None:
                save = _time_save(run, state)
            first, evaluation_seconds = _time_evaluation(evaluations, program, state.params)
            compile_seconds += first * len(config.phases)  # each phase compiles its own
    return Costs(compile_seconds, tuple(step_seconds), evaluation_seconds, *save)


def _time_save(run: Path, state: Any) -> tuple[float, float]:
    """Save beside the run, where the checkpoints will lie: seconds waited for, and those until it was on disk.

    Of a second save, when the first was short: that one also loads and compiles. Nothing of it stays.
    """
    beside = run.absolute().parent
    while not beside.is_dir():
        beside = beside.parent
    folder = beside / f".{run.name}.calibration"
    _remove(folder)  # of a calibration that was killed
    try:
        with Checkpoints(folder, keep=1, told=False) as checkpoints:
            for step in (1, 2):
                began = time.monotonic()
                checkpoints.save(step, state, {})
                waited = time.monotonic() - began
                checkpoints.wait()
                seconds = time.monotonic() - began
                if _agreed(int(seconds > _TIMED_SECONDS)):
                    break
    finally:
        _remove(folder)
    return waited, seconds - waited


def _remove(folder: Path) -> None:
    if jax.process_index() == 0:
        shutil.rmtree(folder, ignore_errors=True)


def _time_steps(program: Any, batches: Iterator[Mapping[str, Any]]) -> tuple[Any, float, float]:
    """A throw-away state after some steps, seconds to make it and for the first one, mean seconds of the others."""
    batch = next(batches)
    began = time.monotonic()
    state = jax.block_until_ready(program.init_state())
    making = time.monotonic() - began

    def timed(count: int) -> float:
        nonlocal state, batch
        began = time.monotonic()
        for _ in range(count):
            state, metrics = program.train_step(state, program.place(batch))
            jax.block_until_ready(metrics["loss"])
            batch = next(batches, batch)  # a phase of fewer steps repeats its last batch
        jax.block_until_ready(state)
        return time.monotonic() - began

    first = timed(1)
    fewest, most = _TIMED_STEPS
    seconds = timed(fewest)
    more = _agreed(max(0, min(most - fewest, int((_TIMED_SECONDS - seconds) / max(seconds / fewest, 1e-9)))))
    seconds += timed(more)
    return state, making + first, seconds / (fewest + more)


def _time_evaluation(evaluations: Mapping[str, Evaluation], program: Any, params: Any) -> tuple[float, float]:
    """Seconds of all evaluations: how much longer the first pass took, which compiles, and those of the second.

    There is no second pass after a first one that was long anyway.
    """
    each: list[float] = []
    for _ in range(2):
        began = time.monotonic()
        for evaluation in evaluations.values():
            evaluation(program, params)
        each.append(time.monotonic() - began)
        if _agreed(int(each[0] > 10 * _TIMED_SECONDS)):
            break
    return max(0.0, each[0] - each[-1]), each[-1]


def steps_within(config: Config, costs: Costs, seconds: float, evaluates: bool) -> int:
    """The largest number of steps of the first phase with which the whole run takes at most `seconds`; may be 0."""
    if _seconds(config, costs, 1, evaluates) > seconds:
        return 0
    low, high = 1, 2
    while _seconds(config, costs, high, evaluates) <= seconds:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _seconds(config, costs, middle, evaluates) <= seconds else (low, middle)
    return low


def _seconds(config: Config, costs: Costs, steps: int, evaluates: bool) -> float:
    """What a run with `steps` steps in its first phase takes."""
    planned = with_steps(config, steps)
    total = planned.total_steps
    evaluations = -(-total // evaluation_interval(planned)) if evaluates else 0
    saves = -(-total // planned.checkpoint.every)
    later = sum(cost * phase.steps for cost, phase in zip(costs.steps[1:], planned.phases[1:], strict=True))
    # A save waits for the one before it, where that is not on disk yet; the last one is waited for in any case.
    trained = steps * costs.steps[0] + later
    waiting = costs.background
    if saves > 1:
        every, step = planned.checkpoint.every, trained / total
        waiting += (saves - 2) * max(0.0, costs.background - every * step)
        waiting += max(0.0, costs.background - (total - (saves - 1) * every) * step)
    return costs.compile + trained + evaluations * costs.evaluation + saves * costs.save + waiting
