"""The published activation functions, by their names in `BertConfig`.

GELU is computed as google-research/bert computes it (`gelu_tanh`) or as Hugging Face does (`gelu_exact`). Both have
their derivative written out: the backward pass keeps the input alone instead of every intermediate.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

_ROOT_2_OVER_PI = math.sqrt(2 / math.pi)
_CUBIC = 0.044715


@jax.custom_jvp
def gelu_tanh(x: jax.Array) -> jax.Array:
    """x/2 · (1 + tanh u) with u = √(2/π) (x + 0.044715 x³) (Hendrycks and Gimpel 2016, the tanh form).

    Written x / (1 + exp(−2u)), which is the same: XLA computes what ends in a division once and keeps it, where it
    computes a product anew, and along the wrong axis, for every matrix product that reads it (measured on CPU).
    """
    return x / (1 + jnp.exp(-2 * _tanh_argument(x)))


def _tanh_argument(x: jax.Array) -> jax.Array:
    return _ROOT_2_OVER_PI * (x + _CUBIC * x * x * x)


@gelu_tanh.defjvp
def _gelu_tanh_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    below = 1 + jnp.exp(-2 * _tanh_argument(x))
    share = 1 / below
    slope = share + 2 * x * share * (1 - share) * _ROOT_2_OVER_PI * (1 + 3 * _CUBIC * x * x)
    return x / below, slope * dx


@jax.custom_jvp
def gelu_exact(x: jax.Array) -> jax.Array:
    """x · Φ(x), Φ the normal distribution function (Hendrycks and Gimpel 2016)."""
    return 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))


@gelu_exact.defjvp
def _gelu_exact_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    share = 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))
    density = math.sqrt(0.5 / math.pi) * jnp.exp(-0.5 * x * x)
    return x * share, (share + x * density) * dx


def quick_gelu(x: jax.Array) -> jax.Array:
    """x · σ(1.702 x)."""
    return x * jax.nn.sigmoid(1.702 * x)


def linear(x: jax.Array) -> jax.Array:
    """x itself."""
    return x


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu_tanh": gelu_tanh,
    "gelu_exact": gelu_exact,
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "linear": linear,
    "silu": jax.nn.silu,
    "sigmoid": jax.nn.sigmoid,
    "mish": jax.nn.mish,
    "quick_gelu": quick_gelu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
    "relu6": jax.nn.relu6,
}
