"""What a train step needs, by formula: parameters exactly, memory for activations and traffic between devices roughly.

For GPUs, which nothing is compiled for, these are the figures; for TPUs they say what a change of settings would do to
what was compiled. Letters as in the package's legend (B here: rows of one device and microbatch).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from bert_jax.batch import row_predictions
from bert_jax.config import Config, Phase, Train
from bert_jax.model.attention import choose
from bert_jax.model.flops import training_flops
from bert_jax.scale.hlo_collectives import Row
from bert_jax.train.memory import OVERHEAD, abstract_mesh, activation_bytes, parameter_bytes
from bert_jax.train.sharding import check_divisible


class Sizes(NamedTuple):
    """Bytes on each device."""

    parameters: int
    """Float32 masters; the moments take twice as much, the gradients once."""
    activations_per_row: float
    """What grows with the rows of one microbatch."""


def recomputed_flops(train: Train, flops: float, attention_share: float) -> float:
    """Operations of a step with those that rematerialisation repeats: the forward pass, or its attention products."""
    repeated = {"none": 0.0, "dots": attention_share / 3, "full": 1 / 3}[train.remat]
    return flops * (1 + repeated)


def step_flops(config: Config, phase: Phase, batch: int) -> tuple[float, float]:
    """Operations of forward and backward pass over full rows, and the share that is attention over pairs of tokens.

    A packed row is multiplied whole: its places for predictions and its pooled vectors are those of all its sequences.
    """
    places = phase.predictions
    if phase.packing > 1:
        needed = row_predictions(phase.length, phase.packing, phase.predictions, config.train.masked_share)
        places = phase.row_predictions or needed
    sums = {
        "real_tokens": phase.length,
        "real_tokens_squared": phase.length**2,
        "mlm_count": places,
        "sequences": 0 if config.train.objective == "mlm" else phase.packing,
    }
    whole = batch * training_flops(config.model, sums)
    pairs = 12.0 * batch * config.model.num_hidden_layers * config.model.hidden_size * phase.length**2
    return whole, pairs / whole


def estimated_collectives(
    config: Config, phase: Phase, mesh: Mapping[str, int], rows: int, dtype: str, parameters: int
) -> list[Row]:
    """What each device sends in a step: gradients once, parameters gathered twice (fsdp), sums inside layers (tensor).

    `parameters`: bytes on each device; `rows`: of each device, all microbatches together.
    """
    found: list[Row] = []

    def ring(axis: str) -> float:
        return (mesh[axis] - 1) / mesh[axis]

    if mesh["fsdp"] > 1:
        whole = parameters * mesh["fsdp"]
        found.append(Row("all-gather", "fsdp", 2 * whole * ring("fsdp") * config.train.accumulation, 2))
        found.append(Row("reduce-scatter", "fsdp", whole * ring("fsdp") * config.train.accumulation, 1))
    if mesh["data"] > 1:
        found.append(Row("all-reduce", "data", 2 * parameters * ring("data"), 1))
    if mesh["tensor"] > 1:
        layers = config.model.num_hidden_layers
        one = rows * phase.length * config.model.hidden_size * jnp.dtype(dtype).itemsize
        found.append(Row("all-reduce", "tensor", 4 * layers * 2 * one * ring("tensor"), 4 * layers))
    return found


def estimated_figures(config: Config, index: int, mesh: Mapping[str, int], limit: int) -> dict[str, Any]:
    """The figures of `plan_compile.compiled_figures` for devices that nothing is compiled for.

    Errors: `BertJaxError` for whatever does not divide.
    """
    check_divisible(config, index, abstract_mesh(mesh))
    phase, model = config.phases[index], config.model
    dropped = model.attention_probs_dropout_prob > 0
    dtype = "bfloat16" if config.train.dtype == "auto" else config.train.dtype
    parameters = parameter_bytes(config, mesh)
    rows = phase.batch // (mesh["data"] * mesh["fsdp"])
    microbatch = -(-rows // config.train.accumulation)
    # Gathered parameters of one layer and the like are inside the overhead.
    activations = microbatch * activation_bytes(config, phase, config.train.remat, dtype, mesh["tensor"])
    total = int(3 * parameters + parameters + activations)
    return {
        "mesh": dict(mesh),
        "scanned": True,
        "quick": False,
        "dtype": dtype,
        "attention": list(choose(config.train.attention, "gpu", phase.length, model.head_size, dropped)),
        "fits": total <= limit,
        "hbm_bytes": total,
        "arguments": 3 * parameters,
        "results": 0,
        "temporaries": total - 3 * parameters,
        "program": 0,
        "collectives": [list(row) for row in estimated_collectives(config, phase, mesh, rows, dtype, parameters)],
        "bytes_accessed": None,
        "traffic": 2.0 * (4 * parameters + activations / OVERHEAD),
        "compile_seconds": 0.0,
    }
