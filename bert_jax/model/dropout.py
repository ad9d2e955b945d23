"""Dropout whose bits belong to the example, not to the batch.

*exact*: every draw is a threefry counter of (step key, example id, layer, site) and of the place inside the example
(position and channel, or head, query and key position). A row keeps its draws wherever it stands: on any mesh, in any
microbatch, under scan or rematerialisation, alone in its row or packed with others, at any padded length.
*fast*: the accelerator's own generator (rbg); none of that is promised.

One threefry block gives 64 bits, used as four draws of 16 bits: an element is kept when its draw is at least
round(rate · 65536), and scaled by the exact inverse of that probability. The four decisions of a block are packed into
one byte, and these bytes, a quarter of a byte per element, are all that the backward pass keeps. Dropout of hidden
states counts (position, block of channels), channel c being lane c // ⌈D/4⌉ of block c mod ⌈D/4⌉; dropout of attention
probabilities counts (head block, query position, key position), with the heads in lanes likewise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax import compat
from bert_jax.bert_config import BertConfig
from bert_jax.errors import BertJaxError
from bert_jax.model.layout import Layout

LANES = 4  # draws per threefry block
_ONE = 1 << 16  # a draw is uniform in [0, _ONE)

# Sites: which draw inside a layer. Embeddings and classifiers, which are in no layer, draw in layer 0.
EMBEDDINGS, ATTENTION_PROBABILITIES, ATTENTION_OUTPUT, FEED_FORWARD_OUTPUT, CLASSIFIER = range(5)


@partial(jax.tree_util.register_dataclass, data_fields=["key", "example_ids", "always"], meta_fields=["kind"])
@dataclass(frozen=True)
class Dropout:
    """What a training step hands to the model; its presence means training.

    key: the step's key, typed or as uint32 words. example_ids: integers (B,), or (B, P) for packed rows, unique within
    the step; `fast` needs none. always: true, where the caller maps over keys (`jax.vmap`), not mapped itself: see
    `_apart`.
    """

    key: Any
    example_ids: Any = None
    kind: Literal["exact", "fast"] = "exact"
    always: Any = None

    def __post_init__(self) -> None:
        if self.kind not in ("exact", "fast"):
            raise BertJaxError(f"dropout is {self.kind!r}: expected 'exact' or 'fast'")


class Draws(NamedTuple):
    """The randomness of one forward pass: keys per row or per token, and where each token stands in its example.

    key: `exact` threefry keys (B, 1), or (B, P) when packed; `fast` one rbg key. places: (B, T) which of the P keys
    each token draws with, None when there is one. position_ids: uint32 (B, T) or (1, T). always: true, in a way that
    the compiler does not know.
    """

    key: jax.Array
    places: jax.Array | None
    position_ids: jax.Array
    always: jax.Array
    layout: Layout = Layout()

    @property
    def exact(self) -> bool:
        """Whether the bits belong to the example."""
        return self.key.ndim > 0


class Masks(NamedTuple):
    """Packed masks of one layer (or of several, along a leading axis); None where nothing is dropped.

    attention_probabilities: uint8 (B, ⌈N/4⌉, T, T). attention_output, feed_forward_output: uint8 (B, T, ⌈D/4⌉).
    """

    attention_probabilities: jax.Array | None = None
    attention_output: jax.Array | None = None
    feed_forward_output: jax.Array | None = None

    def of_layer(self, index: int) -> Masks:
        """One layer's masks out of several layers'."""
        return Masks(*(None if mask is None else mask[index] for mask in self))


def make_draws(
    dropout: Dropout,
    batch_size: int,
    position_ids: jax.Array,
    sequence_ids: jax.Array | None,
    layout: Layout | None = None,
) -> Draws:
    """Fold the example ids into the step key, once per forward pass.

    Errors: `BertJaxError` when `example_ids` do not fit the batch.
    """
    words = compat.key_words(dropout.key)
    always = (words[0] | jnp.uint32(1)) != 0 if dropout.always is None else dropout.always
    position_ids = position_ids.astype(jnp.uint32)
    if dropout.kind == "fast":
        key = jax.random.wrap_key_data(jnp.concatenate([words, words])[:4], impl="rbg")
        positions = jnp.broadcast_to(position_ids, (batch_size, position_ids.shape[1]))
        return Draws(key, None, positions, always, layout or Layout())
    if words.shape != (2,):
        raise BertJaxError("dropout 'exact' counts with threefry: give a threefry key (jax.random.key(seed)), not rbg")
    ids = dropout.example_ids
    axes = 1 if sequence_ids is None else 2
    if ids is None or jnp.ndim(ids) != axes or ids.shape[0] != batch_size:
        came = "none" if ids is None else f"shape {jnp.shape(ids)}"
        expected = f"({batch_size},)" if axes == 1 else f"({batch_size}, P), one per packed sequence"
        raise BertJaxError(f"dropout 'exact' needs example_ids of shape {expected}; got {came}")
    ids = jnp.asarray(ids).astype(jnp.uint32).reshape(batch_size, -1)
    key = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (None, 0))(
        jax.random.wrap_key_data(words, impl="threefry2x32"), ids
    )
    # Padding draws like the first example: nothing of it counts.
    places = None if sequence_ids is None else jnp.maximum(sequence_ids - 1, 0)
    return Draws(key, places, position_ids, always)


def layer_masks(draws: Draws | None, config: BertConfig, layers: jax.Array | int) -> Masks:
    """What layer `layers` drops; with an array (L,) of layers, `exact` only, every mask has a leading axis L."""
    if draws is None:
        return Masks()
    hidden, shares = config.hidden_dropout_prob, config.attention_probs_dropout_prob
    width, heads = config.hidden_size, config.num_attention_heads
    return Masks(
        probabilities_mask(draws, shares, layers, heads) if shares else None,
        hidden_mask(draws, hidden, layers, ATTENTION_OUTPUT, width) if hidden else None,
        hidden_mask(draws, hidden, layers, FEED_FORWARD_OUTPUT, width) if hidden else None,
    )


def hidden_mask(draws: Draws, rate: float, layers: jax.Array | int, site: int, width: int) -> jax.Array:
    """Packed mask uint8 (B, T, ⌈width/4⌉) for hidden states; `layers` may be traced, or an array as above."""
    blocks = -(-width // LANES)
    if not draws.exact:
        return _fast_mask(draws, rate, layers, site, (*draws.position_ids.shape, blocks))

    def mask(k0: jax.Array, k1: jax.Array, position: jax.Array) -> jax.Array:
        block = jnp.arange(blocks, dtype=jnp.uint32)
        return _packed(compat.threefry_2x32(k0[..., None], k1[..., None], position[..., None], block), rate)

    return _apart(mask, draws, *_site_key(draws, layers, site), draws.position_ids)


def probabilities_mask(draws: Draws, rate: float, layers: jax.Array | int, heads: int) -> jax.Array:
    """Packed mask uint8 (B, ⌈heads/4⌉, T, T) for attention probabilities; the draws do not depend on T."""
    blocks = -(-heads // LANES)
    batch, length = draws.position_ids.shape
    if not draws.exact:
        return _fast_mask(draws, rate, layers, ATTENTION_PROBABILITIES, (batch, blocks, length, length))

    def mask(k0: jax.Array, k1: jax.Array, position: jax.Array) -> jax.Array:
        block = jnp.arange(blocks, dtype=jnp.uint32)[:, None, None] << 24  # positions stay below 2²⁴
        k0, k1 = (jnp.expand_dims(k, (-3, -1)) for k in (k0, k1))  # the key of the query's example
        counter = block | position[:, None, :, None]
        return _packed(compat.threefry_2x32(k0, k1, counter, position[:, None, None, :]), rate)

    return _apart(mask, draws, *_site_key(draws, layers, ATTENTION_PROBABILITIES), draws.position_ids)


def _site_key(draws: Draws, layers: jax.Array | int, site: int) -> tuple[jax.Array, jax.Array]:
    """Words of the keys of one site: two uint32 arrays ([L,] B, T or 1)."""

    def fold(layer: jax.Array | int) -> jax.Array:
        flat = draws.key.reshape(-1)
        folded = jax.vmap(lambda key: jax.random.fold_in(jax.random.fold_in(key, layer), site))(flat)
        words = jax.random.key_data(folded).reshape(*draws.key.shape, 2)
        if draws.places is None:
            return words
        return jnp.take_along_axis(words, draws.places[..., None], axis=1, mode="clip")

    words = jax.vmap(fold)(layers) if jnp.ndim(layers) else fold(layers)
    return words[..., 0], words[..., 1]


def _apart(compute: Callable[..., jax.Array], draws: Draws, *operands: jax.Array) -> jax.Array:
    """compute(*operands) as a computation of its own that XLA cannot fuse into what reads the result.

    Fused, every reader computes the hundred operations of a block anew, once for each of its lanes: measured on CPU
    twelve times slower, and minutes of compilation. A branch whose condition is only known when it runs holds them
    apart; a barrier does not, XLA drops it before it fuses.
    """
    result = jax.eval_shape(compute, *operands)
    return jax.lax.cond(draws.always, compute, lambda *_: jnp.zeros(result.shape, result.dtype), *operands)


def _fast_mask(draws: Draws, rate: float, layer: jax.Array | int, site: int, shape: tuple[int, ...]) -> jax.Array:
    """Drawn by each device for its own rows: the partitioner cuts no generator, it has all draw the whole batch."""
    key = jax.random.fold_in(jax.random.fold_in(draws.key, layer), site)

    def draw(key: jax.Array, rows: int) -> jax.Array:
        words = jax.random.bits(jax.random.wrap_key_data(key, impl="rbg"), (2, rows, *shape[1:]), jnp.uint32)
        return _packed((words[0], words[1]), rate)

    return draws.layout.drawn(draw, jax.random.key_data(key), shape[0])


def _threshold(rate: float) -> int:
    return min(max(round(rate * _ONE), 1), _ONE - 1)


def _packed(words: tuple[jax.Array, jax.Array], rate: float) -> jax.Array:
    """Two random words per block → uint8, bit l set where lane l is kept."""
    threshold, low = jnp.uint32(_threshold(rate)), jnp.uint32(_ONE - 1)
    lanes = (words[0] & low, words[0] >> 16, words[1] & low, words[1] >> 16)
    kept = [(lane >= threshold).astype(jnp.uint8) << index for index, lane in enumerate(lanes)]
    return kept[0] | kept[1] | kept[2] | kept[3]


def drop(x: jax.Array, mask: jax.Array | None, rate: float, axis: int) -> jax.Array:
    """x with what `mask` drops set to 0 and the rest scaled up; lanes lie along `axis`. No mask: x itself."""
    return x if mask is None else _drop(x, mask, rate, axis)


def drop_before_classifier(x: jax.Array, draws: Draws | None, rate: float, tokens: bool) -> jax.Array:
    """Dropout of what a classifier reads: `tokens` all of them (B, T, D), else one vector of each example, (B, D), or
    (B, P, D) when packed."""
    if draws is None or not rate:
        return x
    if tokens:
        return drop(x, hidden_mask(draws, rate, 0, CLASSIFIER, x.shape[-1]), rate, 2)
    each = x.reshape(x.shape[0], -1, x.shape[-1])  # (B, 1 or P, D): the first token of each example, of its own key
    firsts = draws._replace(places=None, position_ids=jnp.zeros(each.shape[:2], jnp.uint32))
    return drop(each, hidden_mask(firsts, rate, 0, CLASSIFIER, x.shape[-1]), rate, 2).reshape(x.shape)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _drop(x: jax.Array, mask: jax.Array, rate: float, axis: int) -> jax.Array:
    scale = _ONE / (_ONE - _threshold(rate))
    keep = _unpacked(mask, axis, x.shape[axis])
    return jnp.where(keep, x * jnp.asarray(scale, x.dtype), jnp.zeros((), x.dtype))


def _unpacked(mask: jax.Array, axis: int, size: int) -> jax.Array:
    """Packed mask → bool per element along `axis`: lanes side by side, cut to `size`.

    Planes are joined, not spread by a broadcast and a reshape: XLA would fuse those into every reader (three times the
    compile time on CPU).
    """
    planes = [((mask >> lane) & jnp.uint8(1)).astype(bool) for lane in range(LANES)]
    return jax.lax.slice_in_dim(jnp.concatenate(planes, axis=axis), 0, size, axis=axis)


def _drop_forward(x: jax.Array, mask: jax.Array, rate: float, axis: int) -> tuple[jax.Array, jax.Array]:
    return _drop(x, mask, rate, axis), mask


def _drop_backward(rate: float, axis: int, mask: jax.Array, gradient: jax.Array) -> tuple[jax.Array, np.ndarray]:
    return _drop(gradient, mask, rate, axis), np.zeros(mask.shape, jax.dtypes.float0)


_drop.defvjp(_drop_forward, _drop_backward)
