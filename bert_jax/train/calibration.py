"""How many steps fit into N minutes on this machine: measured before step 0 on a throw-away state, nothing trained."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from bert_jax.config import Config
from bert_jax.console import clock, log
from bert_jax.errors import BertJaxError
from bert_jax.train.evaluation import Evaluation, opened
from bert_jax.train.loop import Feed, evaluation_interval, phase_spans
from bert_jax.train.run import with_steps

PROVISIONAL_STEPS = 1000
_TIMED_SECONDS = 6.0
_TIMED_STEPS = (3, 50)  # fewest, most


class Costs(NamedTuple):
    """Seconds: to compile all phases, per step of each phase, per evaluation, per save."""

    compile: float
    steps: tuple[float, ...]
    evaluation: float
    save: float


def provisional(config: Config) -> Config:
    """`config` with some number of steps, so that programs and feeds can be made for `calibrate`."""
    return with_steps(config, PROVISIONAL_STEPS)


def calibrate(
    config: Config,
    program_for_phase: Callable[[int], Any],
    feed: Feed,
    evaluations: Mapping[str, Evaluation] | None = None,
) -> int:
    """The number of steps for which training takes about `config.train.minutes`, this calibration included.

    `program_for_phase` and `feed` are made for `provisional(config)`. All processes get the same number.
    Errors: `BertJaxError` when the minutes do not suffice for a single step.
    """
    minutes = config.train.minutes
    assert minutes is not None, "calibrate is for train.minutes"
    began = time.monotonic()
    costs = measure(provisional(config), program_for_phase, feed, evaluations or {})
    spent = time.monotonic() - began
    steps = steps_within(config, costs, minutes * 60 - spent, bool(evaluations))
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        steps = int(multihost_utils.broadcast_one_to_all(jax.numpy.int32(steps)))
    log(
        f"train.minutes {minutes:g}: {steps} steps of {costs.steps[0]:.3f} s "
        f"(compilation {clock(costs.compile)}, an evaluation {clock(costs.evaluation)}, calibration {clock(spent)})"
    )
    return steps


def measure(
    config: Config, program_for_phase: Callable[[int], Any], feed: Feed, evaluations: Mapping[str, Evaluation]
) -> Costs:
    """Compile and time a few steps of every phase, one evaluation and one fetch of the state."""
    compile_seconds, step_seconds, evaluation_seconds, save_seconds = 0.0, [], 0.0, 0.0
    for span in phase_spans(config):
        program = program_for_phase(span.phase)
        with opened(feed(span.begin)) as batches:
            state = program.init_state()
            began = time.monotonic()
            state, metrics = program.train_step(state, program.place(next(batches)))
            jax.block_until_ready(metrics)
            compile_seconds += time.monotonic() - began
            count, began = 0, time.monotonic()
            while count < _TIMED_STEPS[0] or (count < _TIMED_STEPS[1] and time.monotonic() - began < _TIMED_SECONDS):
                state, metrics = program.train_step(state, program.place(next(batches)))
                count += 1
                jax.block_until_ready(metrics["loss"])
            jax.block_until_ready(state)
            step_seconds.append((time.monotonic() - began) / count)
        if span.phase == 0:
            began = time.monotonic()
            for leaf in jax.tree.leaves(state):
                for shard in leaf.addressable_shards:
                    shard.data.block_until_ready()
                    jax.device_get(shard.data)
            save_seconds = time.monotonic() - began
            evaluation_seconds = _time_evaluation(evaluations, program, state.params)
    return Costs(compile_seconds, tuple(step_seconds), evaluation_seconds, save_seconds)


def _time_evaluation(evaluations: Mapping[str, Evaluation], program: Any, params: Any) -> float:
    """Seconds of all evaluations: of a second pass, already compiled, unless the first was long anyway."""
    seconds = 0.0
    for attempt in range(2):
        began = time.monotonic()
        for evaluation in evaluations.values():
            evaluation(program, params)
        seconds = time.monotonic() - began
        if attempt == 0 and seconds > 10 * _TIMED_SECONDS:
            break
    return seconds


def steps_within(config: Config, costs: Costs, seconds: float, evaluates: bool) -> int:
    """The largest number of steps of the first phase with which the whole run takes at most `seconds`.

    Errors: `BertJaxError` when one step is too many.
    """

    def whole(steps: int) -> float:
        planned = with_steps(config, steps)
        total = planned.total_steps
        evaluations = -(-total // evaluation_interval(planned)) if evaluates else 0
        saves = -(-total // planned.checkpoint.every)
        later = sum(cost * phase.steps for cost, phase in zip(costs.steps[1:], planned.phases[1:], strict=True))
        return costs.compile + steps * costs.steps[0] + later + evaluations * costs.evaluation + saves * costs.save

    if whole(1) > seconds:
        raise BertJaxError(
            f"train.minutes {config.train.minutes:g} is too short: calibration, compilation and one step take "
            f"{clock(whole(1) + config.train.minutes * 60 - seconds)}; give more minutes, or train.steps"  # type: ignore[operator]
        )
    low, high = 1, 2
    while whole(high) <= seconds:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if whole(middle) <= seconds else (low, middle)
    return low
