"""What a training run is between two steps, and the choices a run makes from the machine it finds."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bert_jax.bert_config import BertConfig
from bert_jax.config import Train
from bert_jax.model.attention import choose
from bert_jax.train.optimizer import Moments, init_moments

Tree = Any


class State(NamedTuple):
    """Everything a checkpoint holds. `params`: nested dict, per layer, float32; `opt_state` has its shapes twice."""

    step: jax.Array
    """int32: steps done, skipped updates among them."""
    params: Tree
    opt_state: Moments
    skipped: jax.Array
    """int32: non-finite updates skipped in total."""
    skipped_in_a_row: jax.Array
    """int32: of those, since the last finite one."""


def init_state(params: Tree) -> State:
    """The state before step 0."""
    zero = jnp.zeros((), jnp.int32)
    return State(zero, params, init_moments(params), zero, zero)


class Choice(NamedTuple):
    """A resolved setting, and why; the log shows both."""

    value: Any
    reason: str


def resolve_dtype(dtype: str, device: jax.Device) -> Choice:
    """The compute dtype: `auto` is bfloat16 where the device multiplies it natively, float32 elsewhere."""
    if dtype != "auto":
        return Choice(jnp.dtype(dtype), "as configured")
    if device.platform == "tpu":
        return Choice(jnp.dtype(jnp.bfloat16), f"auto: {device.device_kind} is a TPU")
    capability = getattr(device, "compute_capability", None)
    if device.platform in ("gpu", "cuda") and capability is not None:
        fits = float(capability) >= 8.0
        kind = "8.0 or more" if fits else "below 8.0"
        return Choice(
            jnp.dtype(jnp.bfloat16 if fits else jnp.float32), f"auto: GPU of compute capability {capability}, {kind}"
        )
    return Choice(jnp.dtype(jnp.float32), f"auto: no native bfloat16 known on {device.platform}")


def resolve_scan_layers(scan_layers: bool | None, device: jax.Device) -> Choice:
    """Scan over the layers, or unroll them: by default as measured, compile time on accelerators, speed on CPU."""
    if scan_layers is not None:
        return Choice(scan_layers, "as configured")
    if device.platform == "cpu":
        return Choice(False, "auto: unrolled layers run faster on CPU")
    return Choice(True, "auto: a scan compiles fast on accelerators")


def resolve_vocab_multiple(mesh: jax.sharding.Mesh) -> Choice:
    """The vocabulary is padded to a multiple of this inside the step (and only there)."""
    if mesh.shape["tensor"] > 1 or mesh.devices.flat[0].platform != "cpu":
        return Choice(math.lcm(128, mesh.shape["tensor"]), "whole tiles, and equal parts along mesh.tensor")
    return Choice(1, "nothing gained by padding on CPU")


def resolve_attention(attention: str, model: BertConfig, length: int, mesh: jax.sharding.Mesh) -> Choice:
    """The attention engine for training rows of `length`. Evaluation drops nothing, and chooses for itself."""
    platform, dropped = mesh.devices.flat[0].platform, model.attention_probs_dropout_prob > 0
    return Choice(*choose(attention, platform, length, model.head_size, dropped))


def resolve(train: Train, mesh: jax.sharding.Mesh) -> dict[str, Choice]:
    """All choices made from the machine, by the name of their setting."""
    device = mesh.devices.flat[0]
    return {
        "dtype": resolve_dtype(train.dtype, device),
        "scan_layers": resolve_scan_layers(train.scan_layers, device),
        "vocab_multiple": resolve_vocab_multiple(mesh),
    }
