"""Attention engines agree with a plain formula, and refuse by name what they cannot honour."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import jax
import jax.numpy as jnp
import model_examples as examples
import numpy as np
import pytest
from jax.experimental import pallas

from bert_jax import compat
from bert_jax.config import Mesh, Train
from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import Finetune
from bert_jax.model import attention, attention_pallas
from bert_jax.model.attention import Request, attend, visible_from
from bert_jax.model.bert import apply, make_model
from bert_jax.train.sharding import make_layout, make_mesh

B, T, N, H = 3, 9, 2, 4


def _request(visible, dropped=None, dtype=jnp.float32, platform="cpu"):
    query, key, value = jax.random.normal(jax.random.key(1), (3, B, T, N, H), dtype) * 2
    return Request(query, key, value, visible, dropped, 0.1, platform)


def _by_hand(request):
    """softmax(q·k/√H) over the places the mask allows, by loops in float64."""
    query, key, value = (np.asarray(array, np.float64) for array in request[:3])
    mask = np.broadcast_to(request.visible.mask, (B, 1, T, T))[:, 0]
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
    padded = visible_from(jnp.array([[1, 1, 0]]), None)
    np.testing.assert_array_equal(padded.segments, [[1, 1, 0]])
    np.testing.assert_array_equal(padded.mask, [[[[True, True, False]]]])
    packed = visible_from(jnp.array([[1, 1, 1, 0]]), jnp.array([[1, 2, 2, 0]]))
    # Padding looks at padding alone: nothing reads it, and no row is empty.
    expected = [[1, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    np.testing.assert_array_equal(packed.segments, [[1, 2, 2, 0]])
    np.testing.assert_array_equal(packed.mask[0, 0], np.array(expected, bool))


@pytest.mark.parametrize("name", ["einsum", "matmul", "xla", "auto"])
@pytest.mark.parametrize("sequence_ids", [None, SEQUENCES], ids=["padding", "packed"])
def test_engines_compute_the_formula(name, sequence_ids):
    visible = visible_from(examples.batch()["input_mask"], sequence_ids)
    request = _request(visible)
    context, shares = attend(name, request)
    np.testing.assert_allclose(context, _by_hand(request), atol=2e-6)
    assert shares is None


@pytest.mark.parametrize("name", ["auto", "matmul"])
def test_probabilities_are_before_dropout_and_0_where_masked(name):
    visible = visible_from(examples.batch()["input_mask"], None)
    dropped = jnp.full((B, 1, T, T), 0b0101, jnp.uint8)
    context, shares = attend(name, _request(visible, dropped), probabilities=True)
    plain, _ = attend("einsum", _request(visible))
    np.testing.assert_allclose(shares.sum(-1), 1, atol=1e-6)
    assert (shares[1, :, :, 5:] == 0).all()
    np.testing.assert_allclose(context[:, :, 0], plain[:, :, 0] / 0.9, rtol=1e-4)  # head 0 is kept whole
    assert (context[:, :, 1] == 0).all()  # head 1 is dropped whole


@pytest.fixture
def interpreted(monkeypatch):
    """Pallas kernels run by jax's interpreter, as everywhere but on a TPU."""
    compiled = pallas.pallas_call
    monkeypatch.setattr(pallas, "pallas_call", lambda *a, **given: compiled(*a, **{**given, "interpret": True}))


ENGINES_OF = {"matmul": "cpu", "xla": "cpu", "flash": "tpu", "splash": "tpu"}


