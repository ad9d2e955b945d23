"""The train step's program and the shapes it takes, for devices that need not exist."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from bert_jax.batch import EXAMPLES, PACKED, check
from bert_jax.config import Config, Phase
from bert_jax.train.masking import Vocabulary
from bert_jax.train.program import Program, make_program
from bert_jax.train.sharding import BATCH, make_mesh

_SPECIAL = (0, 1, 2, 3, 4)  # which ids are special does not change the program
_BYTES = ("input_mask", "segment_ids", "word_starts")  # uint8 in what the feed gives


def with_batch(config: Config, phase: int, batch: int, changes: Mapping[str, Any]) -> Config:
    """`config` with `batch` sequences per step in `phase`, and some fields of `train` changed."""
    train = dataclasses.replace(config.train, **changes)
    if phase == 0:
        train = dataclasses.replace(train, batch=batch)
    else:
        later: list[Phase] = list(train.later_phases)
        later[phase - 1] = dataclasses.replace(later[phase - 1], batch=batch)
        train = dataclasses.replace(train, later_phases=tuple(later))
    return dataclasses.replace(config, train=train)


def phase_program(
    config: Config, devices: Sequence[Any], vocabulary: int, phase: int, batch: int, changes: Mapping[str, Any]
) -> Program:
    """The very program a run would use on `devices`. Errors: `BertJaxError` for whatever does not divide."""
    config = with_batch(config, phase, batch, changes)
    mesh = make_mesh(config.mesh, devices)
    return make_program(config, phase, mesh, Vocabulary(vocabulary, _SPECIAL[-1], _SPECIAL))


def step_shapes(program: Program) -> tuple[Any, dict[str, jax.ShapeDtypeStruct]]:
    """What the train step is given: the state, and a batch as the feed makes it, as shapes."""
    phase = program.config.phases[program.phase_index]
    rows = NamedSharding(program.mesh, BATCH)
    packed = phase.packing > 1
    schema = EXAMPLES | PACKED if packed else EXAMPLES
    dtypes = dict.fromkeys(schema, jnp.int32) | dict.fromkeys(_BYTES, jnp.uint8) | {"example_ids": jnp.uint32}
    sizes = {"B": phase.batch, "T": phase.length, "P": phase.packing}

    def shape(axes: str) -> tuple[int, ...]:
        return tuple(sizes[axis] for axis in ("BP" if packed and axes == "B" else axes))

    batch = {name: jax.ShapeDtypeStruct(shape(key.axes), dtypes[name], sharding=rows) for name, key in schema.items()}
    check(batch, schema)
    return program.abstract_state(), batch
