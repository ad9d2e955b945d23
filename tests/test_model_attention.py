"""Attention engines agree with a plain formula, and refuse by name what they cannot honour."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import model_examples as examples
import numpy as np
import pytest

from bert_jax.errors import BertJaxError
from bert_jax.model import attention
from bert_jax.model.attention import Request, attend, attention_mask
from bert_jax.model.bert import apply, make_model

B, T, N, H = 3, 9, 2, 4


def _request(mask, dropped=None, dtype=jnp.float32):
    query, key, value = jax.random.normal(jax.random.key(1), (3, B, T, N, H), dtype) * 2
    return Request(query, key, value, mask, dropped, 0.1)


def _by_hand(request):
    """softmax(q·k/√H) over the places the mask allows, by loops in float64."""
    query, key, value = (np.asarray(array, np.float64) for array in request[:3])
    mask = np.broadcast_to(request.mask, (B, 1, T, T))[:, 0]
    out = np.zeros(query.shape)
    for b in range(B):
        for n in range(N):
            for t in range(T):
                allowed = np.flatnonzero(mask[b, t])
                scores = key[b, allowed, n] @ query[b, t, n] / np.sqrt(H)
                shares = np.exp(scores - scores.max())
                out[b, t, n] = shares / shares.sum() @ value[b, allowed, n]
    return out


SEQUENCES = jnp.array([[1, 1, 1, 2, 2, 3, 3, 0, 0], [1] * 9, [1, 2, 3, 4, 0, 0, 0, 0, 0]])


def test_who_may_look_at_whom():
    padded = attention_mask(jnp.array([[1, 1, 0]]), None)
    np.testing.assert_array_equal(padded, [[[[True, True, False]]]])
    packed = attention_mask(jnp.array([[1, 1, 1, 0]]), jnp.array([[1, 2, 2, 0]]))
    # Padding looks at padding alone: nothing reads it, and no row is empty.
    expected = [[1, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    np.testing.assert_array_equal(packed[0, 0], np.array(expected, bool))


@pytest.mark.parametrize("name", ["einsum", "matmul", "xla", "auto"])
@pytest.mark.parametrize("sequence_ids", [None, SEQUENCES], ids=["padding", "packed"])
def test_engines_compute_the_formula(name, sequence_ids):
    mask = attention_mask(examples.batch()["input_mask"], sequence_ids)
    request = _request(mask)
    context, shares = attend(name, request)
    np.testing.assert_allclose(context, _by_hand(request), atol=2e-6)
    assert shares is None


@pytest.mark.parametrize("name", ["auto", "matmul"])
def test_probabilities_are_before_dropout_and_0_where_masked(name):
    mask = attention_mask(examples.batch()["input_mask"], None)
    dropped = jnp.full((B, 1, T, T), 0b0101, jnp.uint8)
    context, shares = attend(name, _request(mask, dropped), probabilities=True)
    plain, _ = attend("einsum", _request(mask))
    np.testing.assert_allclose(shares.sum(-1), 1, atol=1e-6)
    assert (shares[1, :, :, 5:] == 0).all()
    np.testing.assert_allclose(context[:, :, 0], plain[:, :, 0] / 0.9, rtol=1e-4)  # head 0 is kept whole
    assert (context[:, :, 1] == 0).all()  # head 1 is dropped whole


def test_what_an_engine_cannot_honour_it_refuses_by_name():
    mask = attention_mask(examples.batch()["input_mask"], None)
    dropped = jnp.ones((B, 1, T, T), jnp.uint8)
    for name in ("xla", "cudnn"):
        with pytest.raises(BertJaxError, match=f"'{name}' cannot drop attention probabilities"):
            attend(name, _request(mask, dropped))
        with pytest.raises(BertJaxError, match=f"'{name}' does not hand out attention probabilities"):
            attend(name, _request(mask), probabilities=True)
    with pytest.raises(BertJaxError, match="'cudnn' needs an NVIDIA GPU, and this process runs on cpu"):
        attend("cudnn", _request(mask))
    with pytest.raises(BertJaxError, match="no attention engine 'splash': known are auto, einsum, matmul, xla, cudnn"):
        attend("splash", _request(mask))


def test_cudnn_asks_for_a_half_precision_dtype(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    mask = attention_mask(examples.batch()["input_mask"], None)
    with pytest.raises(BertJaxError, match="'cudnn' computes in bfloat16 or float16, and the compute dtype is float32"):
        attend("cudnn", _request(mask))


def test_a_training_model_with_attention_dropout_refuses_the_engine():
    model = make_model(examples.CONFIG, attention="xla")
    with pytest.raises(BertJaxError, match="attention_probs_dropout_prob"):
        jax.eval_shape(lambda: apply(model, examples.parameters(), examples.batch(), examples.dropout()))


def test_auto_takes_the_reference_where_dropout_asks_for_it():
    assert attention.choose("auto", True, False) == "einsum"
    assert attention.choose("auto", False, True) == "einsum"
    assert attention.choose("auto", False, False) in attention.ENGINES
