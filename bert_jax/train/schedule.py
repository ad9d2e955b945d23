"""Learning rate as a pure function of the global step: nothing of it is saved, so a resumed run cannot differ.

A *stretch* is a run of phases under one schedule: a phase that says `restart` begins a new one, with its own peak,
warm-up, and optimizer count; all others continue the one before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from bert_jax.config import Config, Optimizer
from bert_jax.errors import BertJaxError

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]
"""Global step (integer) → learning rate (float32 scalar)."""


class Stretch(NamedTuple):
    """Phases under one schedule: the global step it starts at, its steps, its peak rate, its warm-up in steps."""

    start: int
    steps: int
    learning_rate: float
    warmup_steps: int


def warmup_steps(warmup: float, steps: int) -> int:
    """Warm-up in steps: below 1 `warmup` is a share of `steps` (rounded down), from 1 a number of steps.

    Errors: `BertJaxError` when it is negative or does not end before `steps`.
    """
    count = math.floor(warmup * steps + 1e-9) if warmup < 1 else int(warmup)
    if warmup < 0 or (count >= steps and count > 0):
        raise BertJaxError(f"warmup {warmup:g} is {count} of {steps} steps: give less, or train for longer")
    return count


def stretches(config: Config) -> tuple[Stretch, ...]:
    """The stretches of a run, in order.

    Errors: `BertJaxError` when a phase names a rate or a warm-up of its own without `restart`.
    """
    optimizer = config.optimizer
    groups: list[list[int]] = []
    for index, phase in enumerate(config.phases):
        if phase.steps < 1:
            raise BertJaxError(f"phase {index} has {phase.steps} steps: give at least 1")
        if index == 0 or phase.restart:
            groups.append([])
        elif phase.learning_rate is not None or phase.warmup is not None:
            raise BertJaxError(
                f"phase {index} has its own learning_rate or warmup but continues the schedule before it: "
                "set restart=True in that phase, or leave both out"
            )
        groups[-1].append(index)
    found, start = [], 0
    for group in groups:
        first = config.phases[group[0]]
        steps = sum(config.phases[index].steps for index in group)
        rate = optimizer.learning_rate if first.learning_rate is None else first.learning_rate
        warmup = optimizer.warmup if first.warmup is None else first.warmup
        found.append(Stretch(start, steps, rate, warmup_steps(warmup, steps)))
        start += steps
    return tuple(found)


def count_start(config: Config, phase_index: int) -> int:
    """Global step from which the optimizer's count (bias correction) runs in this phase: its stretch's start."""
    start = config.spans[phase_index].begin
    return max(stretch.start for stretch in stretches(config) if stretch.start <= start)


def schedule_of(steps: int, optimizer: Optimizer, learning_rate: float) -> Schedule:
    """The learning rate of one stretch of `steps` with this peak. Errors: `BertJaxError` for too long a warm-up."""
    stretch = Stretch(0, steps, learning_rate, warmup_steps(optimizer.warmup, steps))
    rate = _stretch_schedule(stretch, optimizer)
    return lambda step: jnp.asarray(rate(jnp.asarray(step)), jnp.float32)


def make_schedule(config: Config) -> Schedule:
    """The learning rate of a whole run, all phases, as a function of the global step (0-based).

    With `decay_from="start"` this is google-research/bert `optimization.py`: peak · step / warmup_steps while
    step < warmup_steps (so the first update has rate 0), then the decay counted from step 0 (so the rate drops a
    little where the warm-up ends). With `"warmup"` the decay begins at its peak when the warm-up ends.
    """
    parts = stretches(config)
    joined = optax.join_schedules(
        [_stretch_schedule(part, config.optimizer) for part in parts], [part.start for part in parts[1:]]
    )

    def learning_rate(step: jax.typing.ArrayLike) -> jax.Array:
        return jnp.asarray(joined(jnp.asarray(step)), jnp.float32)

    return learning_rate


def _stretch_schedule(stretch: Stretch, optimizer: Optimizer) -> optax.Schedule:
    warmup = stretch.warmup_steps
    under = warmup if optimizer.decay_from == "start" else 0  # steps of the decay that lie beneath the warm-up
    decay = _decay(stretch.learning_rate, stretch.steps - warmup + under, optimizer)
    if warmup == 0:
        return decay
    rise = optax.linear_schedule(0.0, stretch.learning_rate, warmup)
    return optax.join_schedules([rise, lambda count: decay(count + under)], [warmup])


def _decay(peak: float, steps: int, optimizer: Optimizer) -> optax.Schedule:
    end = optimizer.end_learning_rate
    if optimizer.decay == "constant":
        return optax.constant_schedule(peak)
    if optimizer.decay == "cosine":
        return optax.cosine_decay_schedule(peak, steps, alpha=end / peak if peak else 0.0)
    if optimizer.decay == "wsd":
        falling = max(1, round(optimizer.decay_share * steps))
        return optax.join_schedules(
            [optax.constant_schedule(peak), optax.linear_schedule(peak, end, falling)], [steps - falling]
        )
    power = 1.0 if optimizer.decay == "linear" else optimizer.decay_power
    return optax.polynomial_schedule(peak, end, power, steps)
