"""The update rules: BERT's Adam, AdamW and LAMB, on one state of two moments.

No rule keeps a count of its own. Bias correction is given the count, which follows from the global step: so a skipped
update leaves the whole state as it was, and a phase that restarts the count keeps its moments.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax

from bert_jax.config import Optimizer
from bert_jax.errors import BertJaxError

Tree = Any
Value = TypeVar("Value")

DECAY: tuple[tuple[str, bool], ...] = (
    (r"(.*/)?kernel", True),
    (r"embeddings/\w+_embeddings", True),
    (r"(.*/)?scale", False),
    (r"(.*/)?bias", False),
)
"""Which parameters decay: (pattern of the whole path, does it). Off LayerNorm and biases, as published.

LAMB's trust ratio follows the same table: 1 where nothing decays.
"""


class Moments(NamedTuple):
    """Decaying means of the gradient and of its square; each has the tree of the parameters."""

    mu: Tree
    nu: Tree


class UpdateRule(NamedTuple):
    """`init(params) -> Moments`; `update(grads, moments, params, learning_rate, count) -> (updates, moments)`.

    `updates` are added to the parameters. `count` is 1 at the first update of a stretch (see `schedule`).
    """

    init: Callable[[Tree], Moments]
    update: Callable[[Tree, Moments, Tree, jax.Array, jax.Array], tuple[Tree, Moments]]


def lookup(table: Sequence[tuple[str, Value]], path: str, what: str) -> Value:
    """The value of the one pattern that matches the whole of `path`.

    Errors: `BertJaxError` when no pattern does, or more than one.
    """
    found = [(pattern, value) for pattern, value in table if re.fullmatch(pattern, path)]
    if len(found) == 1:
        return found[0][1]
    if not found:
        raise BertJaxError(f"parameter {path!r} matches no pattern of the {what} table: add a row for it")
    patterns = " and ".join(repr(pattern) for pattern, _ in found)
    raise BertJaxError(f"parameter {path!r} matches {patterns} of the {what} table: make the patterns exclusive")


def path_name(path: Sequence[Any]) -> str:
    """A tree path as `encoder/layer_0/attention/query/kernel`."""
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def decay_mask(params: Tree) -> Tree:
    """True at each parameter that decays. Errors: `BertJaxError` for a path that `DECAY` does not cover."""
    return jax.tree_util.tree_map_with_path(lambda path, _: lookup(DECAY, path_name(path), "weight decay"), params)


def init_moments(params: Tree) -> Moments:
    """Zeros, float32."""

    def zeros() -> Tree:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), params)

    return Moments(zeros(), zeros())


def make_update_rule(optimizer: Optimizer) -> UpdateRule:
    """The update rule of a configuration; clipping and the choice to skip belong to the step."""
    direction = {"bert_adam": _bert_adam, "adamw": _adam, "lamb": _lamb}[optimizer.name](optimizer)

    def update(
        grads: Tree, moments: Moments, params: Tree, learning_rate: jax.Array, count: jax.Array
    ) -> tuple[Tree, Moments]:
        directions, moments = direction(grads, moments, params, count)
        return jax.tree.map(lambda leaf: -learning_rate * leaf, directions), moments

    return UpdateRule(init_moments, update)


_Direction = Callable[[Tree, Moments, Tree, jax.Array], tuple[Tree, Moments]]


def _bert_adam(optimizer: Optimizer) -> _Direction:
    """google-research/bert `optimization.py`: m / (√v + ε) + decay · parameter, with no bias correction."""
    b1, b2 = optimizer.b1, optimizer.b2

    def direction(grads: Tree, moments: Moments, params: Tree, count: jax.Array) -> tuple[Tree, Moments]:
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, moments.mu, grads)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * jnp.square(g), moments.nu, grads)
        directions = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + optimizer.eps), mu, nu)
        return _add_decay(optimizer, directions, params), Moments(mu, nu)

    return direction


def _adam(optimizer: Optimizer) -> _Direction:
    """`optax.adamw`: bias-corrected Adam and decoupled decay."""
    rule = optax.scale_by_adam(optimizer.b1, optimizer.b2, optimizer.eps)

    def direction(grads: Tree, moments: Moments, params: Tree, count: jax.Array) -> tuple[Tree, Moments]:
        # optax counts finished updates in its state; ours is the count of the update being made.
        directions, state = rule.update(grads, optax.ScaleByAdamState(count - 1, moments.mu, moments.nu), params)
        return _add_decay(optimizer, directions, params), Moments(state.mu, state.nu)

    return direction


def _lamb(optimizer: Optimizer) -> _Direction:
    """`optax.lamb` (arXiv:1904.00962, algorithm 2) with a trust ratio of 1 for LayerNorm and biases."""
    adam = _adam(optimizer)
    trust_ratio = optax.masked(optax.scale_by_trust_ratio(), decay_mask)

    def direction(grads: Tree, moments: Moments, params: Tree, count: jax.Array) -> tuple[Tree, Moments]:
        directions, moments = adam(grads, moments, params, count)
        scaled, _ = trust_ratio.update(directions, trust_ratio.init(params), params)
        return scaled, moments

    return direction


def _add_decay(optimizer: Optimizer, directions: Tree, params: Tree) -> Tree:
    rate = optimizer.weight_decay
    return jax.tree.map(
        lambda direction, param, decays: direction + rate * param if decays else direction,
        directions,
        params,
        decay_mask(params),
    )


def global_norm(tree: Tree) -> jax.Array:
    """The L2 norm of all leaves together, float32."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree)))


def clip(grads: Tree, norm: jax.Array, limit: float | None) -> Tree:
    """Scale all gradients down together when `norm`, their global norm, is above `limit`.

    What `optax.clip_by_global_norm` does, with the norm that the step has already computed.
    """
    if limit is None:
        return grads
    scale = jnp.where(norm > limit, limit / norm, 1.0)
    return jax.tree.map(lambda leaf: leaf * scale, grads)
