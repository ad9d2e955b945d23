"""The parameter tree by path, by part, stacked and apart."""

from __future__ import annotations

import jax
import model_examples as examples
import numpy as np
import pytest

from bert_jax.errors import BertJaxError
from bert_jax.model.bert import abstract_parameters, make_model
from bert_jax.model.parameters import counts, flatten, stack_layers, unflatten, unstack_layers


def test_paths_and_back():
    tree = {"encoder": {"layer_0": {"kernel": 1, "bias": 2}}, "bias": 3}
    assert flatten(tree) == {"encoder/layer_0/kernel": 1, "encoder/layer_0/bias": 2, "bias": 3}
    assert unflatten(flatten(tree)) == tree


@pytest.mark.parametrize("paths", [("a", "a/b"), ("a/b", "a"), ("a/b/c", "a/b")])
def test_a_path_beneath_another_is_an_error(paths):
    with pytest.raises(BertJaxError, match="rename one of them"):
        unflatten(dict.fromkeys(paths, 0))


def test_counts_by_part():
    parts = counts(abstract_parameters(make_model(examples.CONFIG)))
    layer = 4 * (24 * 24 + 24) + 2 * 24 * 32 + 32 + 24 + 4 * 24
    assert parts == {
        "embeddings": (61 + 32 + 2 + 2) * 24,
        "encoder": 2 * layer,
        "pooler": 24 * 24 + 24,
        "masked_lm": 24 * 24 + 3 * 24 + 61,
        "next_sentence": 24 * 2 + 2,
    }


def test_layers_stacked_and_apart():
    encoder = {f"layer_{index}": {"kernel": np.full((2, 3), index), "b": {"bias": np.arange(2)}} for index in range(12)}
    stacked = stack_layers(encoder)
    assert stacked["kernel"].shape == (12, 2, 3)
    assert int(stacked["kernel"][10, 0, 0]) == 10  # in order of number, not of name
    apart = unstack_layers(stacked)
    assert set(apart) == set(encoder)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), apart, encoder)))
