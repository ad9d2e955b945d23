"""Several stores by weight: exact shares, each store gone through in order, everything by arithmetic."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_stores import drawn_documents, lengths_store

from bert_jax import batch as schemas
from bert_jax.data.drivers import batches
from bert_jax.data.feed import make_feed
from bert_jax.data.mixture import BLOCK, Mixture, quotas
from bert_jax.data.synthetic import make_synthetic_store
from bert_jax.errors import BertJaxError


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    """Three stores of different sizes, 5 : 3 : 1."""
    folder = tmp_path_factory.mktemp("mixture")
    stores = [lengths_store(folder / str(size), drawn_documents(size, seed=size)) for size in (200, 50, 20)]
    found = make_feed(stores, length=40, seed=2, plan_dir=folder / "plans", weights=[5, 3, 1])
    assert isinstance(found, Mixture)
    return found


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([1], [1000]),
        ([1, 1], [500, 500]),
        ([1, 1, 1], [334, 333, 333]),
        ([2, 1], [667, 333]),
        ([0.5, 0.25, 0.25], [500, 250, 250]),
        ([1, 999], [1, 999]),
        ([1, 1, 1, 1, 1, 1, 1], [143, 143, 143, 143, 143, 143, 142]),
    ],
)
def test_quotas_by_largest_remainder(weights: list[float], expected: list[int]) -> None:
    assert quotas(weights).tolist() == expected


@pytest.mark.parametrize("weights", [[1, 0], [1, -1], [1, float("nan")], [1, 3_000]])
def test_weights_that_cannot_be(weights: list[float]) -> None:
    with pytest.raises(BertJaxError, match="weight"):
        quotas(weights)


def test_shares_and_order(mixture: Mixture) -> None:
    stores, inner = mixture.locate(np.arange(3 * BLOCK))
    assert mixture.quotas.tolist() == [556, 333, 111]
    for number, quota in enumerate(mixture.quotas.tolist()):
        for block in range(3):
            assert (stores[block * BLOCK : (block + 1) * BLOCK] == number).sum() == quota
        assert np.array_equal(np.sort(inner[stores == number]), np.arange(3 * quota))
    assert not np.array_equal(stores[:BLOCK], stores[BLOCK : 2 * BLOCK])
    mixed = stores[: BLOCK // 2]  # not one store after another
    assert np.count_nonzero(np.diff(mixed)) > 150


def test_examples_are_the_stores_own(mixture: Mixture) -> None:
    positions = np.array([0, 999, 1_000, 1_001, 123_456, 5])
    examples = mixture.examples(positions)
    schemas.check(examples, schemas.EXAMPLES)
    stores, inner = mixture.locate(positions)
    for at, (store, position) in enumerate(zip(stores.tolist(), inner.tolist(), strict=True)):
        own = mixture.feeds[store].examples(np.array([position]))
        for name, array in own.items():
            shift = int(mixture._id_offsets[store]) if name == "example_ids" else 0
            assert np.array_equal(examples[name][at].astype(np.int64), array[0].astype(np.int64) + shift), name
        assert examples[name].dtype == array.dtype


def test_example_numbers_differ_between_stores(mixture: Mixture) -> None:
    stores, _ = mixture.locate(np.arange(5_000))
    numbers = mixture.examples(np.arange(5_000))["example_ids"]
    seen = [set(numbers[stores == number].tolist()) for number in range(3)]
    assert not seen[0] & seen[1]
    assert not (seen[0] | seen[1]) & seen[2]


def test_resumes_anywhere(mixture: Mixture) -> None:
    begun = time.perf_counter()
    later = next(batches(mixture, 10**6, 1, 64, driver="thread"))
    assert time.perf_counter() - begun < 1.0
    expected = mixture.examples(np.arange(64 * 10**6, 64 * 10**6 + 64))
    assert all(np.array_equal(later[name], expected[name]) for name in expected)


def test_describe_weighs_the_stores(mixture: Mixture) -> None:
    found = mixture.describe()
    shares = [one["random_share"] for one in found["stores"]]
    assert found["random_share"] == pytest.approx(np.dot(shares, [0.556, 0.333, 0.111]))
    assert found["rows_per_epoch"] == mixture.rows_per_epoch(0) == sum(one["rows_per_epoch"] for one in found["stores"])
    assert found["length"] == 40


def test_other_tokenizers_are_refused(tmp_path: Path) -> None:
    stores: list[Any] = [make_synthetic_store(tmp_path / str(size), 0, 2_000, size) for size in (100, 101)]
    with pytest.raises(BertJaxError, match=r"100 and .*101 were made with different tokenizers"):
        make_feed(stores, length=32, seed=0, plan_dir=tmp_path / "plans")
    with pytest.raises(BertJaxError, match="1 mixture weights for 2 stores"):
        make_feed(stores, length=32, seed=0, plan_dir=tmp_path / "plans", weights=[1])


def test_too_many_examples_are_refused(mixture: Mixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(mixture.feeds[0]), "max_rows", 2**31)
    with pytest.raises(BertJaxError, match="use fewer stores"):
        Mixture(mixture.feeds, [1, 1, 1], 0)
