"""What a plan suggests: how to fit, and what the configuration forbids or wastes. Estimates, said to be such."""

from __future__ import annotations

import math
from typing import Any

from bert_jax.config import Config, Phase
from bert_jax.scale.topologies import GIB, Topology
from bert_jax.train.memory import activation_bytes

_REMAT = ("none", "dots", "full")


def ways_to_fit(config: Config, phase: Phase, found: dict[str, Any]) -> list[str]:
    """For a phase that does not fit: by how much, and single changes that would make it fit, by estimate."""
    limit, used, dtype, mesh = found["hbm_limit_bytes"], found["hbm_bytes"], found["dtype"], found["mesh"]
    state = found["hbm_bytes_by_kind"]["parameters"] + found["hbm_bytes_by_kind"]["optimizer"]
    gradients = found["hbm_bytes_by_kind"]["parameters"]
    working = max(0.0, used - state - gradients)
    lines = [f"does not fit: {used / GIB:.2f} GiB wanted of {limit / GIB:.2f}, {(used - limit) / GIB:.2f} GiB too much"]

    def fits(rest: float, share_of_state: float = 1.0) -> bool:
        return (state + gradients) * share_of_state + rest <= limit

    own = activation_bytes(config, phase, config.train.remat, dtype, mesh["tensor"])
    for stronger in _REMAT[_REMAT.index(config.train.remat) + 1 :]:
        less = working * activation_bytes(config, phase, stronger, dtype, mesh["tensor"]) / own
        verdict = "should fit" if fits(less) else "is not enough alone"
        lines.append(f"--train.remat {stronger} saves about {(working - less) / GIB:.1f} GiB: {verdict}")
        if fits(less):
            break
    if not fits(0):
        shares = mesh["data"] * mesh["fsdp"]
        lines.append(
            f"parameters, moments and gradients alone take {(state + gradients) / GIB:.1f} GiB on each device: "
            f"--mesh.fsdp {min(shares, 8)} (or more devices along mesh.fsdp) shares them"
        )
        return lines
    rows = found["batch_per_chip"]
    already = config.train.accumulation
    parts = next((n for n in _divisors(rows) if n > already and fits(working * already / n)), None)
    if parts:
        lines.append(f"--train.accumulation {parts} (the same step in {parts} parts) should fit")
    per_row = working / max(1, rows)
    most = int((limit - state - gradients) / per_row) if per_row else rows
    split = mesh["data"] * mesh["fsdp"]
    if 0 < most < rows:
        lines.append(f"{most} sequences per chip instead of {rows} (batch {most * split}) should fit")
    shares = mesh["data"] * mesh["fsdp"] // max(1, mesh["fsdp"])
    if shares > 1 and fits(working, 1 / min(shares, 8)):
        lines.append(f"--mesh.fsdp {mesh['fsdp'] * min(shares, 8)} shares parameters and moments and should fit")
    return lines


def _divisors(number: int) -> list[int]:
    return [candidate for candidate in range(1, number + 1) if number % candidate == 0]


def remarks(config: Config, phase: Phase, found: dict[str, Any], topology: Topology) -> list[str]:
    """What the configuration forbids or wastes in this phase."""
    lines = []
    model, train = config.model, config.train
    rate = model.attention_probs_dropout_prob
    if rate > 0:
        lines.append(
            f"model.attention_probs_dropout_prob {rate:g} allows the einsum engine alone, "
            "whose scores (length × length per head) lie in memory; 0 allows every engine"
        )
    elif train.attention == "einsum":
        lines.append("train.attention einsum keeps scores (length × length per head) in memory; auto may do better")
    if found["dtype"] == "float32":
        lines.append("train.dtype float32: bfloat16 (auto) takes half the activations and is what the peak rate is of")
    useful = max(1, round(train.masked_share * phase.length))
    if phase.predictions > 1.1 * useful:
        lines.append(f"predictions {phase.predictions}: sequences of {phase.length} never have more than {useful}")
    lines += _crossings(found, topology)
    if found["fits"] and train.remat != "none":
        own = activation_bytes(config, phase, train.remat, found["dtype"], found["mesh"]["tensor"])
        kinds = found["hbm_bytes_by_kind"]
        working = max(0.0, kinds["temporaries"] - kinds["parameters"])
        more = working * (activation_bytes(config, phase, "none", found["dtype"], found["mesh"]["tensor"]) / own - 1)
        if found["hbm_bytes"] + more <= found["hbm_limit_bytes"]:
            lines.append(f"train.remat {train.remat} recomputes although none should fit too (by estimate)")
    return lines


def _crossings(found: dict[str, Any], topology: Topology) -> list[str]:
    """From how many sequences per chip on the matrix units bind, if they do not."""
    if found["bound"] == "matrix":
        return []
    seconds, rows = found["bound_seconds"], found["batch_per_chip"]
    kinds = found["hbm_bytes_by_kind"]
    chip = topology.chip
    # What does not grow with the batch: the state read and written, gradients written and read; what is sent.
    fixed = min(seconds["hbm"], (3 * kinds["parameters"] + kinds["optimizer"]) * 2 / chip.hbm_bandwidth)
    per_row = (seconds["hbm"] - fixed) / rows
    matrix = seconds["matrix"] / rows
    name = {"hbm": "memory", "interconnect": "the interconnect"}[found["bound"]]
    if found["bound"] == "hbm":
        if per_row >= matrix:
            return [f"{rows} sequences per chip: bound by memory, and with any batch"]
        enough = fixed / (matrix - per_row)
        if enough > found["max_batch_per_chip"]:
            return [f"{rows} sequences per chip: bound by memory, and with any batch that fits"]
    else:
        if found["mesh"]["tensor"] > 1:
            return [f"{rows} sequences per chip: bound by the interconnect; mesh.tensor sends more for a larger batch"]
        enough = seconds["interconnect"] / matrix
    return [f"{rows} sequences per chip: bound by {name}; from about {math.ceil(enough)} on by the matrix units"]
