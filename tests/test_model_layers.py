"""Linear maps, whose gradients are written out, and LayerNorm, against plain formulas."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.model.layers import LayerNorm, Linear, product, truncated_normal

SIZES = {"B": 2, "T": 3, "D": 4, "N": 2, "H": 5, "F": 6, "M": 3, "V": 7}


@pytest.mark.parametrize(
    "equation", ["BTD,DNH->BTNH", "BTNH,NHD->BTD", "BTD,DF->BTF", "BD,DF->BF", "BMD,VD->BMV", "BD,VD->BV"]
)
def test_gradients_of_products_are_those_jax_derives(equation):
    x_axes, kernel_axes = equation.split("->")[0].split(",")
    random = np.random.default_rng(0)
    x, kernel = (jnp.float32(random.normal(size=[SIZES[axis] for axis in axes])) for axes in (x_axes, kernel_axes))
    float32 = jnp.dtype(jnp.float32)
    ours, pull = jax.vjp(lambda x, kernel: product(equation, float32, x, kernel), x, kernel)
    theirs, expected = jax.vjp(lambda x, kernel: jnp.einsum(equation, x, kernel), x, kernel)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    direction = jnp.float32(random.normal(size=ours.shape))
    for got, want in zip(pull(direction), expected(direction), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_in_bfloat16_the_kernel_gradient_is_summed_and_kept_in_float32():
    """Rounded to bfloat16 after the sum, 1 + 2⁻¹⁰ would be 1."""
    x = jnp.ones((1, 1025, 1), jnp.bfloat16)
    _, pull = jax.vjp(lambda kernel: product("BTD,DF->BTF", jnp.dtype(jnp.bfloat16), x, kernel), jnp.ones((1, 1)))
    assert pull(jnp.full((1, 1025, 1), 2.0**-10, jnp.bfloat16))[0].item() == 1 + 2.0**-10


def test_linear_adds_its_bias_and_computes_in_its_dtype():
    layer = Linear("...D,DF->...F", (4, 6), (6,), 0.02, jnp.dtype(jnp.bfloat16))
    for shape in ((3, 4), (2, 3, 4)):
        x = jnp.ones(shape)
        params = layer.init(jax.random.key(0), x)["params"]
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
        out = layer.apply({"params": {"kernel": jnp.ones((4, 6)), "bias": jnp.arange(6.0)}}, x)
        assert out.dtype == jnp.bfloat16
        np.testing.assert_array_equal(out, np.broadcast_to(4 + np.arange(6), out.shape))


def test_layer_norm_statistics_are_float32():
    x = jnp.asarray(300 + np.random.default_rng(0).normal(size=(5, 64)), jnp.bfloat16)
    layer = LayerNorm(1e-12, jnp.dtype(jnp.float32))
    out = layer.apply({"params": {"scale": jnp.full(64, 2.0), "bias": jnp.full(64, 3.0)}}, x)
    exact = np.asarray(x, np.float64)
    expected = (exact - exact.mean(-1, keepdims=True)) / exact.std(-1, keepdims=True) * 2 + 3
    np.testing.assert_allclose(out, expected, atol=1e-4)


def test_truncated_normal_is_cut_and_not_rescaled():
    draws = np.asarray(truncated_normal(0.02)(jax.random.key(0), (100_000,), jnp.float32))
    assert 0.0399 < np.abs(draws).max() <= 0.04
    assert abs(draws.std() / 0.02 - 0.8796) < 0.005
