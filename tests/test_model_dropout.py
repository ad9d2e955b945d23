"""Dropout draws: how often, by what they are counted, and what they do not depend on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import model_examples as examples
import numpy as np
import pytest

from bert_jax import compat
from bert_jax.errors import BertJaxError
from bert_jax.model import dropout
from bert_jax.model.dropout import Dropout

WIDTH, HEADS = 24, 6


def _draws(ids, length=8, key=examples.KEY, kind="exact", position_ids=None, sequence_ids=None):
    places = jnp.arange(length)[None] if position_ids is None else position_ids
    return dropout.make_draws(Dropout(key, ids, kind), len(ids), places, sequence_ids)


def _hidden(draws, rate=0.2, layer=1, site=dropout.ATTENTION_OUTPUT, width=WIDTH):
    """Which elements (B, T, D) are kept."""
    mask = dropout.hidden_mask(draws, rate, layer, site, width)
    x = jnp.ones((*mask.shape[:2], width))
    return np.asarray(dropout.drop(x, mask, rate, 2))


def _shares(draws, rate=0.2, layer=1, heads=HEADS):
    mask = dropout.probabilities_mask(draws, rate, layer, heads)
    x = jnp.ones((mask.shape[0], heads, *mask.shape[2:]))
    return np.asarray(dropout.drop(x, mask, rate, 1))


@pytest.mark.parametrize("kind", ["exact", "fast"])
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_share_dropped_and_scale(kind, rate):
    draws = _draws(jnp.arange(16, dtype=jnp.uint32), length=64, kind=kind)
    for kept in (_hidden(draws, rate, width=64), _shares(draws, rate, heads=4)):
        threshold = round(rate * 65536)
        assert set(np.unique(kept)) == {0, np.float32(65536 / (65536 - threshold))}
        expected, count = threshold / 65536, kept.size
        deviation = np.sqrt(expected * (1 - expected) / count)
        assert abs((kept == 0).mean() - expected) < 4.5 * deviation
        for axis in range(kept.ndim):  # no row, position, channel or head is favoured
            others = tuple(a for a in range(kept.ndim) if a != axis)
            bound = 5 * np.sqrt(expected * (1 - expected) * kept.shape[axis] / count)
            assert np.abs((kept == 0).mean(others) - expected).max() < bound


def test_neighbouring_draws_are_independent():
    kept = _hidden(_draws(jnp.arange(8, dtype=jnp.uint32), length=64), 0.5, width=64) > 0
    signs = 2.0 * kept - 1
    for shift, axis in ((1, 0), (1, 1), (1, 2), (16, 2), (2, 2)):
        agreement = (signs * np.roll(signs, shift, axis)).mean()
        assert abs(agreement) < 5 / np.sqrt(signs.size), (shift, axis)


def test_hidden_draws_are_the_documented_counter():
    """Channel c of position t: lane c // 6 of the block at counter (t, c mod 6), under the folded key."""
    kept = _hidden(_draws(jnp.array([9], jnp.uint32)), 0.2, layer=3, site=dropout.FEED_FORWARD_OUTPUT)[0]
    key = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(examples.KEY, 9), 3), dropout.FEED_FORWARD_OUTPUT)
    for position, channel in ((0, 0), (7, 23), (3, 11), (5, 6)):
        lane, block = divmod(channel, 6)
        words = compat.threefry_2x32(*compat.key_words(key), position, block)
        draw = int(words[lane // 2]) >> (16 * (lane % 2)) & 0xFFFF
        assert (kept[position, channel] > 0) == (draw >= round(0.2 * 65536))


def test_attention_draws_are_the_documented_counter():
    kept = _shares(_draws(jnp.array([9], jnp.uint32)), 0.5, layer=2)[0]
    key = jax.random.fold_in(jax.random.fold_in(examples.KEY, 9), 2)
    key = jax.random.fold_in(key, dropout.ATTENTION_PROBABILITIES)
    for head, query, key_position in ((0, 0, 0), (5, 7, 1), (3, 2, 6), (1, 1, 1)):
        lane, block = divmod(head, 2)
        words = compat.threefry_2x32(*compat.key_words(key), block << 24 | query, key_position)
        draw = int(words[lane // 2]) >> (16 * (lane % 2)) & 0xFFFF
        assert (kept[head, query, key_position] > 0) == (draw >= 32768)


def test_draws_follow_the_example_wherever_it_stands():
    whole = _draws(examples.IDS)
    turned = _draws(examples.IDS[::-1])
    alone = _draws(examples.IDS[1:2])
    for look in (_hidden, _shares):
        np.testing.assert_array_equal(look(turned), look(whole)[::-1])
        np.testing.assert_array_equal(look(alone)[0], look(whole)[1])


def test_draws_do_not_depend_on_padded_length():
    short, long = _draws(examples.IDS, 8), _draws(examples.IDS, 13)
    np.testing.assert_array_equal(_hidden(long)[:, :8], _hidden(short))
    np.testing.assert_array_equal(_shares(long)[:, :, :8, :8], _shares(short))


def test_packed_draws_are_the_examples_own():
    whole = _draws(examples.IDS)
    positions = jnp.array([[0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 0]])
    sequences = jnp.array([[1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 0]])
    row = _draws(examples.IDS[None], position_ids=positions, sequence_ids=sequences)
    np.testing.assert_array_equal(_hidden(row)[0, 3:8], _hidden(whole)[1, :5])
    np.testing.assert_array_equal(_hidden(row)[0, 8:10], _hidden(whole)[2, :2])
    np.testing.assert_array_equal(_shares(row)[0, :, 3:8, 3:8], _shares(whole)[1, :, :5, :5])


@pytest.mark.parametrize("kind", ["exact", "fast"])
def test_layer_site_key_and_example_all_matter(kind):
    ids = jnp.array([3, 4], jnp.uint32)
    draws, other = _draws(ids, kind=kind), _draws(ids, key=jax.random.key(12), kind=kind)
    seen = [
        _hidden(draws),
        _hidden(draws, layer=2),
        _hidden(draws, site=dropout.FEED_FORWARD_OUTPUT),
        _hidden(other),
        _hidden(draws)[::-1],
    ]
    for index, one in enumerate(seen):
        for two in seen[:index]:
            assert 0.2 < (one != two).mean() < 0.45  # 2 · 0.2 · 0.8 = 0.32 when independent


def test_several_layers_at_once_equal_one_by_one():
    draws = _draws(examples.IDS)
    together = dropout.layer_masks(draws, examples.CONFIG, jnp.arange(2, dtype=jnp.uint32))
    apart = dropout.layer_masks(draws, examples.CONFIG, 1)
    for ours, theirs in zip(together.of_layer(1), apart, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_gradient_is_dropped_and_scaled_alike():
    draws = _draws(examples.IDS)
    mask = dropout.hidden_mask(draws, 0.2, 0, dropout.EMBEDDINGS, WIDTH)
    x = jax.random.normal(jax.random.key(0), (3, 8, WIDTH))
    value, pullback = jax.vjp(lambda x: dropout.drop(x, mask, 0.2, 2), x)
    np.testing.assert_allclose(pullback(jnp.ones_like(x))[0] * x, value, rtol=1e-6)


def test_raw_and_typed_keys_are_the_same():
    raw = _draws(examples.IDS, key=jax.random.key_data(examples.KEY))
    np.testing.assert_array_equal(_hidden(raw), _hidden(_draws(examples.IDS)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Dropout(examples.KEY), r"needs example_ids of shape \(3,\); got none"),
        (Dropout(examples.KEY, examples.IDS[:2]), r"needs example_ids of shape \(3,\); got shape \(2,\)"),
        (Dropout(jax.random.key(0, impl="rbg"), examples.IDS), "give a threefry key"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(given, message):
    with pytest.raises(BertJaxError, match=message):
        dropout.make_draws(given, 3, jnp.arange(8)[None], None)
    with pytest.raises(BertJaxError, match="dropout is 'precise': expected 'exact' or 'fast'"):
        Dropout(examples.KEY, examples.IDS, "precise")


@pytest.mark.parametrize("kind", ["exact", "fast"])
def test_before_a_classifier_each_packed_example_draws_for_itself(kind):
    positions = jnp.array([[0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 0]])
    sequences = jnp.array([[1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 0]])
    row = _draws(examples.IDS[None], position_ids=positions, sequence_ids=sequences, kind=kind)
    ones = jnp.ones((3, WIDTH))
    packed = np.asarray(dropout.drop_before_classifier(ones[None], row, 0.3, tokens=False))
    alone = np.asarray(dropout.drop_before_classifier(ones, _draws(examples.IDS), 0.3, tokens=False))
    assert packed.shape == (1, 3, WIDTH)
    assert len({tuple(kept) for kept in (packed[0] > 0).tolist()}) == 3
    if kind == "exact":
        np.testing.assert_array_equal(packed[0], alone)
