"""The three kinds of parameters everything else is made of: a linear map, a LayerNorm, a table."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from bert_jax.bert_config import BertConfig


def truncated_normal(scale: float) -> nn.initializers.Initializer:
    """Normal of standard deviation `scale` cut at twice that and not rescaled (tf.truncated_normal, as published)."""
    return nn.initializers.truncated_normal(stddev=scale, lower=-2.0, upper=2.0)


class Linear(nn.Module):
    """einsum(equation, x, kernel) + bias in the compute dtype; parameters are float32.

    The equation is the documentation: 'BTD,DNH->BTNH' has a kernel (D, N, H) and a bias over its last axes.
    """

    equation: str
    kernel_shape: tuple[int, ...]
    bias_shape: tuple[int, ...]
    initializer_range: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", truncated_normal(self.initializer_range), self.kernel_shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, self.bias_shape, jnp.float32)
        product = jnp.einsum(self.equation, x.astype(self.dtype), kernel.astype(self.dtype))
        return product + bias.astype(self.dtype)


class LayerNorm(nn.Module):
    """(x − mean) / √(variance + ε) · scale + bias over the last axis (Ba et al. 2016); statistics in float32."""

    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        x = x.astype(jnp.float32)
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        return (centred * (jax.lax.rsqrt(variance + self.epsilon) * scale) + bias).astype(self.dtype)


def dense(config: BertConfig, dtype: jnp.dtype, features: tuple[int, int], name: str) -> Linear:
    """A plain linear map over the last axis, (in, out) features."""
    return Linear("...D,DF->...F", features, features[1:], config.initializer_range, dtype, name=name)
