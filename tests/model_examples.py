"""A tiny model and batch that the tests of the model room share."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.bert_config import BertConfig
from bert_jax.model.bert import abstract_parameters, apply, make_model
from bert_jax.model.dropout import Dropout

CONFIG = BertConfig(
    vocab_size=61,
    hidden_size=24,  # six blocks of four lanes
    num_hidden_layers=2,
    num_attention_heads=6,  # not a multiple of four lanes
    intermediate_size=32,
    max_position_embeddings=32,
    hidden_dropout_prob=0.2,
    attention_probs_dropout_prob=0.3,
)
LENGTHS = (9, 5, 7)
KEY = jax.random.key(11)
IDS = jnp.array([70_001, 5, 4_000_000_000], jnp.uint32)


def shapes(config: BertConfig = CONFIG) -> dict[str, Any]:
    """Abstract parameters."""
    return abstract_parameters(make_model(config))


@functools.cache
def parameters(config: BertConfig = CONFIG) -> dict[str, Any]:
    """Parameters large enough that every mistake shows: as published ones are drawn, layers change little."""
    random = np.random.default_rng(0)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        centre = 1.0 if path[-1].key == "scale" else 0.0
        spread = 0.25 if path[-1].key == "kernel" else 0.15
        return jnp.asarray(random.normal(centre, spread, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes(config))


run = jax.jit(apply, static_argnums=0, static_argnames=("hidden_states", "attentions"))


def batch(length: int = 9, lengths: tuple[int, ...] = LENGTHS) -> dict[str, jax.Array]:
    """Three examples of the given lengths, padded to `length`, three predictions each (the last unused in row 1)."""
    random = np.random.default_rng(1)
    rows, masks, segments, positions = [], [], [], []
    for count in lengths:
        tokens, fill = random.integers(5, 61, count), length - count
        rows.append(np.pad(tokens, (0, fill)))
        masks.append(np.pad(np.ones(count, int), (0, fill)))
        segments.append(np.pad((np.arange(count) > count // 2).astype(int), (0, fill)))
        positions.append(np.sort(random.choice(np.arange(1, count), 3, replace=False)))
    stacked = {"input_ids": rows, "input_mask": masks, "segment_ids": segments, "masked_lm_positions": positions}
    return {name: jnp.asarray(np.stack(value), jnp.int32) for name, value in stacked.items()}


def labels() -> tuple[jax.Array, jax.Array]:
    """Masked ids (3, 3) and next sentence labels (3,)."""
    random = np.random.default_rng(2)
    return jnp.asarray(random.integers(5, 61, (3, 3))), jnp.asarray([0, 1, 1])


def packed(plain: dict[str, jax.Array], extra: int = 2) -> dict[str, jax.Array]:
    """The examples of `plain` one after the other in a single row, `extra` padding places behind them."""
    real = np.asarray(plain["input_mask"], bool)
    counts = real.sum(1)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])

    def join(rows: Any) -> jax.Array:
        return jnp.asarray(np.pad(np.asarray(rows)[real], (0, extra))[None], jnp.int32)

    places = np.broadcast_to(np.arange(real.shape[1]), real.shape)
    sequence = np.broadcast_to(np.arange(1, len(counts) + 1)[:, None], real.shape)
    return {
        **{name: join(plain[name]) for name in ("input_ids", "input_mask", "segment_ids")},
        "position_ids": join(places),
        "sequence_ids": join(sequence),
        "cls_positions": jnp.asarray(starts[None], jnp.int32),
        "masked_lm_positions": jnp.asarray((np.asarray(plain["masked_lm_positions"]) + starts[:, None]).reshape(1, -1)),
    }


def dropout(kind: str = "exact", ids: jax.Array = IDS) -> Dropout:
    """Dropout for the three examples."""
    return Dropout(KEY, ids, kind)  # type: ignore[arg-type]


def loss(model: Any, params: Any, inputs: Any, drop: Dropout | None = None) -> jax.Array:
    """Masked LM and next sentence loss, each a mean; for packed rows too."""
    outputs = apply(model, params, inputs, drop)
    ids, follows = labels()
    masked = jax.nn.log_softmax(outputs["masked_lm_logits"].reshape(9, -1))
    pairs = jax.nn.log_softmax(outputs["next_sentence_logits"].reshape(3, 2))
    masked_loss = -jnp.mean(masked[jnp.arange(9), ids.reshape(-1)])
    return masked_loss - jnp.mean(pairs[jnp.arange(3), follows])


def loss_and_gradients(model: Any, params: Any, inputs: Any, drop: Dropout | None = None) -> tuple[jax.Array, Any]:
    """Compiled `loss` and its gradients."""
    return jax.jit(jax.value_and_grad(loss, argnums=1), static_argnums=0)(model, params, inputs, drop)


def assert_trees_close(ours: Any, theirs: Any, tolerance: float = 1e-5) -> None:
    """Every leaf within `tolerance` of the largest entry of its counterpart; failures name the leaf."""
    flat, _ = jax.tree_util.tree_flatten_with_path(theirs)
    for (path, expected), got in zip(flat, jax.tree.leaves(ours), strict=True):
        scale = max(float(jnp.max(jnp.abs(expected))), 2e-2)  # the gradient of a key bias is 0 but for rounding
        np.testing.assert_allclose(
            got,
            expected,
            rtol=0,
            atol=tolerance * scale,
            err_msg=jax.tree_util.keystr(path, simple=True, separator="/"),
        )
