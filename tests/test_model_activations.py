"""Each activation against its formula, and the two whose derivative is written out against finite differences."""

from __future__ import annotations

import math
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.bert_config import Activation
from bert_jax.model.activations import ACTIVATIONS

X = np.linspace(-6, 6, 241)
FORMULAS = {
    "gelu_tanh": lambda x: x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "gelu_exact": lambda x: x / 2 * (1 + math.erf(x / math.sqrt(2))),
    "relu": lambda x: max(x, 0),
    "tanh": math.tanh,
    "linear": lambda x: x,
    "silu": lambda x: x / (1 + math.exp(-x)),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "mish": lambda x: x * math.tanh(math.log1p(math.exp(x))),
    "quick_gelu": lambda x: x / (1 + math.exp(-1.702 * x)),
    "relu2": lambda x: max(x, 0) ** 2,
    "relu6": lambda x: min(max(x, 0), 6),
}


def test_every_name_of_the_configuration_has_a_function():
    assert set(ACTIVATIONS) == set(typing.get_args(Activation)) == set(FORMULAS)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values(name):
    np.testing.assert_allclose(ACTIVATIONS[name](jnp.float32(X)), [FORMULAS[name](x) for x in X], atol=2e-6)


@pytest.mark.parametrize("name", ["gelu_tanh", "gelu_exact"])
def test_written_derivatives(name):
    slope = jax.vmap(jax.grad(ACTIVATIONS[name]))(jnp.float32(X))
    h = 1e-5
    expected = [(FORMULAS[name](x + h) - FORMULAS[name](x - h)) / (2 * h) for x in X]
    np.testing.assert_allclose(slope, expected, atol=1e-5)


def test_the_two_gelus_differ():
    difference = np.abs(ACTIVATIONS["gelu_tanh"](jnp.float32(X)) - ACTIVATIONS["gelu_exact"](jnp.float32(X)))
    assert 4e-4 < difference.max() < 5e-4
