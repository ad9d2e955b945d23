"""One token's walk through one attention head, number by number: q, k, q·k, ÷√H, softmax, weights × v, output."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Walk(NamedTuple):
    """What happens to token t (of T) in one head of width H; all arrays float32."""

    query: np.ndarray
    """(H,) of the token."""
    keys: np.ndarray
    """(T, H) of every token."""
    products: np.ndarray
    """(T,) query · key."""
    scores: np.ndarray
    """(T,) products ÷ √H."""
    weights: np.ndarray
    """(T,) softmax of the scores."""
    weighted: np.ndarray
    """(T, H) each token's value times its weight."""
    context: np.ndarray
    """(H,) their sum."""
    output: np.ndarray
    """(D,) context times the head's rows of the output kernel: what this head adds to the token, before the bias."""


class Vectors(NamedTuple):
    """What the attention of one input was computed from; first axes: the layers and heads of its `Attention`."""

    query: np.ndarray
    """(L, N, T, H), as `key` and `value`."""
    key: np.ndarray
    value: np.ndarray
    hidden: np.ndarray
    """(L, T, D): what each layer was given."""
    output_kernels: tuple[np.ndarray, ...]
    """L arrays (N, H, D): the model's own, no copies."""

    def walk(self, layer: int, head: int, token: int) -> Walk:
        """The walk of `token` through the head at these places of the first two axes."""
        query, keys, values = self.query[layer, head, token], self.key[layer, head], self.value[layer, head]
        products = keys @ query
        scores = products / np.float32(math.sqrt(query.shape[-1]))
        shares = np.exp(scores - scores.max())
        weights = shares / shares.sum()
        weighted = weights[:, None] * values
        context = weighted.sum(axis=0)
        output = context @ self.output_kernels[layer][head]
        return Walk(query, keys, products, scores, weights, weighted, context, output)

    def output_lengths(self, weights: np.ndarray) -> np.ndarray:
        """(L, N, T): the length of what each head adds to each token, given the weights (L, N, T, T)."""
        context = weights @ self.value
        return np.stack(
            [
                np.linalg.norm(np.einsum("NTH,NHD->NTD", context[layer], kernel), axis=-1)
                for layer, kernel in enumerate(self.output_kernels)
            ]
        )


def project(params: Mapping[str, Any], hidden_states: Sequence[jax.Array], dtype: Any) -> dict[str, jax.Array]:
    """Every layer's `query`, `key` and `value` (B, L, N, T, H) and `hidden` (B, L, T, D), float32; pure.

    `hidden_states` are the embeddings' and each layer's output, so that layer l was given the l-th; `dtype` is the
    one that the model computes in, whose rounding is repeated here.
    """
    layers = [params["encoder"][f"layer_{index}"]["attention"] for index in range(len(hidden_states) - 1)]
    found: dict[str, jax.Array] = {"hidden": jnp.stack(hidden_states[:-1], axis=1).astype(jnp.float32)}
    for name in ("query", "key", "value"):
        projected = [
            jnp.einsum("BTD,DNH->BNTH", x.astype(dtype), layer[name]["kernel"].astype(dtype))
            + layer[name]["bias"].astype(dtype)[:, None]
            for x, layer in zip(hidden_states[:-1], layers, strict=True)
        ]
        found[name] = jnp.stack(projected, axis=1).astype(jnp.float32)
    return found
