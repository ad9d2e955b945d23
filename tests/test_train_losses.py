"""Losses against numpy, and sums that add up."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bert_jax.train.losses import (
    classification_sums,
    masked_lm_loss,
    negative_log_likelihood,
    next_sentence_loss,
    pretraining_sums,
)

B, M, V = 3, 4, 11


def make_batch(seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    outputs = {
        "masked_lm_logits": rng.normal(size=(B, M, V)).astype(np.float32),
        "next_sentence_logits": rng.normal(size=(B, 2)).astype(np.float32),
    }
    batch = {
        "masked_lm_ids": rng.integers(0, V, (B, M)),
        "masked_lm_weights": np.array([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]], np.float32),
        "next_sentence_labels": np.array([0, 1, 1]),
    }
    return outputs, batch


def nll(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    shares = np.exp(logits.astype(np.float64))
    shares /= shares.sum(-1, keepdims=True)
    return -np.log(np.take_along_axis(shares, labels[..., None], -1)[..., 0])


def test_sums_against_numpy() -> None:
    outputs, batch = make_batch()
    sums = pretraining_sums(outputs, batch, next_sentence=True)
    weights = batch["masked_lm_weights"]
    losses = nll(outputs["masked_lm_logits"], batch["masked_lm_ids"])
    np.testing.assert_allclose(sums.mlm_loss, (weights * losses).sum(), rtol=1e-6)
    right = outputs["masked_lm_logits"].argmax(-1) == batch["masked_lm_ids"]
    np.testing.assert_allclose(sums.mlm_correct, (weights * right).sum())
    np.testing.assert_allclose(sums.mlm_count, 8)
    pairs = nll(outputs["next_sentence_logits"], batch["next_sentence_labels"])
    np.testing.assert_allclose(sums.nsp_loss, pairs.sum(), rtol=1e-6)
    right = outputs["next_sentence_logits"].argmax(-1) == batch["next_sentence_labels"]
    np.testing.assert_allclose(sums.nsp_correct, right.sum())
    np.testing.assert_allclose(sums.nsp_count, 3)
    expected = (weights * losses).sum() / (8 + 1e-5)
    np.testing.assert_allclose(masked_lm_loss(sums.mlm_loss, sums.mlm_count), expected, rtol=1e-6)
    np.testing.assert_allclose(next_sentence_loss(sums.nsp_loss, sums.nsp_count), pairs.mean(), rtol=1e-6)


def test_accuracy_counts_the_largest_logit_alone() -> None:
    logits = jnp.array([[3.0, 1.0, 2.0], [1.0, 3.0, 3.0], [0.0, 0.0, 0.0]])
    labels = jnp.array([0, 1, 0])
    assert float(classification_sums(logits, labels, jnp.ones(3))[1]) == 1


def test_without_next_sentence_its_logits_are_not_read() -> None:
    outputs, batch = make_batch()
    del outputs["next_sentence_logits"]
    sums = pretraining_sums(outputs, batch, next_sentence=False)
    assert [float(value) for value in sums[3:]] == [0, 0, 0]
    assert float(next_sentence_loss(sums.nsp_loss, sums.nsp_count)) == 0


def test_a_row_of_weight_zero_counts_for_nothing_whatever_it_holds() -> None:
    outputs, batch = make_batch()
    before = pretraining_sums(outputs, batch, True)
    outputs["masked_lm_logits"][0, 3] = np.inf
    after = pretraining_sums(outputs, batch, True)
    np.testing.assert_array_equal(np.stack(before), np.stack(after))

    def loss(logits: jax.Array) -> jax.Array:
        return pretraining_sums(outputs | {"masked_lm_logits": logits}, batch, True).mlm_loss

    gradient = jax.grad(loss)(jnp.asarray(outputs["masked_lm_logits"]))
    assert (gradient[0, 3] == 0).all()
    assert (gradient[0, 2] != 0).all()


def test_gradient_against_the_derived_one() -> None:
    """The written-out gradient of the likelihood is what automatic differentiation makes of the formula."""
    outputs, batch = make_batch()
    logits, labels = jnp.asarray(outputs["masked_lm_logits"]), jnp.asarray(batch["masked_lm_ids"])
    scales = jnp.linspace(-1.0, 2.0, B * M).reshape(B, M)

    def written(logits: jax.Array) -> jax.Array:
        return jnp.sum(scales * negative_log_likelihood(logits, labels))

    def derived(logits: jax.Array) -> jax.Array:
        return jnp.sum(scales * optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    np.testing.assert_allclose(written(logits), derived(logits), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(written)(logits), jax.grad(derived)(logits), rtol=1e-5, atol=1e-7)


def test_nothing_to_predict_gives_zero_not_nan() -> None:
    assert float(masked_lm_loss(jnp.float32(0), jnp.float32(0))) == 0


def test_bfloat16_logits_are_summed_in_float32() -> None:
    outputs, batch = make_batch()
    exact = pretraining_sums(outputs, batch, True)
    outputs["masked_lm_logits"] = jnp.asarray(outputs["masked_lm_logits"], jnp.bfloat16)
    rounded = pretraining_sums(outputs, batch, True)
    assert rounded.mlm_loss.dtype == jnp.float32
    np.testing.assert_allclose(rounded.mlm_loss, exact.mlm_loss, rtol=2e-2)


def test_packed_pairs_have_weights() -> None:
    outputs, batch = make_batch()
    outputs["next_sentence_logits"] = np.stack([outputs["next_sentence_logits"]] * 2, axis=1)
    batch["next_sentence_labels"] = np.stack([batch["next_sentence_labels"]] * 2, axis=1)
    batch["next_sentence_weights"] = np.array([[1, 0], [1, 1], [1, 0]], np.float32)
    sums = pretraining_sums(outputs, batch, True)
    losses = nll(outputs["next_sentence_logits"], batch["next_sentence_labels"])
    np.testing.assert_allclose(sums.nsp_loss, (losses * batch["next_sentence_weights"]).sum(), rtol=1e-6)
    assert float(sums.nsp_count) == 4
