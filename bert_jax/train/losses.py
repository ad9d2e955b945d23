"""Losses of pre-training, as sums: a batch is split over microbatches and devices, and only sums add up exactly.

Letters: B batch, M predictions per sequence, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

MASKED_LM_EPSILON = 1e-5
"""Added to the number of predictions (google-research/bert `run_pretraining.py`): no division by zero without any."""


class Sums(NamedTuple):
    """What a stretch of rows adds to the losses and accuracies; float32 scalars."""

    mlm_loss: jax.Array
    mlm_correct: jax.Array
    mlm_count: jax.Array
    nsp_loss: jax.Array
    nsp_correct: jax.Array
    nsp_count: jax.Array


@jax.custom_vjp
def negative_log_likelihood(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """−log softmax(logits) at the labels: logits (…, C) float32, labels (…) integers → (…) float32.

    The gradient, softmax − one-hot, is written out: derived from a look-up of the label's logit it is scattered into
    zeros of the logits' size and added, three more passes over the largest array of the step.
    """
    return _likelihood_forward(logits, labels)[0]


def _likelihood_forward(
    logits: jax.Array, labels: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    normaliser = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    own = jnp.take_along_axis(logits, labels[..., None], axis=-1)
    return jnp.squeeze(normaliser - own, -1), (logits, labels, normaliser)


def _likelihood_backward(
    kept: tuple[jax.Array, jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, np.ndarray]:
    logits, labels, normaliser = kept
    own = jax.lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1) == labels[..., None]
    dlogits = (jnp.exp(logits - normaliser) - own) * gradient[..., None]
    # What weighs nothing may hold anything, and passes nothing back.
    dlogits = jnp.where(gradient[..., None] != 0, dlogits, 0.0)
    return dlogits, np.zeros(labels.shape, jax.dtypes.float0)


negative_log_likelihood.defvjp(_likelihood_forward, _likelihood_backward)


def classification_sums(
    logits: jax.Array, labels: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Weighted sums of negative log-likelihood, of right answers, and of the weights themselves.

    `logits` (…, C), `labels` (…) integers, `weights` (…). Computed in float32. An answer is right when its logit is
    larger than every other one (a tie is wrong: only then does it need no second look at all C logits).
    """
    logits = logits.astype(jnp.float32)
    weights = weights.astype(jnp.float32)
    losses = negative_log_likelihood(logits, labels)
    own = jnp.take_along_axis(logits, labels[..., None], axis=-1)
    right = jnp.sum(logits >= own, axis=-1) == 1
    # A row of weight 0 may hold anything, even a loss that is not finite.
    losses = jnp.where(weights > 0, losses, 0.0)
    return jnp.sum(weights * losses), jnp.sum(weights * right), jnp.sum(weights)


def pretraining_sums(outputs: Mapping[str, jax.Array], batch: Mapping[str, jax.Array], next_sentence: bool) -> Sums:
    """`Sums` of one masked batch.

    `outputs` as the model gives them: `masked_lm_logits` (B, M, V) and, with `next_sentence`,
    `next_sentence_logits` (B, 2) ((B, P, 2) when packed). `batch` in the masked schema; `next_sentence_weights`
    (B,) or (B, P) are used where present. Sentence order prediction is the same head on other labels.
    """
    masked_lm = classification_sums(
        outputs["masked_lm_logits"], batch["masked_lm_ids"], jax.lax.stop_gradient(batch["masked_lm_weights"])
    )
    if not next_sentence:
        zero = jnp.zeros((), jnp.float32)
        return Sums(*masked_lm, zero, zero, zero)
    logits = outputs["next_sentence_logits"]
    labels = batch["next_sentence_labels"].reshape(logits.shape[:-1])
    weights = batch.get("next_sentence_weights", jnp.ones(labels.shape, jnp.float32))
    return Sums(*masked_lm, *classification_sums(logits, labels, weights))


def masked_lm_loss(loss_sum: jax.Array, count: jax.Array) -> jax.Array:
    """Σ w·nll / (Σ w + 1e-5), as published."""
    return loss_sum / (count + MASKED_LM_EPSILON)


def next_sentence_loss(loss_sum: jax.Array, count: jax.Array) -> jax.Array:
    """Mean over the pairs; 0 when there are none."""
    return loss_sum / jnp.maximum(count, 1.0)
