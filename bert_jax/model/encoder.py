"""Embeddings and the post-LayerNorm transformer layers (Devlin et al. 2018, Vaswani et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bert_jax.bert_config import BertConfig
from bert_jax.model import attention, dropout
from bert_jax.model.activations import ACTIVATIONS
from bert_jax.model.layers import LayerNorm, Linear, truncated_normal
from bert_jax.model.layout import Layout
from bert_jax.model.parameters import stack_layers, unstack_layers


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
        rate = config.hidden_dropout_prob
        if draws is not None and rate:
            x = dropout.drop(x, dropout.hidden_mask(draws, rate, 0, dropout.EMBEDDINGS, width), rate, 2)
        return x, words

    def _table(self, name: str, rows: int) -> jax.Array:
        shape = (rows, self.config.hidden_size)
        return self.param(name, truncated_normal(self.config.initializer_range), shape, jnp.float32)


class SelfAttention(nn.Module):
    """x (B, T, D) → LayerNorm(x + dropout(attention(x))), and the probabilities (B, N, T, S) when asked for."""

    config: BertConfig
    dtype: jnp.dtype
    engine: str
    layout: Layout
    probabilities: bool

    @nn.compact
    def __call__(
        self, x: jax.Array, visible: attention.Visible, dropped: dropout.Masks
    ) -> tuple[jax.Array, jax.Array | None]:
        config = self.config
        width, heads, head_size = config.hidden_size, config.num_attention_heads, config.head_size

        def project(name: str) -> jax.Array:
            shape = (width, heads, head_size)
            return Linear("BTD,DNH->BTNH", shape, shape[1:], config.initializer_range, self.dtype, name=name)(x)

        request = attention.Request(
            query=project("query"),
            key=project("key"),
            value=project("value"),
            visible=visible,
            dropped=dropped.attention_probabilities,
            rate=config.attention_probs_dropout_prob,
            platform=self.layout.platform or jax.default_backend(),
        )
        mixed, shares = attention.attend(self.engine, request, self.probabilities, self.layout)
        output_shape = (heads, head_size, width)
        output = Linear("BTNH,NHD->BTD", output_shape, (width,), config.initializer_range, self.dtype, name="output")
        added = dropout.drop(output(mixed), dropped.attention_output, config.hidden_dropout_prob, 2)
        return LayerNorm(config.layer_norm_eps, self.dtype, name="layer_norm")(x + added), shares


class FeedForward(nn.Module):
    """x (B, T, D) → LayerNorm(x + dropout(activation(x · D×F) · F×D))."""

    config: BertConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        config = self.config
        width, inner, spread = config.hidden_size, config.intermediate_size, config.initializer_range
        hidden = Linear("BTD,DF->BTF", (width, inner), (inner,), spread, self.dtype, name="intermediate")(x)
        hidden = ACTIVATIONS[config.hidden_act](hidden)
        added = Linear("BTF,FD->BTD", (inner, width), (width,), spread, self.dtype, name="output")(hidden)
        added = dropout.drop(added, mask, config.hidden_dropout_prob, 2)
        return LayerNorm(config.layer_norm_eps, self.dtype, name="layer_norm")(x + added)


class Layer(nn.Module):
    """One transformer layer."""

    config: BertConfig
    dtype: jnp.dtype
    engine: str
    layout: Layout
    probabilities: bool

    @nn.compact
    def __call__(
        self, x: jax.Array, visible: attention.Visible, dropped: dropout.Masks
    ) -> tuple[jax.Array, jax.Array | None]:
        attend = SelfAttention(self.config, self.dtype, self.engine, self.layout, self.probabilities, name="attention")
        x, shares = attend(x, visible, dropped)
        return FeedForward(self.config, self.dtype, name="feed_forward")(x, dropped.feed_forward_output), shares


class Encoder(nn.Module):
    """All layers. Parameters are kept per layer (`layer_0` …) whether they are run one by one or by one scan.

    Returns the hidden states after each layer, or the last alone in a tuple of one, and probabilities when asked for.
    """

    config: BertConfig
    dtype: jnp.dtype
    engine: str
    scan_layers: bool
    remat: str
    layout: Layout = Layout()

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        visible: attention.Visible,
        draws: dropout.Draws | None,
        hidden_states: bool,
        attentions: bool,
    ) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
        count, layout = self.config.num_hidden_layers, self.layout
        layer = Layer(self.config, self.dtype, self.engine, layout, attentions, parent=None)
        if self.is_initializing():
            self._draw_layers(layer, x, visible)
            return (x,), ()
        # All masks in one computation, where the backward pass would keep them anyway: it compiles once.
        masks = None
        if draws is not None and draws.exact and self.remat == "none":
            masks = dropout.layer_masks(draws, self.config, jnp.arange(count, dtype=jnp.uint32))

        def run(x: jax.Array, params: Any, index: jax.Array, dropped: dropout.Masks | None) -> Any:
            dropped = dropout.layer_masks(draws, self.config, index) if dropped is None else dropped
            params = layout.parameters("encoder/layer_0", params)
            x, shares = layer.apply({"params": params}, layout.rows(x), visible, dropped)
            return layout.rows(x), shares

        run = rematerialised(run, self.remat, self.scan_layers)
        params = self.variables["params"]
        if self.scan_layers:
            return _scan(run, x, params, masks, hidden_states)
        states, shares = [], []
        for index in range(count):
            dropped = None if masks is None else masks.of_layer(index)
            x, share = run(x, params[f"layer_{index}"], jnp.uint32(index), dropped)
            states.append(x)
            shares.append(share)
        return tuple(states if hidden_states else states[-1:]), tuple(shares) if attentions else ()

    def _draw_layers(self, layer: Layer, x: jax.Array, visible: attention.Visible) -> None:
        """All layers' parameters in one computation: drawn one by one, BERT-base takes twelve seconds to compile."""
        first = self.make_rng("params")
        keys = jax.vmap(jax.random.fold_in, (None, 0))(first, jnp.arange(self.config.num_hidden_layers))
        stacked = jax.vmap(lambda key: layer.init(key, x, visible, dropout.Masks())["params"])(keys)
        for name, params in unstack_layers(stacked).items():
            self.param(name, lambda _, params=params: params)


def _scan(
    run: Callable[..., Any], x: jax.Array, params: Any, masks: dropout.Masks | None, hidden_states: bool
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """Stack the layers' parameters and scan over them: one layer is compiled instead of L."""
    indices = jnp.arange(len(params), dtype=jnp.uint32)

    def body(x: jax.Array, inputs: Any) -> tuple[jax.Array, Any]:
        x, shares = run(x, *inputs)
        return x, (x if hidden_states else None, shares)

    x, (states, shares) = jax.lax.scan(body, x, (stack_layers(params), indices, masks))
    return tuple(states) if hidden_states else (x,), () if shares is None else tuple(shares)


def rematerialised(run: Callable[..., Any], remat: str, scanned: bool) -> Callable[..., Any]:
    """`run` with its backward pass recomputing nothing, all but the matrix products by parameters, or everything."""
    if remat == "none":
        return run
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if remat == "dots" else None
    return jax.checkpoint(run, policy=policy, prevent_cse=not scanned)
