"""How many steps fit into N minutes on this machine: measured before step 0 on a throw-away state, nothing trained."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from bert_jax.config import Config
from bert_jax.console import clock, log
from bert_jax.errors import BertJaxError
from bert_jax.train.evaluation import Evaluation, opened
from bert_jax.train.loop import Feed, evaluation_interval
from bert_jax.train.run import with_steps

_PROVISIONAL_STEPS = 1000
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
    steps = _agreed(steps_within(config, costs, minutes * 60 - spent, bool(evaluations)))
    if steps == 0:
        needed = spent + _seconds(config, costs, 1, bool(evaluations))
        raise BertJaxError(
            f"train.minutes {minutes:g} is too short: calibration, compilation and one step take {clock(needed)}; "
            "give more minutes, or train.steps"
        )
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
    for span in config.spans:
        program = program_for_phase(span.phase)
        with opened(feed(span.begin)) as batches:
            state, first, each = _time_steps(program, batches)
        compile_seconds += first
        step_seconds.append(each)
        if span.phase == 0:
            began = time.monotonic()
            for leaf in jax.tree.leaves(state):
                for shard in leaf.addressable_shards:
                    shard.data.block_until_ready()
                    jax.device_get(shard.data)
            save_seconds = time.monotonic() - began
            evaluation_seconds = _time_evaluation(evaluations, program, state.params)
    return Costs(compile_seconds, tuple(step_seconds), evaluation_seconds, save_seconds)


def _time_steps(program: Any, batches: Iterator[Mapping[str, Any]]) -> tuple[Any, float, float]:
    """A throw-away state after some steps, seconds of the first one, mean seconds of the others."""
    state, batch = program.init_state(), next(batches)

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
    return state, first, seconds / (fewest + more)


def _time_evaluation(evaluations: Mapping[str, Evaluation], program: Any, params: Any) -> float:
    """Seconds of all evaluations: of a second pass, already compiled, unless the first was long anyway."""
    seconds = 0.0
    for _ in range(2):
        began = time.monotonic()
        for evaluation in evaluations.values():
            evaluation(program, params)
        seconds = time.monotonic() - began
        if _agreed(int(seconds > 10 * _TIMED_SECONDS)):
            break
    return seconds


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
    return costs.compile + steps * costs.steps[0] + later + evaluations * costs.evaluation + saves * costs.save
