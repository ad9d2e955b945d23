"""Update rules against numpy (google's formula) and against optax; which parameters decay."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bert_jax.bert_config import BertConfig
from bert_jax.config import Optimizer
from bert_jax.errors import BertJaxError
from bert_jax.model.bert import abstract_parameters, make_model
from bert_jax.train.optimizer import (
    Moments,
    clip,
    decay_mask,
    global_norm,
    init_moments,
    lookup,
    make_update_rule,
    path_name,
)

GOLDEN = Path(__file__).parent / "golden" / "decay_mask.txt"


def make_params(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return {
        "embeddings": {"word_embeddings": draw(7, 4), "layer_norm": {"scale": draw(4), "bias": draw(4)}},
        "encoder": {
            "layer_0": {"feed_forward": {"output": {"kernel": draw(4, 4), "bias": draw(4)}}},
            "layer_1": {"feed_forward": {"output": {"kernel": 9 * draw(4, 4), "bias": draw(4)}}},
        },
    }


def run(optimizer: Optimizer, steps: int = 5, rate: float = 0.1, restart: int | None = None) -> Any:
    rule = make_update_rule(optimizer)
    params = make_params()
    moments = rule.init(params)
    update = jax.jit(rule.update)
    for step in range(steps):
        count = step + 1 if restart is None or step < restart else step - restart + 1
        updates, moments = update(make_params(step + 1), moments, params, jnp.float32(rate), jnp.int32(count))
        params = optax.apply_updates(params, updates)
    return params


def run_optax(transformation: optax.GradientTransformation, steps: int = 5) -> Any:
    params = make_params()
    state = transformation.init(params)
    for step in range(steps):
        updates, state = transformation.update(make_params(step + 1), state, params)
        params = optax.apply_updates(params, updates)
    return params


def assert_trees_close(found: Any, expected: Any, rtol: float = 1e-5) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6), found, expected)


def test_bert_adam_is_google_s_formula() -> None:
    """optimization.py: update = next_m / (sqrt(next_v) + ε) + decay · param; param −= rate · update."""
    decays = {"word_embeddings", "kernel"}
    params = {path_name(path): np.asarray(leaf, np.float64) for path, leaf in leaves(make_params())}
    m = {path: np.zeros_like(leaf) for path, leaf in params.items()}
    v = {path: np.zeros_like(leaf) for path, leaf in params.items()}
    for step in range(5):
        for path_keys, leaf in leaves(make_params(step + 1)):
            path, grad = path_name(path_keys), np.asarray(leaf, np.float64)
            m[path] = 0.9 * m[path] + 0.1 * grad
            v[path] = 0.999 * v[path] + 0.001 * grad * grad
            update = m[path] / (np.sqrt(v[path]) + 1e-6)
            if path.rsplit("/", 1)[-1] in decays:
                update += 0.01 * params[path]
            params[path] = params[path] - 0.1 * update
    found = {path_name(path): leaf for path, leaf in leaves(run(Optimizer("bert_adam")))}
    for path, leaf in found.items():
        np.testing.assert_allclose(leaf, params[path], rtol=2e-5, atol=1e-6, err_msg=path)


def leaves(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_leaves_with_path(tree)


def test_adamw_is_optax_adamw() -> None:
    found = run(Optimizer("adamw", b2=0.98, weight_decay=0.1))
    assert_trees_close(found, run_optax(optax.adamw(0.1, 0.9, 0.98, 1e-6, weight_decay=0.1, mask=decay_mask)))


def test_lamb_is_optax_lamb_where_everything_decays() -> None:
    """optax scales every parameter; ours leaves LayerNorm and biases at 1: AdamW without decay."""
    found = run(Optimizer("lamb"))
    scaled = run_optax(optax.lamb(0.1, 0.9, 0.999, 1e-6, weight_decay=0.01, mask=decay_mask))
    plain = run_optax(optax.adamw(0.1, 0.9, 0.999, 1e-6, weight_decay=0.0))
    expected = jax.tree.map(lambda a, b, decays: a if decays else b, scaled, plain, decay_mask(make_params()))
    assert_trees_close(found, expected)


def test_lamb_s_trust_ratio_is_each_layer_s_own() -> None:
    """Each kernel moves by rate · its own norm; stacked into one parameter, the small one would move further."""
    before, after = make_params()["encoder"], run(Optimizer("lamb"), steps=1)["encoder"]
    for name in ("layer_0", "layer_1"):
        old, new = (tree[name]["feed_forward"]["output"]["kernel"] for tree in (before, after))
        np.testing.assert_allclose(jnp.linalg.norm(new - old), 0.1 * jnp.linalg.norm(old), rtol=1e-5)


def test_bert_adam_is_not_corrected_and_lamb_and_adamw_are() -> None:
    rule = make_update_rule(Optimizer("bert_adam", weight_decay=0.0))
    one = {"encoder": {"bias": jnp.ones(3)}}
    updates, _ = rule.update(one, init_moments(one), one, jnp.float32(1.0), jnp.int32(1))
    np.testing.assert_allclose(updates["encoder"]["bias"], -0.1 / np.sqrt(0.001), rtol=1e-4)
    rule = make_update_rule(Optimizer("adamw", weight_decay=0.0))
    updates, _ = rule.update(one, init_moments(one), one, jnp.float32(1.0), jnp.int32(1))
    np.testing.assert_allclose(updates["encoder"]["bias"], -1.0, rtol=1e-4)


def test_a_restart_keeps_the_moments_and_restarts_the_count() -> None:
    optimizer = Optimizer("adamw", weight_decay=0.0)
    rule = make_update_rule(optimizer)
    params = {"encoder": {"bias": jnp.ones(3)}}
    moments = Moments({"encoder": {"bias": jnp.full(3, 0.5)}}, {"encoder": {"bias": jnp.full(3, 0.25)}})
    first, _ = rule.update(params, moments, params, jnp.float32(1.0), jnp.int32(1))
    m, v = (0.9 * 0.5 + 0.1) / 0.1, (0.999 * 0.25 + 0.001) / 0.001
    np.testing.assert_allclose(first["encoder"]["bias"], -m / (np.sqrt(v) + 1e-6), rtol=1e-4)


def test_clip_is_by_the_global_norm() -> None:
    grads = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    norm = global_norm(grads)
    assert float(norm) == 5
    for limit in (1.0, 5.0, 6.0):
        expected, _ = optax.clip_by_global_norm(limit).update(grads, optax.EmptyState())
        assert_trees_close(clip(grads, norm, limit), expected)
    np.testing.assert_allclose(clip(grads, norm, 1.0)["b"], 0.8, rtol=1e-6)
    np.testing.assert_array_equal(clip(grads, norm, None)["b"], 4.0)


def test_decay_mask_golden() -> None:
    """Refresh with BERT_JAX_REFRESH=1 after looking at the difference."""
    params = abstract_parameters(make_model(BertConfig.preset("tiny")))
    mask = jax.tree_util.tree_leaves_with_path(decay_mask(params))
    text = "".join(f"{path_name(path)} {'decays' if decays else 'stays'}\n" for path, decays in mask)
    if os.environ.get("BERT_JAX_REFRESH"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text(), (
        "the weight decay of some parameter changed: published BERT decays all but LayerNorm and biases. "
        "If that is intended, refresh with BERT_JAX_REFRESH=1"
    )


def test_a_path_without_a_pattern_and_a_collision_are_errors() -> None:
    with pytest.raises(BertJaxError, match=r"'encoder/gate' matches no pattern of the weight decay table"):
        decay_mask({"encoder": {"gate": jnp.ones(2)}})
    with pytest.raises(BertJaxError, match=r"'a/kernel' matches '.\*kernel' and 'a/.\*' of the test table"):
        lookup(((".*kernel", 1), ("a/.*", 2)), "a/kernel", "test")
