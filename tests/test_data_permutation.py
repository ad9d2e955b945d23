"""Keyed streams and permutations: one to one, spread evenly, the same everywhere."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from bert_jax.data.permutation import Bits, EpochOrder, key_words, permute, scaled, unit


def test_the_numbers_are_pinned() -> None:
    """A change here changes what every run trains on: raise `pairs.VERSION` and say so where changes are recorded."""
    assert Bits(1, 2, "walk").words(3).tolist() == PINNED_WORDS
    assert permute(np.arange(10), 10, 1, "rows").tolist() == PINNED_PERMUTATION
    assert permute(np.array([0, 10**9]), 3 * 10**9, 1, 0).tolist() == PINNED_LARGE


PINNED_WORDS = [15388831845708353892, 784305273452340838, 9871242004116051910]
PINNED_PERMUTATION = [1, 6, 2, 9, 3, 7, 4, 8, 0, 5]
PINNED_LARGE = [669666364, 2289200520]


def test_words_are_philox_raw_words_however_they_are_asked_for() -> None:
    raw = np.random.Philox(key=key_words(3, "x")).random_raw(50)
    bits = Bits(3, "x")
    assert np.array_equal(np.concatenate([bits.words(7), bits.words(0), bits.words(43)]), raw)


def test_keys_tell_all_parts_apart() -> None:
    keys = {
        tuple(key_words(*parts)) for parts in [(1, 23), (12, 3), (123,), ("1", 23), (1, "23"), ("1\x1f23",), (-1, 23)]
    }
    assert len(keys) == 7


def test_scaled_never_reaches_its_limit() -> None:
    extremes = np.array([0, 2**64 - 1], np.uint64)
    assert unit(extremes).tolist() == [0.0, 1 - 2.0**-53]
    for limit in (1, 2, 3, 2**31, 2**53, 2**62):
        assert scaled(extremes, limit).tolist()[0] == 0
        assert scaled(extremes, limit)[1] < limit


def test_scaled_is_uniform() -> None:
    counts = np.bincount(scaled(Bits(5).words(70_000), 7), minlength=7)
    assert np.abs(counts - 10_000).max() < 4.5 * math.sqrt(10_000)


@pytest.mark.parametrize("size", [*range(1, 40), 255, 256, 257, 4_097, 70_001])
def test_permute_is_one_to_one(size: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(size), size, 9, size)), np.arange(size))


def test_permute_does_not_depend_on_company() -> None:
    whole = permute(np.arange(1_000), 1_000, 4)
    assert permute(np.array([17, 17, 999]), 1_000, 4).tolist() == [whole[17], whole[17], whole[999]]


def test_all_permutations_of_four_are_about_equally_likely() -> None:
    counts = Counter(tuple(permute(np.arange(4), 4, key).tolist()) for key in range(2_400))
    assert len(counts) == 24
    assert max(abs(count - 100) for count in counts.values()) < 6 * math.sqrt(100)


def test_permute_scatters_neighbours() -> None:
    """Distances between the images of neighbours are those of random pairs: mean n/3 with a standard deviation."""
    size = 1_000_003
    images = permute(np.arange(100_000), size, 11)
    distances = np.abs(np.diff(images))[::2]
    assert abs(distances.mean() - size / 3) < 4.5 * size / math.sqrt(18 * len(distances))
    assert abs(np.corrcoef(images[:-1], images[1:])[0, 1]) < 4.5 / math.sqrt(len(images))


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8, 9, 63, 64, 65, 1_001])
@pytest.mark.parametrize("window", [None, 1, 2, 5])
def test_an_epoch_visits_every_row_once(rows: int, window: int | None) -> None:
    order = EpochOrder(rows, seed=1, epoch=2, block_rows=8, window_blocks=window)
    visited = order.rows_at(np.arange(rows))
    assert np.array_equal(np.sort(visited), np.arange(rows))
    shuffled = np.random.default_rng(0).permutation(rows)
    assert np.array_equal(order.rows_at(shuffled), visited[shuffled])


def test_a_window_reads_only_its_blocks() -> None:
    order = EpochOrder(1_003, seed=1, epoch=0, block_rows=10, window_blocks=3)
    visited = order.rows_at(np.arange(1_003)) // 10
    short = int(np.flatnonzero(order.rows_at(np.arange(1_003)) == 1_002)[0]) // 30  # the window of the short block
    edges = [0, *(30 * number - 7 * (number > short) for number in range(1, 34)), 1_003]
    for first, last in pairwise(edges):
        assert len(set(visited[first:last].tolist())) <= 3
    assert len(set(visited[:30].tolist())) == 3
    assert not np.array_equal(np.sort(visited), visited)


def test_epochs_and_seeds_differ() -> None:
    orders = [EpochOrder(100, seed, epoch).rows_at(np.arange(100)) for seed, epoch in [(1, 0), (1, 1), (2, 0)]]
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])
