"""The largest batch per chip that fits: by estimate from one compilation, or by search with few."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bert_jax.config import Config
from bert_jax.console import log
from bert_jax.scale.topologies import GIB

MOST_COMPILATIONS = 6
_GRAIN = 8  # sequences per chip: search in multiples of this (and of the accumulation)


def estimated_max_batch(config: Config, found: dict[str, Any]) -> int:
    """By a straight line through what was found: state, gradients and program do not grow, the rest grows with rows.

    0 when the state alone does not fit.
    """
    kinds, rows = found["hbm_bytes_by_kind"], found["batch_per_chip"]
    fixed = 2 * kinds["parameters"] + kinds["optimizer"] + kinds["program"]
    per_row = max(1.0, (found["hbm_bytes"] - fixed) / rows)
    most = int(max(0.0, found["hbm_limit_bytes"] - fixed) / per_row)
    return most // config.train.accumulation * config.train.accumulation


def largest_batch(config: Config, phase: int, found: dict[str, Any], step: Callable[[int, int], dict[str, Any]]) -> int:
    """The most sequences per chip that were seen to fit, to within a grain or a sixteenth; `step` is run a few times.

    Guesses come from the line through the last two sizes, between the largest that fitted and the least that did not.
    """
    split = found["mesh"]["data"] * found["mesh"]["fsdp"]
    grain = _GRAIN * config.train.accumulation
    limit = found["hbm_limit_bytes"]
    rows = found["batch_per_chip"]
    fits, too_many = (rows, 0) if found["fits"] else (0, rows)
    points = [(rows, found["hbm_bytes"])]
    guess = found["max_batch_per_chip"]
    for _ in range(MOST_COMPILATIONS):
        guess = _between(guess, fits, too_many, grain)
        if guess is None:
            break
        made = step(phase, guess * split)
        found["compile_seconds"] += made["compile_seconds"]
        verdict = "fits" if made["fits"] else "does not fit"
        log(f"  {guess} sequences per chip: {made['hbm_bytes'] / GIB:.2f} GiB, {verdict}")
        fits, too_many = (guess, too_many) if made["fits"] else (fits, guess)
        points.append((guess, made["hbm_bytes"]))
        (rows0, bytes0), (rows1, bytes1) = points[-2:]
        slope = (bytes1 - bytes0) / (rows1 - rows0) if rows1 != rows0 else 0.0
        guess = int(rows1 + (limit - bytes1) / slope) if slope > 0 else 0
    return fits


def _between(guess: int, fits: int, too_many: int, grain: int) -> int | None:
    """The multiple of `grain` to try next, None when nothing is left between what fits and what does not."""
    lowest = fits // grain * grain + max(grain, fits // 16 // grain * grain)
    wanted = guess // grain * grain
    if not too_many:  # a guess too high costs little: the compiler says so before it makes any code
        return max(wanted, lowest)
    highest = (too_many - 1) // grain * grain
    if lowest > highest:
        return None
    return wanted if lowest <= wanted <= highest else (lowest + highest) // 2 // grain * grain
