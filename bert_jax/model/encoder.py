"""Embeddings and the post-LayerNorm transformer layers (Devlin et al. 2018, Vaswani et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from bert_jax.bert_config import BertConfig
from bert_jax.model import attention, dropout
from bert_jax.model.activations import ACTIVATIONS
from bert_jax.model.layers import LayerNorm, Linear, truncated_normal


class Context(NamedTuple):
    """What all layers share: mask (B, 1, T or 1, S), draws for dropout, whether probabilities are asked for."""

    mask: jax.Array
    draws: dropout.Draws | None


class Embeddings(nn.Module):
    """Words + positions + segments, LayerNorm, dropout: ids (B, T) → (B, T, D), and the word table (padded V, D)."""

    config: BertConfig
    dtype: jnp.dtype
    vocab_multiple: int

    @nn.compact
    def __call__(
        self, ids: jax.Array, segment_ids: jax.Array, position_ids: jax.Array | None, draws: dropout.Draws | None
    ) -> tuple[jax.Array, jax.Array]:
        config = self.config
        width, length = config.hidden_size, ids.shape[1]
        words = self._table("word_embeddings", config.known_vocab_size)
        positions = self._table("position_embeddings", config.max_position_embeddings)
        segments = self._table("token_type_embeddings", config.type_vocab_size)
        words = jnp.pad(words, ((0, -len(words) % self.vocab_multiple), (0, 0)))
        x = jnp.take(words, ids, axis=0, mode="clip")
        x += positions[:length] if position_ids is None else jnp.take(positions, position_ids, axis=0, mode="clip")
        # A product, not a look-up: the gradient of a look-up into two rows is one long chain of additions.
        x += jnp.einsum("BTC,CD->BTD", jax.nn.one_hot(segment_ids, config.type_vocab_size), segments)
        x = LayerNorm(config.layer_norm_eps, self.dtype, name="layer_norm")(x)
        assert x.shape == (*ids.shape, width)
        return dropout.drop_hidden(draws, config.hidden_dropout_prob, 0, dropout.EMBEDDINGS, x), words

    def _table(self, name: str, rows: int) -> jax.Array:
        shape = (rows, self.config.hidden_size)
        return self.param(name, truncated_normal(self.config.initializer_range), shape, jnp.float32)


class SelfAttention(nn.Module):
    """x (B, T, D) → LayerNorm(x + dropout(attention(x))), and the probabilities (B, N, T, S) when asked for."""

    config: BertConfig
    dtype: jnp.dtype
    engine: str
    probabilities: bool

    @nn.compact
    def __call__(self, x: jax.Array, context: Context, layer: jax.Array | int) -> tuple[jax.Array, jax.Array | None]:
        config = self.config
        width, heads, head_size = config.hidden_size, config.num_attention_heads, config.head_size

        def project(name: str) -> jax.Array:
            shape = (width, heads, head_size)
            return Linear("BTD,DNH->BTNH", shape, shape[1:], config.initializer_range, self.dtype, name=name)(x)

        request = attention.Request(
            query=project("query"),
            key=project("key"),
            value=project("value"),
            mask=context.mask,
            draws=context.draws,
            rate=config.attention_probs_dropout_prob,
            layer=layer,
        )
        mixed, shares = attention.attend(self.engine, request, self.probabilities)
        output_shape = (heads, head_size, width)
        output = Linear("BTNH,NHD->BTD", output_shape, (width,), config.initializer_range, self.dtype, name="output")
        added = dropout.drop_hidden(
            context.draws, config.hidden_dropout_prob, layer, dropout.ATTENTION_OUTPUT, output(mixed)
        )
        return LayerNorm(config.layer_norm_eps, self.dtype, name="layer_norm")(x + added), shares


class FeedForward(nn.Module):
    """x (B, T, D) → LayerNorm(x + dropout(activation(x · D×F) · F×D))."""

    config: BertConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, context: Context, layer: jax.Array | int) -> jax.Array:
        config = self.config
        width, inner, spread = config.hidden_size, config.intermediate_size, config.initializer_range
        hidden = Linear("BTD,DF->BTF", (width, inner), (inner,), spread, self.dtype, name="intermediate")(x)
        hidden = ACTIVATIONS[config.hidden_act](hidden)
        added = Linear("BTF,FD->BTD", (inner, width), (width,), spread, self.dtype, name="output")(hidden)
        added = dropout.drop_hidden(
            context.draws, config.hidden_dropout_prob, layer, dropout.FEED_FORWARD_OUTPUT, added
        )
        return LayerNorm(config.layer_norm_eps, self.dtype, name="layer_norm")(x + added)


class Layer(nn.Module):
    """One transformer layer."""

    config: BertConfig
    dtype: jnp.dtype
    engine: str
    probabilities: bool

    @nn.compact
    def __call__(self, x: jax.Array, context: Context, layer: jax.Array | int) -> tuple[jax.Array, jax.Array | None]:
        attend = SelfAttention(self.config, self.dtype, self.engine, self.probabilities, name="attention")
        x, shares = attend(x, context, layer)
        return FeedForward(self.config, self.dtype, name="feed_forward")(x, context, layer), shares


class Encoder(nn.Module):
    """All layers. Parameters are kept per layer (`layer_0` …) whether they are run one by one or by one scan.

    Returns the hidden states after each layer, or the last alone in a tuple of one, and probabilities when asked for.
    """

    config: BertConfig
    dtype: jnp.dtype
    engine: str
    scan_layers: bool
    remat: str

    @nn.compact
    def __call__(
        self, x: jax.Array, context: Context, hidden_states: bool, attentions: bool
    ) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
        names = [f"layer_{index}" for index in range(self.config.num_hidden_layers)]
        make = {"config": self.config, "dtype": self.dtype, "engine": self.engine, "probabilities": attentions}
        if self.is_initializing():
            for index, name in enumerate(names):
                x, _ = Layer(**make, name=name)(x, context, index)
            return (x,), ()
        layer = Layer(**make, parent=None)

        def run(params: Any, x: jax.Array, index: jax.Array | int) -> tuple[jax.Array, jax.Array | None]:
            return layer.apply({"params": params}, x, context, index)

        run = rematerialised(run, self.remat, self.scan_layers)
        params = [self.variables["params"][name] for name in names]
        if self.scan_layers:
            return _scan(run, params, x, hidden_states)
        states, shares = [], []
        for index in range(len(names)):
            x, share = run(params[index], x, index)
            states.append(x)
            shares.append(share)
        return tuple(states if hidden_states else states[-1:]), tuple(shares) if attentions else ()


def _scan(
    run: Callable[..., Any], params: list[Any], x: jax.Array, hidden_states: bool
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """Stack the layers' parameters and scan over them: one layer is compiled instead of L."""
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)

    def body(x: jax.Array, inputs: Any) -> tuple[jax.Array, Any]:
        x, shares = run(inputs[0], x, inputs[1])
        return x, (x if hidden_states else None, shares)

    x, (states, shares) = jax.lax.scan(body, x, (stacked, jnp.arange(len(params), dtype=jnp.uint32)))
    return tuple(states) if hidden_states else (x,), () if shares is None else tuple(shares)


def rematerialised(run: Callable[..., Any], remat: str, scanned: bool) -> Callable[..., Any]:
    """`run` with its backward pass recomputing nothing, all but the matrix products by parameters, or everything."""
    if remat == "none":
        return run
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if remat == "dots" else None
    return jax.checkpoint(run, policy=policy, prevent_cse=not scanned)
