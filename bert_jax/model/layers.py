"""The three kinds of parameters everything else is made of: a linear map, a LayerNorm, a table."""

from __future__ import annotations

from functools import partial

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
        equation = self.equation.replace("...", "BT"[: x.ndim - 1])
        return product(equation, self.dtype, x.astype(self.dtype), kernel) + bias.astype(self.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def product(equation: str, dtype: jnp.dtype, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """einsum(equation, x, kernel) computed in x's dtype, handed out in `dtype`; its gradients are written out too.

    The kernel's gradient is an einsum of its own, for two reasons. It leaves the product in float32, not rounded to a
    narrower compute dtype first. And jax would derive it transposed and turn it round afterwards, for which XLA on CPU
    copies the incoming gradient, with everything fused into it, along the wrong axis: a fifth of a feed-forward layer.
    """
    return jnp.einsum(equation, x, kernel.astype(x.dtype), preferred_element_type=dtype)


def _product_forward(
    equation: str, dtype: jnp.dtype, x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return product(equation, dtype, x, kernel), (x, kernel)


def _product_backward(
    equation: str, dtype: jnp.dtype, kept: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    gradient = gradient.astype(x.dtype)
    axes, result = equation.split("->")
    x_axes, kernel_axes = axes.split(",")
    dx = jnp.einsum(f"{result},{kernel_axes}->{x_axes}", gradient, kernel.astype(x.dtype))
    operands = [(x_axes, x), (result, gradient)]
    if kernel_axes[0] not in x_axes:  # the operand whose axes come first in the kernel stands first: nothing is turned
        operands.reverse()
    (first, left), (second, right) = operands
    dkernel = jnp.einsum(f"{first},{second}->{kernel_axes}", left, right, preferred_element_type=kernel.dtype)
    return dx, dkernel


product.defvjp(_product_forward, _product_backward)


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
