"""Packing: every example once, rows that are as full as the lengths allow, and a cost that follows the lengths."""

from __future__ import annotations

import time

import numpy as np
import pytest

from bert_jax.data.packing import count_rows, fewest_rows, fill_rows, packed_rows, plan_patterns, plan_rows
from bert_jax.errors import BertJaxError

KEY = (7, 0)


def half_empty(count: int, seed: int = 0) -> np.ndarray:
    """Lengths like those of the MLPerf Wikipedia set: a mean of about half of 512, a quarter of them full."""
    rng = np.random.default_rng(seed)
    short = np.clip(5 + rng.gamma(1.3, 130, count), 5, 512).astype(np.int64)
    return np.where(rng.random(count) < 0.235, 512, short)


def tiny(count: int, seed: int = 0) -> np.ndarray:
    """Sentences alone: 29 tokens on average."""
    return np.clip(5 + np.random.default_rng(seed).gamma(2, 12, count), 5, 512).astype(np.int64)


def share(lengths: np.ndarray, rows: np.ndarray, capacity: int) -> float:
    return float(lengths.sum() / (len(rows) * capacity))


def checked(lengths: np.ndarray, capacity: int, most: int) -> np.ndarray:
    """The rows, after checking what always holds."""
    rows = plan_rows(lengths, capacity, most, KEY)
    assert rows.dtype == np.int32
    assert rows.shape[1] == most
    assert np.array_equal(np.sort(rows[rows >= 0]), np.arange(len(lengths)))
    assert (rows[:, 0] >= 0).all()
    assert not ((rows[:, 1:] >= 0) & (rows[:, :-1] < 0)).any()  # unused places stand at the end
    assert np.where(rows >= 0, lengths[rows], 0).sum(axis=1).max() <= capacity
    counts = np.bincount(lengths, minlength=capacity + 1)
    assert count_rows(counts, capacity, most) == len(rows)
    return rows


@pytest.mark.parametrize("most", [1, 2, 3, 4, 7, 16])
@pytest.mark.parametrize("lengths", [half_empty(3_000), tiny(3_000)], ids=["half empty", "tiny"])
def test_every_example_once_in_rows_that_hold_them(lengths: np.ndarray, most: int) -> None:
    rows = checked(lengths, 512, most)
    fewest = max(lengths.sum() / 512, len(lengths) / most)
    assert len(rows) >= fewest
    if most == 1:
        assert len(rows) == len(lengths)


@pytest.mark.parametrize(
    ("lengths", "most", "least"),
    [
        (half_empty(50_000), 3, 0.95),
        (half_empty(50_000), 4, 0.97),
        (half_empty(50_000), 8, 0.99),
        (tiny(50_000), 32, 0.99),
        (tiny(50_000), 8, 0.99 * 8 * tiny(50_000).mean() / 512),  # places run out before tokens do
        (np.full(999, 256), 2, 0.999),
        (np.repeat([300, 212], 500), 2, 1.0),
        (np.repeat([1, 2, 509], 400), 3, 1.0),
    ],
    ids=str,
)
def test_rows_are_full(lengths: np.ndarray, most: int, least: float) -> None:
    assert share(lengths, checked(lengths, 512, most), 512) >= least


def test_small_cases_by_hand() -> None:
    assert checked(np.array([10, 10]), 10, 4).tolist() in (
        [[0, -1, -1, -1], [1, -1, -1, -1]],
        [[1, *[-1] * 3], [0, *[-1] * 3]],
    )
    assert sorted(checked(np.array([4, 6, 7, 3]), 10, 2).tolist()) == [[1, 0], [2, 3]]
    assert checked(np.array([3]), 10, 2).tolist() == [[0, -1]]
    assert plan_rows(np.zeros(0, np.int64), 10, 3, KEY).shape == (0, 3)
    assert len(checked(np.array([6, 5, 5, 4]), 10, 2)) == 2  # 6 + 4 and 5 + 5; 6 with 5 does not fit
    assert len(checked(np.array([5, 3, 2]), 10, 2)) == 2


@pytest.mark.parametrize("seed", range(20))
def test_as_few_rows_as_the_best_arrangement_of_few_examples(seed: int) -> None:
    """Against all arrangements of seven examples; never more than one row worse."""
    lengths = np.random.default_rng(seed).integers(1, 11, 7)

    def fewest(left: tuple[int, ...], rows: tuple[tuple[int, int], ...]) -> int:
        if not left:
            return len(rows)
        found = fewest(left[1:], (*rows, (10 - left[0], 2)))
        for at, (space, places) in enumerate(rows):
            if places and space >= left[0]:
                found = min(found, fewest(left[1:], (*rows[:at], (space - left[0], places - 1), *rows[at + 1 :])))
        return found

    assert len(checked(lengths, 10, 3)) <= fewest(tuple(lengths.tolist()), ()) + 1


