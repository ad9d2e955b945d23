"""How well vectors fall into groups, and how they look in a plane: a few lines of numpy, all by cosine.

Dims: U vectors (uses of a word), D their width.
"""

from __future__ import annotations

import numpy as np

DIGITS = 6  # of a cosine; what lies behind them is the rounding of the model's float32
_ROUNDS = 100


def unit(vectors: np.ndarray) -> np.ndarray:
    """`vectors` (U, D) at length 1, float64; a zero one stays zero."""
    vectors = np.asarray(vectors, np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def cosines(vectors: np.ndarray) -> np.ndarray:
    """Cosine of each pair of `vectors` (U, D): (U, U) float64, rounded to `DIGITS`."""
    scaled = unit(vectors)
    return np.round(np.clip(scaled @ scaled.T, -1.0, 1.0), DIGITS)


def within_and_between(similarity: np.ndarray, groups: np.ndarray) -> tuple[float | None, float | None]:
    """Mean of `similarity` (U, U) over pairs of one group, and over pairs of two; None where there is no such pair."""
    same = groups[:, None] == groups[None]
    pairs = np.triu(np.ones_like(same), 1)
    means = [float(similarity[kind & pairs].mean()) if (kind & pairs).any() else None for kind in (same, ~same)]
    return means[0], means[1]


def silhouette(similarity: np.ndarray, groups: np.ndarray) -> float | None:
    """Mean silhouette (Rousseeuw 1987) at distance 1 − cosine: near 1 groups lie apart, at 0 and below they do not.

    similarity (U, U), groups (U,) integers. For each vector, a = its mean distance to the others of its group, b = the
    least mean distance to another group: (b − a) / max(a, b), and 0 for a vector alone in its group. Being a ratio it
    compares layers whose cosines spread differently. None where it says nothing: one group, or no group of two.
    """
    distance = 1.0 - similarity
    members = groups[:, None] == np.unique(groups)[None]
    sizes = members.sum(axis=0)
    if len(sizes) < 2 or sizes.max() < 2:
        return None
    sums = distance @ members
    own_size = (members * sizes).sum(axis=1)
    own = (sums * members).sum(axis=1) / np.maximum(own_size - 1, 1)
    other = np.where(members, np.inf, sums / sizes).min(axis=1)
    widest = np.maximum(own, other)
    values = np.where((own_size > 1) & (widest > 0), (other - own) / np.where(widest > 0, widest, 1.0), 0.0)
    return float(values.mean())


def two_groups(vectors: np.ndarray) -> np.ndarray:
    """`vectors` (U, D) in two groups, (U,) int: 0 for the first one's and 1; all 0 where they are all alike.

    Spherical 2-means: each vector goes to the nearer of two mean directions until nothing moves. It starts twice, from
    the two sides of the first principal axis and from the two vectors that are least alike, and keeps the tighter
    result: nothing is drawn, so that the answer is always the same.
    """
    scaled = unit(vectors)
    similarity = cosines(vectors)
    if similarity.min() >= 1.0:
        return np.zeros(len(scaled), np.int64)
    coordinates, _, _ = plane(scaled)
    first, second = np.unravel_index(np.argmin(similarity), similarity.shape)
    starts = (coordinates[:, 0] > 0, similarity[:, second] > similarity[:, first])
    _, best = max((_refined(scaled, start.astype(np.int64)) for start in starts), key=lambda found: found[0])
    return best if best[0] == 0 else 1 - best


def _refined(scaled: np.ndarray, groups: np.ndarray) -> tuple[float, np.ndarray]:
    """Sum of the cosines to the own mean direction, and the groups (U,), after the rounds of 2-means."""
    scores = np.zeros((len(scaled), 2))
    for _ in range(_ROUNDS):
        scores = scaled @ unit(np.stack([scaled[groups == number].sum(axis=0) for number in (0, 1)])).T
        moved = (scores[:, 1] > scores[:, 0]).astype(np.int64)
        if (moved == groups).all() or moved.min() == moved.max():  # nothing moves, or a group would be empty
            break
        groups = moved
    return float(np.take_along_axis(scores, groups[:, None], axis=1).sum()), groups


def plane(vectors: np.ndarray, others: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two principal axes of `vectors` (U, D), by SVD of the centred matrix.

    Returns coordinates (U, 2), the share of the variance along each axis (2,), and coordinates (O, 2) of `others`
    (O, D) on the same axes, in which they had no say. An axis' sign is such that the farthest vector is positive.
    """
    centre = vectors.mean(axis=0)
    _, sizes, axes = np.linalg.svd(vectors - centre, full_matrices=False)
    axes = np.concatenate([axes, np.zeros((2, vectors.shape[1]))])[:2]
    variances = np.concatenate([sizes**2, np.zeros(2)])
    coordinates = (vectors - centre) @ axes.T
    farthest = np.take_along_axis(coordinates, np.abs(coordinates).argmax(axis=0)[None], axis=0)[0]
    signs = np.where(farthest < 0, -1.0, 1.0)
    shares = variances[:2] / max(float(variances.sum()), 1e-12)
    beside = np.zeros((0, 2)) if others is None else (others - centre) @ axes.T * signs
    return coordinates * signs, shares, beside
