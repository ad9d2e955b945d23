"""Dropout whose bits belong to the example, not to the batch.

*exact*: every draw is a threefry counter of (step key, example id, layer, site) and of the place inside the example
(position and channel, or head, query and key position). A row keeps its draws wherever it stands: on any mesh, in any
microbatch, under scan or rematerialisation, alone in its row or packed with others, at any padded length.
*fast*: the accelerator's own generator (rbg); none of that is promised.

One threefry block gives 64 bits, used as four draws of 16 bits: an element is kept when its draw is at least
round(rate · 65536), and scaled by the exact inverse of that probability. The four decisions of a block are packed into
one byte, and these bytes, a quarter of a byte per element, are all that the backward pass keeps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax import compat
from bert_jax.errors import BertJaxError

LANES = 4  # draws per threefry block
_ONE = 1 << 16  # a draw is uniform in [0, _ONE)

# Sites: which draw inside a layer. The embeddings' own is site 0 of layer 0.
EMBEDDINGS, ATTENTION_PROBABILITIES, ATTENTION_OUTPUT, FEED_FORWARD_OUTPUT, CLASSIFIER = range(5)


@partial(jax.tree_util.register_dataclass, data_fields=["key", "example_ids"], meta_fields=["kind"])
@dataclass(frozen=True)
class Dropout:
    """What a training step hands to the model; its presence means training.

    key: the step's key, typed or as uint32 words. example_ids: integers (B,), or (B, P) for packed rows, unique within
    the step; `fast` needs none.
    """

    key: Any
    example_ids: Any = None
    kind: Literal["exact", "fast"] = "exact"

    def __post_init__(self) -> None:
        if self.kind not in ("exact", "fast"):
            raise BertJaxError(f"dropout is {self.kind!r}: expected 'exact' or 'fast'")


class Draws(NamedTuple):
    """Draws for one batch: keys per token (or per row) and where each token stands in its example.

    key_words: `exact` two uint32 arrays (B, T) or (B, 1); `fast` one typed rbg key. position_ids: (B, T) or (1, T).
    """

    kind: str
    key_words: Any
    position_ids: jax.Array


def make_draws(dropout: Dropout, batch_size: int, position_ids: jax.Array, sequence_ids: jax.Array | None) -> Draws:
    """Fold the example ids into the step key, once per forward pass.

    Errors: `BertJaxError` when `example_ids` do not fit the batch.
    """
    words = compat.key_words(dropout.key)
    if dropout.kind == "fast":
        key = jax.random.wrap_key_data(jnp.concatenate([words, words])[:4], impl="rbg")
        return Draws("fast", key, position_ids)
    if words.shape != (2,):
        raise BertJaxError("dropout 'exact' counts with threefry: give a threefry key (jax.random.key(seed)), not rbg")
    ids = dropout.example_ids
    axes = 1 if sequence_ids is None else 2
    if ids is None or jnp.ndim(ids) != axes or ids.shape[0] != batch_size:
        came = "none" if ids is None else f"shape {jnp.shape(ids)}"
        expected = f"({batch_size},)" if axes == 1 else f"({batch_size}, P), one per packed sequence"
        raise BertJaxError(f"dropout 'exact' needs example_ids of shape {expected}; got {came}")
    k0, k1 = compat.threefry_2x32(words[0], words[1], 0, ids)
    if sequence_ids is None:
        return Draws("exact", (k0[:, None], k1[:, None]), position_ids)
    place = jnp.maximum(sequence_ids - 1, 0)  # padding draws like the first example: nothing of it counts
    return Draws("exact", tuple(jnp.take_along_axis(k, place, axis=1) for k in (k0, k1)), position_ids)


def drop_hidden(draws: Draws | None, rate: float, layer: jax.Array | int, site: int, x: jax.Array) -> jax.Array:
    """Dropout of hidden states x (B, T, D); channel c belongs to lane c // ⌈D/4⌉ of its block.

    Returns x itself when `draws` is None or `rate` is 0. `layer` may be traced.
    """
    if draws is None or rate == 0:
        return x
    batch, length, width = x.shape
    blocks = -(-width // LANES)
    if draws.kind == "fast":
        words = _fast_words(draws.key_words, layer, site, (batch, length, blocks))
    else:
        k0, k1 = _site_key(draws, layer, site)
        block = jax.lax.broadcasted_iota(jnp.uint32, (1, 1, blocks), 2)
        words = compat.threefry_2x32(k0[..., None], k1[..., None], draws.position_ids[..., None], block)
    mask = _packed_mask(words, rate, (batch, length, blocks))
    return _drop(x, mask, rate, 2)


def drop_probabilities(draws: Draws | None, rate: float, layer: jax.Array | int, probabilities: jax.Array) -> jax.Array:
    """Dropout of attention probabilities (B, N, T, S); head n belongs to lane n // ⌈N/4⌉ of its block.

    The counter is (head, query position, key position) inside the example, so draws do not depend on T.
    """
    if draws is None or rate == 0:
        return probabilities
    batch, heads, queries, keys = probabilities.shape
    blocks = -(-heads // LANES)
    if draws.kind == "fast":
        words = _fast_words(draws.key_words, layer, ATTENTION_PROBABILITIES, (batch, blocks, queries, keys))
    else:
        k0, k1 = _site_key(draws, layer, ATTENTION_PROBABILITIES)
        block = jax.lax.broadcasted_iota(jnp.uint32, (1, blocks, 1, 1), 1)
        position = draws.position_ids.astype(jnp.uint32)
        query = (block << 24) | position[:, None, :, None]
        words = compat.threefry_2x32(k0[:, None, :, None], k1[:, None, :, None], query, position[:, None, None, :])
    mask = _packed_mask(words, rate, (batch, blocks, queries, keys))
    return _drop(probabilities, mask, rate, 1)


def _site_key(draws: Draws, layer: jax.Array | int, site: int) -> tuple[jax.Array, jax.Array]:
    return compat.threefry_2x32(*draws.key_words, layer, site)


def _fast_words(key: jax.Array, layer: jax.Array | int, site: int, shape: tuple[int, ...]) -> Any:
    key = jax.random.fold_in(jax.random.fold_in(key, layer), site)
    bits = jax.random.bits(key, (2, *shape), jnp.uint32)
    return bits[0], bits[1]


def _threshold(rate: float) -> int:
    return min(max(round(rate * _ONE), 1), _ONE - 1)


def _packed_mask(words: tuple[jax.Array, jax.Array], rate: float, shape: tuple[int, ...]) -> jax.Array:
    """uint8 array of `shape`, blocks of four lanes: bit l is set where lane l is kept."""
    threshold = jnp.uint32(_threshold(rate))
    low = jnp.uint32(_ONE - 1)
    lanes = (words[0] & low, words[0] >> 16, words[1] & low, words[1] >> 16)
    mask = sum((lane >= threshold).astype(jnp.uint8) << index for index, lane in enumerate(lanes))
    # Kept as bytes: fused into its four readers, the block would be computed four times.
    return jax.lax.optimization_barrier(jnp.broadcast_to(mask, shape))


def _expand(mask: jax.Array, axis: int, size: int) -> jax.Array:
    """Packed mask → one 0/1 byte per element along `axis`, lanes side by side, cut to `size`."""
    lane = jnp.arange(LANES, dtype=jnp.uint8).reshape((LANES,) + (1,) * (mask.ndim - axis))
    bits = (jnp.expand_dims(mask, axis) >> lane) & jnp.uint8(1)
    whole = bits.reshape(*mask.shape[:axis], LANES * mask.shape[axis], *mask.shape[axis + 1 :])
    return jax.lax.slice_in_dim(whole, 0, size, axis=axis)


def _masked(x: jax.Array, mask: jax.Array, rate: float, axis: int) -> jax.Array:
    scale = _ONE / (_ONE - _threshold(rate))
    keep = _expand(mask, axis, x.shape[axis]).astype(bool)
    return jnp.where(keep, x * jnp.asarray(scale, x.dtype), jnp.zeros((), x.dtype))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _drop(x: jax.Array, mask: jax.Array, rate: float, axis: int) -> jax.Array:
    return _masked(x, mask, rate, axis)


def _drop_forward(x: jax.Array, mask: jax.Array, rate: float, axis: int) -> tuple[jax.Array, jax.Array]:
    return _masked(x, mask, rate, axis), mask


def _drop_backward(rate: float, axis: int, mask: jax.Array, gradient: jax.Array) -> tuple[jax.Array, Any]:
    return _masked(gradient, mask, rate, axis), np.zeros(mask.shape, jax.dtypes.float0)


_drop.defvjp(_drop_forward, _drop_backward)
