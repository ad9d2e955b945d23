"""How much memory a train step takes, by formula, and into how many microbatches a batch is cut so that it fits.

Letters as in the package's legend (B here: rows of one device and microbatch).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, NamedSharding

from bert_jax.config import Config, Phase
from bert_jax.model.bert import abstract_parameters, make_model
from bert_jax.train.sharding import AXES, parameter_specs
from bert_jax.train.state import Choice, resolve_dtype

FLOAT32 = 4
MEBI = 2**20
OVERHEAD = 1.5
"""Compiled temporaries beside what the formula counts: copies in float32, padding to tiles, more than one layer's
intermediates alive. Fitted to compiled BERT-base and BERT-large steps; good to about a third."""
_USABLE = 0.7
"""Share of a device's memory that `auto` counts on: the formula is good to about a third."""


def parameter_bytes(config: Config, mesh: Mapping[str, int]) -> int:
    """Bytes of parameters on each device of a mesh. Errors: `BertJaxError` for what an axis does not divide."""
    sizes_of = abstract_mesh(mesh)
    heads = ("masked_lm",) if config.train.objective == "mlm" else ("masked_lm", "next_sentence")
    params = abstract_parameters(make_model(config.model, heads=heads))
    specs = parameter_specs(params, sizes_of)
    sizes = jax.tree.map(
        lambda leaf, spec: int(np.prod(NamedSharding(sizes_of, spec).shard_shape(leaf.shape))), params, specs
    )
    return FLOAT32 * sum(jax.tree.leaves(sizes))


def abstract_mesh(mesh: Mapping[str, int]) -> Any:
    """A mesh of sizes without devices."""
    return AbstractMesh(tuple(mesh[axis] for axis in AXES), AXES)


def activation_bytes(config: Config, phase: Phase, remat: str, dtype: str, tensor: int = 1) -> float:
    """Bytes of activations for one row: what all layers keep for the backward pass, one layer at work, the head."""
    model = config.model
    c, t, d, f = jnp.dtype(dtype).itemsize, phase.length, model.hidden_size, model.intermediate_size / tensor
    heads, layers = model.num_attention_heads / tensor, model.num_hidden_layers
    scores = heads * t * t * (FLOAT32 + 2 * c)  # scores in float32; shares, and shares after dropout
    if model.attention_probs_dropout_prob == 0 and config.train.attention not in ("auto", "einsum"):
        scores = 0.0  # an engine that keeps none of them
    whole = t * (9 * d + 2 * f) * c + scores
    kept = {"none": whole, "dots": t * (6 * d + f) * c, "full": t * d * c}[remat]
    logits = phase.predictions * model.known_vocab_size / tensor * (FLOAT32 + c)
    return OVERHEAD * (layers * kept + (0 if remat == "none" else whole) + logits)


def device_memory(config: Config, mesh: jax.sharding.Mesh) -> int | None:
    """Bytes that the smallest device of any process can give out; None where one does not say (a CPU), or where
    `train.sequences_per_chip` does not ask."""
    if config.train.sequences_per_chip != "auto":
        return None
    own = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    try:
        found = min(int((device.memory_stats() or {}).get("bytes_limit", 0)) for device in own)
    except Exception:  # each backend has its own way to say that it does not know
        found = 0
    if jax.process_count() > 1:  # or each would compile a program of its own
        from jax.experimental import multihost_utils

        found = int(np.min(multihost_utils.process_allgather(np.int32(found // MEBI)))) * MEBI  # jax has 32 bits
    return found or None


def rows_ceiling(config: Config, phase: Phase, mesh: Mapping[str, int], dtype: str, memory: int | None) -> int | None:
    """`train.sequences_per_chip` as a number: `auto` from the memory of a device, None for no ceiling."""
    wanted = config.train.sequences_per_chip
    if wanted != "auto":
        return wanted
    if memory is None:
        return None
    free = _USABLE * memory - 4 * parameter_bytes(config, mesh)  # parameters, two moments, gradients
    return max(1, int(free / activation_bytes(config, phase, config.train.remat, dtype, mesh["tensor"])))


def resolve_accumulation(
    config: Config, phase_index: int, mesh: Mapping[str, int], dtype: str, memory: int | None
) -> Choice:
    """Microbatches per step: at least `train.accumulation`, and so many that no chip holds more rows than it may.

    The smallest number that divides the rows of a chip evenly; a batch that does not divide is left to
    `check_divisible` to refuse.
    """
    phase, least = config.phases[phase_index], config.train.accumulation
    ceiling = rows_ceiling(config, phase, mesh, dtype, memory)
    rows, rest = divmod(phase.batch, mesh["data"] * mesh["fsdp"])
    if ceiling is None or rest or rows % least:
        unknown = " (train.sequences_per_chip auto: this device does not say how much memory it has)"
        return Choice(least, "as configured" + (unknown if config.train.sequences_per_chip == "auto" else ""))
    count = next(n for n in range(least, rows + 1) if rows % n == 0 and (rows // n <= ceiling or n == rows))
    said = "auto" if config.train.sequences_per_chip == "auto" else "as configured"
    return Choice(count, f"{rows} rows per chip, {rows // count} at once; train.sequences_per_chip {ceiling}, {said}")


def with_accumulation(config: Config, count: int) -> Config:
    """`config` with so many microbatches, the ceiling resolved."""
    train = dataclasses.replace(config.train, accumulation=count, sequences_per_chip=None)
    return dataclasses.replace(config, train=train)


def accumulated(config: Config, phase_index: int, mesh: jax.sharding.Mesh) -> tuple[Config, Choice]:
    """`config` with the microbatches that a phase takes on this mesh, and the choice for the log."""
    dtype = resolve_dtype(config.train.dtype, mesh.devices.flat[0]).value
    choice = resolve_accumulation(config, phase_index, mesh.shape, dtype, device_memory(config, mesh))
    return with_accumulation(config, choice.value), choice


def evaluation_batch(config: Config, phase: Phase, mesh: jax.sharding.Mesh, batch: int) -> int:
    """`batch` rows of an evaluation, or fewer where a chip may not hold so many at once: only sums come of them."""
    dtype = resolve_dtype(config.train.dtype, mesh.devices.flat[0]).value
    ceiling = rows_ceiling(config, phase, mesh.shape, dtype, device_memory(config, mesh))
    split = mesh.shape["data"] * mesh.shape["fsdp"]
    return batch if ceiling is None else min(batch, ceiling * split)