def test_pure_and_keyed() -> None:
    lengths = half_empty(2_000)
    rows = plan_rows(lengths, 512, 4, KEY)
    assert np.array_equal(rows, plan_rows(lengths, 512, 4, KEY))
    other = plan_rows(lengths, 512, 4, (7, 1))
    assert len(other) == len(rows)
    assert (rows != other).any(axis=1).mean() > 0.9


def test_neighbours_of_one_length_do_not_share_rows() -> None:
    rows = checked(np.full(10_000, 100), 512, 5)
    assert (np.abs(np.diff(rows, axis=1)) == 1).mean() < 0.01
    assert np.abs(np.diff(rows[:, 0])).mean() > 1_000  # nor do rows follow the corpus


def test_the_patterns_cost_what_the_lengths_cost() -> None:
    small, large = (np.bincount(half_empty(count), minlength=513) for count in (20_000, 2_000_000))
    found = [len(plan_patterns(counts, 512, 8)) for counts in (small, large)]
    assert max(found) < 3 * 512
    began = time.process_time()
    plan_rows(half_empty(200_000), 512, 8, KEY)
    assert time.process_time() - began < 5.0  # a fifth of what a million may cost, measured 0.5 s


@pytest.mark.parametrize(
    ("lengths", "most", "said"),
    [
        ([4, 11], 2, "examples of 4 to 11 tokens cannot be packed into rows of 10"),
        ([0, 5], 2, "of 0 to 5"),
        ([5], 0, "0 of them"),
    ],
)
def test_what_cannot_be_is_said(lengths: list[int], most: int, said: str) -> None:
    with pytest.raises(BertJaxError, match=said):
        plan_rows(np.array(lengths), 10, most, KEY)


@pytest.mark.parametrize("most", [1, 3, 16])
def test_few_examples_take_few_rows(most: int) -> None:
    counts, bounds = 0, 0.0
    for seed in range(20):
        lengths = np.clip(tiny(32, seed), 1, 128)
        lengths[seed] = 128  # as long as a row
        rows = fill_rows(lengths, 128, most)
        assert rows.dtype == np.int32 and rows.shape[1] == most
        assert np.array_equal(np.sort(rows[rows >= 0]), np.arange(32))
        assert not ((rows[:, 1:] >= 0) & (rows[:, :-1] < 0)).any()  # unused places stand at the end
        assert np.where(rows >= 0, lengths[rows], 0).sum(axis=1).max() <= 128
        assert np.array_equal(rows, fill_rows(lengths, 128, most))
        others = lengths.sum() - 128  # of 31 examples; that of 128 has a row of its own
        counts, bounds = counts + len(rows), bounds + 1 + max(np.ceil(others / 128), np.ceil(31 / most))
    assert counts <= 1.06 * bounds


def test_each_looks_for_the_fullest_row_it_fits() -> None:
    assert fill_rows(np.array([3, 7, 4, 6]), 10, 2).tolist() == [[1, 0], [3, 2]]
    assert fill_rows(np.array([2, 2, 2, 5]), 10, 3).tolist() == [[3, 0, 1], [2, -1, -1]]
    assert fill_rows(np.array([10, 10]), 10, 4).tolist() == [[0, -1, -1, -1], [1, -1, -1, -1]]
    assert fill_rows(np.zeros(0, np.int64), 10, 3).shape == (0, 3)
    with pytest.raises(BertJaxError, match="examples of 4 to 11 tokens cannot be packed into rows of 10"):
        fill_rows(np.array([4, 11]), 10, 2)


@pytest.mark.parametrize("count", [32, 3_000])
def test_the_fewest_rows_of_dozens_and_thousands(count: int) -> None:
    lengths = np.minimum(tiny(count), 128)
    both = len(plan_rows(lengths, 128, 6, KEY)), len(fill_rows(lengths, 128, 6))
    assert (both[0] < both[1]) == (count > 32)  # each is the better one of its own
    assert len(fewest_rows(lengths, 128, 6)) == min(both)


def test_packed_rows_by_hand() -> None:
    sequences = [([5, 6, 7], [0, 0, 1]), ([8, 9], [0, 1]), ([4] * 6, [0] * 6)]
    members = np.array([[1, 0], [2, -1], [-1, -1]])
    batch = packed_rows(sequences, members, 6, pad_id=3)
    assert batch["input_ids"].tolist() == [[8, 9, 5, 6, 7, 3], [4] * 6, [3] * 6]
    assert batch["segment_ids"].tolist() == [[0, 1, 0, 0, 1, 0], [0] * 6, [0] * 6]
    assert batch["input_mask"].tolist() == [[1, 1, 1, 1, 1, 0], [1] * 6, [0] * 6]
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2, 0], [0, 1, 2, 3, 4, 5], [0] * 6]
    assert batch["sequence_ids"].tolist() == [[1, 1, 2, 2, 2, 0], [1] * 6, [0] * 6]
    assert batch["cls_positions"].tolist() == [[0, 2], [0, 0], [0, 0]]
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int32)}
