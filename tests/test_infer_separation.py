"""Groups of vectors, how well they lie apart, and their plane, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from bert_jax.infer.separation import cosines, plane, silhouette, two_groups, unit, within_and_between


def clouds(random: np.random.Generator, sizes: tuple[int, ...], noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Directions around one centre per cloud, of any length, shuffled, and which cloud each is of."""
    centres = random.normal(size=(len(sizes), 12))
    cloud = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    vectors = centres[cloud] + noise * random.normal(size=(len(cloud), 12))
    return vectors * random.uniform(0.1, 10, (len(cloud), 1)), cloud


def test_cosines_by_hand() -> None:
    found = cosines(np.array([[1, 0], [3, 3], [-2, 0], [0, 0]], np.float32))
    half = round(0.5**0.5, 6)
    assert found.tolist() == [[1, half, -1, 0], [half, 1, -half, 0], [-1, -half, 1, 0], [0, 0, 0, 0]]


def test_within_and_between_by_hand() -> None:
    similarity = np.array([[1, 0.9, 0.2], [0.9, 1, 0.4], [0.2, 0.4, 1]])
    assert within_and_between(similarity, np.array([0, 0, 1])) == (0.9, pytest.approx(0.3))
    assert within_and_between(similarity, np.array([0, 1, 2])) == (None, pytest.approx(0.5))
    assert within_and_between(similarity, np.zeros(3, int)) == (pytest.approx(0.5), None)


def test_silhouette_by_hand() -> None:
    similarity = np.array([[1, 0.9, 0.2], [0.9, 1, 0.4], [0.2, 0.4, 1]])
    # distances: 0-1 0.1, 0-2 0.8, 1-2 0.6; the third is alone and counts 0
    expected = ((0.8 - 0.1) / 0.8 + (0.6 - 0.1) / 0.6 + 0) / 3
    assert silhouette(similarity, np.array([0, 0, 1])) == pytest.approx(expected)
    assert silhouette(similarity, np.array([1, 0, 1])) < 0
    assert silhouette(similarity, np.array([0, 1, 2])) is None
    assert silhouette(similarity, np.zeros(3, int)) is None
    assert silhouette(np.ones((4, 4)), np.array([0, 1, 0, 1])) == 0  # all alike: nothing parts them


def test_silhouette_equals_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    for groups_number in (2, 3, 5):
        similarity = cosines(random.normal(size=(20, 6)))
        groups = random.integers(0, groups_number, 20)
        distance = 1 - similarity
        expected = metrics.silhouette_score(distance, groups, metric="precomputed")
        assert silhouette(similarity, groups) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("sizes", [(5, 5), (2, 9), (1, 6), (30, 40), (1, 1)])
def test_two_clouds_are_found(sizes: tuple[int, int]) -> None:
    random = np.random.default_rng(sum(sizes))
    for _ in range(5):
        vectors, cloud = clouds(random, sizes, 0.15)
        groups = two_groups(vectors)
        assert groups[0] == 0
        np.testing.assert_array_equal(groups, (cloud != cloud[0]).astype(int))
        np.testing.assert_array_equal(two_groups(vectors), groups)


def test_vectors_that_are_alike_are_one_group() -> None:
    vectors = np.ones((4, 3)) * np.array([[1], [2], [3], [1 + 1e-9]])
    assert two_groups(vectors).tolist() == [0, 0, 0, 0]
    assert two_groups(np.array([[1.0, 0], [1, 0], [0, 1]])).tolist() == [0, 0, 1]


def test_the_plane_keeps_distances_of_flat_vectors_and_names_their_shares() -> None:
    random = np.random.default_rng(1)
    flat = random.normal(size=(7, 2)) * np.array([5, 1])
    turn, _ = np.linalg.qr(random.normal(size=(9, 9)))
    vectors = np.concatenate([flat, np.zeros((7, 7))], axis=1) @ turn + 3
    points, shares, beside = plane(vectors, vectors[:2])
    np.testing.assert_allclose(
        np.linalg.norm(points[:, None] - points[None], axis=-1), np.linalg.norm(flat[:, None] - flat[None], axis=-1)
    )
    np.testing.assert_allclose(beside, points[:2], atol=1e-12)
    assert shares.sum() == pytest.approx(1)
    assert shares[0] > shares[1] > 0
    assert (np.take_along_axis(points, np.abs(points).argmax(axis=0)[None], axis=0) > 0).all()


def test_the_plane_of_two_is_a_line() -> None:
    points, shares, beside = plane(unit(np.array([[1.0, 0, 0], [0, 1, 0]])))
    np.testing.assert_allclose(points[:, 1], 0, atol=1e-12)  # some processors round it to zero
    assert points[0, 0] == pytest.approx(-points[1, 0])
    np.testing.assert_allclose(shares, [1, 0], atol=1e-12)
    assert beside.shape == (0, 2)