def _made(length, packed, dtype=jnp.float32):
    """Rows of real tokens and padding, of several sequences when packed, and what to weigh the result by."""
    random = np.random.default_rng(length)
    used = np.array([length, length - length // 3])
    real = np.arange(length) < used[:, None]
    sequences = np.where(real, 1 + np.arange(length) * 3 // length, 0) if packed else None
    visible = visible_from(jnp.asarray(real.astype(np.int32)), None if sequences is None else jnp.asarray(sequences))
    arrays = [jnp.asarray(random.normal(0, 1.5, (2, length, 2, 8)), dtype) for _ in range(4)]
    return Request(*arrays[:3], visible, None, 0.0, "tpu"), arrays[3] * real[:, :, None, None]


def _weighed(name, request, weights):
    """A sum over real positions alone, in float32."""
    context, _ = attend(name, request._replace(platform=ENGINES_OF.get(name, "cpu")))
    return jnp.sum(context.astype(jnp.float32) * weights)


@pytest.mark.parametrize("packed", [False, True], ids=["padding", "packed"])
@pytest.mark.parametrize(
    ("name", "length"), [("matmul", 9), ("xla", 9), ("flash", 130), ("splash", 9), ("splash", 260)]
)
def test_engines_equal_the_reference_at_real_positions_with_their_gradients(interpreted, name, length, packed):
    request, weights = _made(length, packed)
    real = (request.visible.segments > 0)[:, :, None, None]
    expected, found = (
        attend(engine, request._replace(platform=ENGINES_OF.get(engine, "cpu")))[0] for engine in ("einsum", name)
    )
    np.testing.assert_allclose(found * real, expected * real, atol=3e-6)

    def gradients(engine):
        def loss(*arrays):
            return _weighed(engine, Request(*arrays, *request[3:]), weights)

        return jax.jit(jax.grad(loss, (0, 1, 2)))(*request[:3])

    for one, other in zip(gradients(name), gradients("einsum"), strict=True):
        assert np.abs(other).max() > 0.1  # or there is nothing to compare
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["matmul", "xla", "flash", "splash"])
def test_engines_in_bfloat16_stay_within_its_rounding(interpreted, name):
    request, weights = _made(128 if name in ("flash", "splash") else 17, True, jnp.bfloat16)
    exact = request._replace(**{name: getattr(request, name).astype(jnp.float32) for name in ("query", "key", "value")})
    context, _ = attend(name, request._replace(platform=ENGINES_OF[name]))
    assert context.dtype == jnp.bfloat16
    real = (request.visible.segments > 0)[:, :, None, None]
    expected = attend("einsum", exact._replace(platform="cpu"))[0]
    np.testing.assert_allclose(context.astype(jnp.float32) * real, expected * real, atol=0.04)
    assert np.isfinite(_weighed(name, request, weights))


def test_blocks_divide_the_rows():
    assert [attention_pallas.block_of(length) for length in (128, 256, 384, 512, 640, 1024)] == [
        128, 256, 384, 512, 128, 512,
    ]  # fmt: skip


@pytest.mark.parametrize("sizes", [(4, 1, 2), (2, 2, 1)])
@pytest.mark.parametrize("rows", [4, 3])
def test_a_kernel_runs_on_each_device_with_its_own_rows_and_heads(interpreted, sizes, rows):
    mesh = make_mesh(Mesh(*sizes), jax.devices()[: int(np.prod(sizes))])
    request, _ = _made(20, True)
    request = Request(*(jnp.tile(array, (2, 1, 1, 1))[:rows] for array in request[:3]),
                      visible_from(jnp.ones((rows, 20), jnp.int32), jnp.tile(request.visible.segments, (2, 1))[:rows]),
                      None, 0.0, "tpu")  # fmt: skip
    expected = attend("einsum", request)[0]
    with compat.set_mesh(mesh):
        run = jax.jit(lambda *arrays: attend("splash", Request(*arrays, *request[3:]), layout=make_layout(mesh))[0])
        np.testing.assert_allclose(run(*request[:3]), expected, atol=3e-6)


def test_what_an_engine_cannot_honour_it_refuses_by_name():
    visible = visible_from(examples.batch()["input_mask"], None)
    dropped = jnp.ones((B, 1, T, T), jnp.uint8)
    for name in ("xla", "cudnn", "flash", "splash"):
        with pytest.raises(BertJaxError, match=f"'{name}' cannot drop attention probabilities"):
            attend(name, _request(visible, dropped))
        with pytest.raises(BertJaxError, match=f"'{name}' does not hand out attention probabilities"):
            attend(name, _request(visible), probabilities=True)
    with pytest.raises(BertJaxError, match="'cudnn' needs an NVIDIA GPU, and this program is for cpu: choose 'auto'"):
        attend("cudnn", _request(visible))
    for name in ("flash", "splash"):
        with pytest.raises(BertJaxError, match=f"'{name}' needs a TPU, and this program is for cpu: choose 'auto'"):
            attend(name, _request(visible))
    known = "auto, einsum, matmul, xla, cudnn, flash, splash"
    with pytest.raises(BertJaxError, match=f"no attention engine 'ring': known are {known}"):
        attend("ring", _request(visible))


def test_a_tpu_kernel_refuses_heads_that_are_no_whole_vectors():
    request, _ = _made(20, False)
    wide = request._replace(**{name: jnp.zeros((2, 20, 1, 192)) for name in ("query", "key", "value")})
    with pytest.raises(BertJaxError, match="'splash' cannot do heads of 192: at most 128, or a multiple of it"):
        attend("splash", wide)


def test_cudnn_asks_for_a_half_precision_dtype():
    visible = visible_from(examples.batch()["input_mask"], None)
    with pytest.raises(BertJaxError, match="'cudnn' computes in bfloat16 or float16, and the compute dtype is float32"):
        attend("cudnn", _request(visible, platform="gpu"))


def test_a_training_model_with_attention_dropout_refuses_the_engine():
    model = make_model(examples.CONFIG, attention="xla")
    with pytest.raises(BertJaxError, match="attention_probs_dropout_prob"):
        jax.eval_shape(lambda: apply(model, examples.parameters(), examples.batch(), examples.dropout()))


def test_auto_takes_the_reference_where_it_is_asked_for_more_than_the_product():
    def chosen(platform, length, dropped=False, probabilities=False):
        return attention.choose("auto", platform, length, 64, dropped, probabilities)

    assert chosen("tpu", 512).engine == "splash"
    assert "512 tokens" in chosen("tpu", 512).reason
    assert chosen("tpu", 128).engine == "einsum"  # 4 vectors of 64 weigh more than 128 scores
    assert chosen("tpu", 512, probabilities=True).engine == "einsum"
    assert chosen("tpu", 512, dropped=True).engine == "einsum"
    assert "attention dropout is on" in chosen("tpu", 512, dropped=True).reason
    assert {chosen(platform, 512).engine for platform in ("cpu", "gpu")} == {"einsum"}
    assert attention.choose("xla", "tpu", 512, 64, True) == ("xla", "as configured")


def test_the_settings_know_all_engines():
    for settings in (Train, Finetune):
        assert get_args(get_type_hints(settings)["attention"]) == ("auto", *attention.ENGINES)


@pytest.mark.ci  # three programs compiled for a TPU
def test_on_a_tpu_kernels_keep_the_scores_out_of_memory():
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed (extra plan): nothing can be compiled for a TPU")
    script = Path(__file__).with_name("tpu_attention.py")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    environment.pop("XLA_FLAGS", None)
    command = [sys.executable, str(script), "512"]
    found = json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout)["512"]
    scores = 4096 * 512 * 16 * 2  # of all heads, in bfloat16
    assert found["einsum"]["temporaries"] > scores
    assert found["splash"]["temporaries"] < scores / 8
    assert found["splash"]["accessed"] < 0.4 * found["einsum"]["accessed"]
    assert found["flash"]["accessed"] < 0.5 * found["einsum"]["accessed"]
    assert found["einsum"]["over_pairs"] > 0  # so the count sees them
    assert (found["flash"]["over_pairs"], found["splash"]["over_pairs"]) == (0, 0)
