"""The walk through one head, number by number, ends where the model does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from minilm import minilm_directory
from small_models import small_config, small_tokenizer

from bert_jax.formats.model import LoadedModel
from bert_jax.infer.loaded import Bert, load
from bert_jax.model.activations import ACTIVATIONS
from bert_jax.model.bert import abstract_parameters, make_model

PAIR = ("the cat sat on the mat", "it was tired .")


def two_layers(dtype: Any = jnp.float32) -> Bert:
    config = replace(small_config(), num_hidden_layers=2, num_attention_heads=4)
    random = np.random.default_rng(3)
    shapes = abstract_parameters(make_model(config, heads=(), pooler=False))
    params = jax.tree.map(lambda leaf: random.normal(0, 0.5, leaf.shape).astype(np.float32), shapes)
    source = LoadedModel(
        config=config,
        params=params,
        tokenizer=small_tokenizer(),
        kind="run",
        path=Path("small"),
        step=0,
        heads=(),
        pooler=False,
    )
    return Bert(source, dtype=dtype)


def layer_norm(x: np.ndarray, params: Any, epsilon: float) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon)
    return centred / spread * np.asarray(params["scale"]) + np.asarray(params["bias"])


def rest_of_layer(bert: Bert, layer: int, hidden: np.ndarray, added: np.ndarray) -> np.ndarray:
    """The layer's output (T, D) from its input and what all heads add together."""
    params, epsilon = bert.params["encoder"][f"layer_{layer}"], bert.config.layer_norm_eps
    x = layer_norm(
        hidden + added + np.asarray(params["attention"]["output"]["bias"]),
        params["attention"]["layer_norm"],
        epsilon,
    )
    forward = jax.tree.map(np.asarray, params["feed_forward"])
    inner = np.asarray(
        ACTIVATIONS[bert.config.hidden_act](x @ forward["intermediate"]["kernel"] + forward["intermediate"]["bias"])
    )
    return layer_norm(
        x + inner @ forward["output"]["kernel"] + forward["output"]["bias"], forward["layer_norm"], epsilon
    )


def check(bert: Bert, pair: tuple[str, str], tolerance: float) -> None:
    seen = bert.attention(pair, vectors=True)
    row = {name: values[None] for name, values in bert.tokenizer.encode(*pair).items()}
    hidden_states = jax.jit(lambda batch: bert.apply(batch, hidden_states=True)["hidden_states"])(row)
    states = [np.asarray(state[0]) for state in hidden_states]
    layers, heads, tokens, _ = seen.weights.shape
    lengths = seen.vectors.output_lengths(seen.weights)
    for layer in range(layers):
        np.testing.assert_allclose(seen.vectors.hidden[layer], states[layer], atol=tolerance)
        added = np.zeros_like(states[0])
        for head in range(heads):
            for token in range(tokens):
                walk = seen.vectors.walk(layer, head, token)
                np.testing.assert_allclose(walk.weights, seen.weights[layer, head, token], atol=tolerance)
                np.testing.assert_allclose(walk.products, walk.scores * np.sqrt(bert.config.head_size), rtol=1e-5)
                np.testing.assert_allclose(walk.weighted.sum(axis=0), walk.context)
                np.testing.assert_allclose(np.linalg.norm(walk.output), lengths[layer, head, token], rtol=1e-3)
                added[token] += walk.output
        output = rest_of_layer(bert, layer, states[layer], added)
        np.testing.assert_allclose(output, states[layer + 1], atol=20 * tolerance)


def test_the_walk_reproduces_the_models_weights_and_output() -> None:
    check(two_layers(), PAIR, 1e-5)


def test_the_walk_on_a_real_model() -> None:
    check(load(minilm_directory()), ("The animal didn't cross the street", "It was too tired."), 1e-5)


def test_chosen_layers_and_heads_bring_their_own_vectors() -> None:
    bert = two_layers()
    everything, some = bert.attention(PAIR, vectors=True), bert.attention(PAIR, [1], [3, 0], vectors=True)
    for place, head in enumerate((3, 0)):
        expected, found = everything.vectors.walk(1, head, 2), some.vectors.walk(0, place, 2)
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_compute_dtypes_rounding_is_repeated() -> None:
    bert = two_layers(jnp.bfloat16)
    seen = bert.attention(PAIR, vectors=True)
    assert seen.weights.dtype == np.float32
    walk = seen.vectors.walk(1, 2, 3)
    np.testing.assert_allclose(walk.weights, seen.weights[1, 2, 3], atol=0.02)


def test_without_vectors_there_are_none() -> None:
    assert two_layers().attention("rain").vectors is None


@pytest.mark.parametrize("token", [0, 4])
def test_the_shapes(token: int) -> None:
    walk = two_layers().attention("the cat sat", vectors=True).vectors.walk(0, 0, token)
    assert [numbers.shape for numbers in walk] == [(4,), (5, 4), (5,), (5,), (5,), (5, 4), (4,), (16,)]
