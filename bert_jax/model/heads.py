"""The pooler and the heads: of pre-training, and the linear ones that published fine-tuned models have."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from bert_jax.bert_config import BertConfig
from bert_jax.model.activations import ACTIVATIONS
from bert_jax.model.layers import LayerNorm, dense, product

# The logit of a row that only pads the vocabulary: its share is exactly 0 and it has no gradient.
PADDED_LOGIT = -1e30


def gather_positions(x: jax.Array, positions: jax.Array) -> jax.Array:
    """x (B, T, D) at positions (B, M) → (B, M, D)."""
    return jnp.take_along_axis(x, positions[..., None].astype(jnp.int32), axis=1, mode="clip")


class Pooler(nn.Module):
    """tanh(first token · kernel + bias): (…, D) → (…, D)."""

    config: BertConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = self.config.hidden_size
        nn.share_scope(self, linear := dense(self.config, self.dtype, (width, width), "linear"))
        return jnp.tanh(linear(x))


class MaskedLM(nn.Module):
    """Transform, then the word embeddings again: x (…, D), table (V, D) → float32 logits (…, V)."""

    config: BertConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, table: jax.Array) -> jax.Array:
        config = self.config
        width = config.hidden_size
        x = dense(config, self.dtype, (width, width), "transform")(x)
        x = ACTIVATIONS[config.hidden_act](x)
        x = LayerNorm(config.layer_norm_eps, self.dtype, name="layer_norm")(x)
        bias = self.param("bias", nn.initializers.zeros, (config.known_vocab_size,), jnp.float32)
        bias = jnp.pad(bias, (0, table.shape[0] - bias.shape[0]), constant_values=PADDED_LOGIT)
        equation = "BMD,VD->BMV" if x.ndim == 3 else "BD,VD->BV"
        return product(equation, jnp.dtype(jnp.float32), x, table) + bias


class Classifier(nn.Module):
    """x (…, D) → float32 logits (…, C), by one linear map."""

    config: BertConfig
    dtype: jnp.dtype
    classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = (x.shape[-1], self.classes)
        nn.share_scope(self, linear := dense(self.config, self.dtype, features, "linear"))
        return linear(x).astype(jnp.float32)
