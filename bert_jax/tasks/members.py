"""The members of a fine-tuning run, each a seed with a learning rate, and which of them share a program."""

from __future__ import annotations

import jax
import numpy as np

from bert_jax.bert_config import BertConfig
from bert_jax.console import log
from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import FinetuneConfig
from bert_jax.train.run import Run
from bert_jax.train.supervised import Member


def members_of(config: FinetuneConfig) -> tuple[Member, ...]:
    """Every seed with every learning rate."""
    own = config.finetune
    rates = own.learning_rates or (config.optimizer.learning_rate,)
    if len(set(rates)) < len(rates):
        raise BertJaxError(f"finetune.learning_rates are {', '.join(map(str, rates))}: expected different ones")
    return tuple(
        Member(f"seed-{seed}" + (f"-lr-{rate:g}" if len(rates) > 1 else ""), seed, rate)
        for rate in rates
        for seed in range(own.seed, own.seed + own.seeds)
    )


def groups_of(
    existing: Run | None,
    members: tuple[Member, ...],
    config: FinetuneConfig,
    mesh: jax.sharding.Mesh,
    model: BertConfig,
) -> list[tuple[Member, ...]]:
    """Members that are trained in one program: as the run began, else as many as asked for or as memory holds."""
    if existing is not None:
        by_label = {member.label: member for member in members}
        if sorted(by_label) != sorted(label for group in existing.facts["groups"] for label in group):
            raise BertJaxError(
                f"{existing.path} has members {', '.join(existing.facts['members'])}: give the same seeds and "
                "learning rates, or another --run"
            )
        return [tuple(by_label[label] for label in group) for group in existing.facts["groups"]]
    if len(members) == 1:
        return [members]
    size = config.finetune.side_by_side or fitting_members(config, model, mesh)
    # Whole multiples of the devices are spread over them; of any other number each device holds all.
    spreads = config.finetune.side_by_side is None and mesh.shape["data"] == mesh.size
    spread = len(members) // mesh.size * mesh.size if spreads else 0
    wide = size * mesh.size
    groups = [members[first : min(first + wide, spread)] for first in range(0, spread, wide)]
    groups += [members[first : first + size] for first in range(spread, len(members), size)]
    log(f"{len(members)} runs: {', '.join(str(len(group)) for group in groups)} side by side")
    return groups


def fitting_members(config: FinetuneConfig, model: BertConfig, mesh: jax.sharding.Mesh) -> int:
    """How many runs one device should hold: one on CPU, where several are slower; else what fits into memory.

    A run needs its parameters five times over in float32 (themselves, two moments, gradient, update) and what the
    backward pass keeps: about 18 vectors of width D and the attention shares per token and layer.
    """
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit") if device.platform != "cpu" else None
    limit = _agreed(limit or 0)
    if not limit or mesh.shape["data"] != mesh.size:
        return 1
    d, layers, length = model.hidden_size, model.num_hidden_layers, config.task.length
    weights = model.known_vocab_size * d + layers * (4 * d * d + 2 * d * model.intermediate_size)
    kept = layers * (14 * d + 2 * model.intermediate_size + 2 * model.num_attention_heads * length)
    each = 20 * weights + 4 * config.finetune.batch * length * kept
    return max(1, int(0.8 * limit / each))


def _agreed(value: int) -> int:
    """The first process's number in all of them: groups must be the same everywhere."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.float64(value)))
