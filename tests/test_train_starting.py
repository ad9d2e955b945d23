"""What a run takes from the model it starts from, and what it draws anew."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from small_models import small_config, small_parameters

from bert_jax.bert_config import BertConfig
from bert_jax.errors import BertJaxError
from bert_jax.model.bert import make_model
from bert_jax.model.parameters import flatten
from bert_jax.train.starting import architecture_of, starting_parameters


def test_the_architecture_is_the_models_and_the_rates_are_the_runs() -> None:
    origin = dataclasses.replace(small_config(), hidden_act="gelu_exact", hidden_dropout_prob=0.3)
    found = architecture_of(origin, BertConfig(hidden_dropout_prob=0.05))
    assert found == dataclasses.replace(origin, vocab_size=None, hidden_dropout_prob=0.05)


def test_what_the_user_asks_for_must_be_the_models() -> None:
    origin = small_config()
    config = dataclasses.replace(origin, hidden_size=32)
    with pytest.raises(BertJaxError, match="hidden_size is 32, and the model to start from has 16: leave it out"):
        architecture_of(origin, config, asked=["hidden_size"])
    assert architecture_of(origin, config).hidden_size == 16  # of a CONFIG file: logged, not refused


def test_only_positions_may_grow_and_only_when_asked() -> None:
    origin, longer = small_config(), dataclasses.replace(small_config(), max_position_embeddings=100)
    assert architecture_of(origin, longer).max_position_embeddings == 64
    assert architecture_of(origin, longer, asked=["max_position_embeddings"]).max_position_embeddings == 100
    shorter = dataclasses.replace(origin, max_position_embeddings=32)
    with pytest.raises(BertJaxError, match="max_position_embeddings is 32, and the model"):
        architecture_of(origin, shorter, asked=["max_position_embeddings"])


def test_missing_heads_are_drawn_and_the_rest_is_taken() -> None:
    params = small_parameters(heads=("masked_lm",))
    del params["pooler"]
    model = make_model(small_config())
    found = starting_parameters(params, model, seed=3)
    assert found.keys() == {"embeddings", "encoder", "pooler", "masked_lm", "next_sentence"}
    for path, leaf in flatten(params).items():
        np.testing.assert_array_equal(flatten(found)[path], leaf)
    drawn = np.asarray(found["next_sentence"]["kernel"])
    assert 0 < np.abs(drawn).max() < 0.05  # normal of deviation 0.02, cut at twice that
    again = starting_parameters(params, model, seed=3)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), found, again))


def test_other_heads_are_left_out() -> None:
    params = small_parameters(heads=("masked_lm", "next_sentence", "tagging"))
    assert "tagging" not in starting_parameters(params, make_model(small_config()), seed=0)


def test_a_longer_position_table_repeats_the_models() -> None:
    params = small_parameters()
    longer = make_model(dataclasses.replace(small_config(), max_position_embeddings=150))
    table = np.asarray(starting_parameters(params, longer, seed=0)["embeddings"]["position_embeddings"])
    old = np.asarray(params["embeddings"]["position_embeddings"])
    for position in (0, 63, 64, 127, 149):
        np.testing.assert_array_equal(table[position], old[position % 64])


def test_rows_past_the_vocabulary_are_left_out() -> None:
    params = small_parameters()
    smaller = make_model(dataclasses.replace(small_config(), vocab_size=27))
    found = starting_parameters(params, smaller, seed=0)
    np.testing.assert_array_equal(found["embeddings"]["word_embeddings"], params["embeddings"]["word_embeddings"][:27])
    assert found["masked_lm"]["bias"].shape == (27,)


def test_any_other_shape_is_an_error() -> None:
    params = small_parameters()
    params["pooler"]["kernel"] = np.zeros((16, 8), np.float32)
    with pytest.raises(BertJaxError, match=r"pooler/kernel .* has shape \(16, 8\): expected \(16, 16\)"):
        starting_parameters(params, make_model(small_config()), seed=0)
