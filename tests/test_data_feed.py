"""The feed: a pure function of positions, put together exactly as its plan says."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from data_stores import drawn_documents, lengths_store

from bert_jax import batch as schemas
from bert_jax.data import feed as module
from bert_jax.data import plan
from bert_jax.data.feed import Feed, bit_windows, make_feed, windows
from bert_jax.data.store import Store
from bert_jax.data.synthetic import make_synthetic_store
from bert_jax.errors import BertJaxError

LENGTH = 48


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A small synthetic store: real pieces and words, two splits."""
    return make_synthetic_store(tmp_path_factory.mktemp("feed") / "store", seed=1, tokens=60_000, vocab_size=500)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the module's plans lie."""
    return tmp_path_factory.mktemp("plans")


def feed_of(store: Store, folder: Path, **settings: object) -> Feed:
    found = make_feed(store, **{"length": LENGTH, "seed": 3, "plan_dir": folder, **settings})  # type: ignore[arg-type]
    assert isinstance(found, Feed)
    return found


def expected_row(feed: Feed, epoch: int, row: int) -> dict[str, np.ndarray]:
    """One example by hand: token by token from the shards' own arrays."""
    split = feed.store.split(feed.split)
    tokens = np.concatenate([shard.tokens for shard in split.shards]).tolist()
    bits = [np.unpackbits(s.word_starts, count=len(s.tokens), bitorder="little") for s in split.shards]
    starts = np.concatenate(bits).tolist()
    spans = feed.spans(np.array([epoch]), np.array([row]))
    a0, a1, b0, b1 = (int(field[0]) for field in spans[:4])
    ids, words = [2, *tokens[a0:a1], 3], [1, 1, *starts[a0 + 1 : a1], 1]
    segments = [0] * len(ids)
    if b1 > b0:
        ids, words = [*ids, *tokens[b0:b1], 3], [*words, 1, *starts[b0 + 1 : b1], 1]
        segments += [1] * (len(ids) - len(segments))
    padding = [0] * (feed.length - len(ids))
    mask = [1] * len(ids) + padding
    columns = {"input_ids": ids, "segment_ids": segments, "word_starts": words}
    return {"input_mask": np.array(mask), **{name: np.array(values + padding) for name, values in columns.items()}}


@pytest.mark.parametrize("objective", ["mlm+nsp", "mlm", "mlm+sop"])
@pytest.mark.parametrize("split", ["train", "eval"])
def test_examples_are_what_the_plan_says(store: Store, folder: Path, objective: str, split: str) -> None:
    feed = feed_of(store, folder, objective=objective, split=split)
    count = feed.rows_per_epoch(0)
    positions = np.arange(count)
    examples = feed.examples(positions)
    schemas.check(examples, schemas.EXAMPLES)
    assert list(examples) == list(schemas.EXAMPLES)
    epochs, rows = feed.locate(positions)
    assert np.array_equal(np.sort(rows), np.arange(count))
    assert not epochs.any()
    assert np.array_equal(examples["example_ids"], rows)
    assert examples["example_ids"].dtype == np.uint32
    bits = {"input_mask", "segment_ids", "word_starts"}
    assert {examples[name].dtype for name in bits} == {np.dtype(np.uint8)}
    assert {a.dtype for n, a in examples.items() if n not in bits | {"example_ids"}} == {np.dtype(np.int32)}
    labels = feed.spans(epochs, rows).label
    assert np.array_equal(examples["next_sentence_labels"], labels)
    assert labels.any() == (objective != "mlm")
    ends = np.flatnonzero((rows < 3) | (rows >= count - 3))  # the edges of memory, and some in between
    for at in [*ends.tolist(), *range(0, count, max(1, count // 25))]:
        for name, expected in expected_row(feed, 0, int(rows[at])).items():
            assert np.array_equal(examples[name][at], expected), (name, at)


@pytest.mark.parametrize("chunk", [1, 1_000, 1 << 20])
def test_examples_do_not_depend_on_company(
    store: Store, folder: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = feed_of(store, folder)
    whole = feed.examples(np.arange(200))
    monkeypatch.setattr(module, "_CHUNK_TOKENS", chunk)
    chosen = np.array([199, 0, 7, 7, 100])
    part = feed_of(store, folder).examples(chosen)
    for name, array in whole.items():
        assert np.array_equal(array[chosen], part[name]), name


def test_every_row_once_per_epoch_through_all_variants(store: Store, folder: Path) -> None:
    feed = feed_of(store, folder, variants=3)
    counts = [feed.rows_per_epoch(epoch) for epoch in range(7)]
    assert counts[0] == counts[3] == counts[6]
    epochs, rows = feed.locate(np.arange(sum(counts)))
    orders = []
    for epoch, count in enumerate(counts):
        here = rows[epochs == epoch]
        assert np.array_equal(np.sort(here), np.arange(count))
        orders.append(here)
    assert not np.array_equal(orders[0], orders[3])  # the same rows, another order
    examples = feed.examples(np.array([counts[0] - 1, counts[0]]))
    assert examples["epochs"].tolist() == [0, 1]


def test_variants_are_other_pairs(store: Store, folder: Path) -> None:
    feed = feed_of(store, folder, variants=2)
    rows = np.arange(min(feed.rows_per_epoch(0), feed.rows_per_epoch(1)))
    first, second, third = (feed.spans(np.full_like(rows, epoch), rows) for epoch in range(3))
    assert not np.array_equal(first.b0, second.b0)
    assert np.array_equal(first.b0, third.b0)


def test_far_positions_are_reached_at_once(store: Store, folder: Path) -> None:
    feed_of(store, folder).examples(np.array([10**9]))  # plans are made
    feed = feed_of(store, folder)
    begun = time.perf_counter()
    examples = feed.examples(10**9 + np.arange(256))
    assert time.perf_counter() - begun < 1.0
    assert examples["epochs"][0] > 1_000
    epochs, rows = feed.locate(np.array([10**9]))
    total = sum(feed.rows_per_epoch(variant) for variant in range(10))
    assert epochs[0] // 10 == 10**9 // total
    assert rows[0] < feed.rows_per_epoch(int(epochs[0]))


def test_early_positions_need_no_other_variant(store: Store, tmp_path: Path) -> None:
    """Looking at a first batch plans one variant, not ten, and starts none in the background."""
    feed = feed_of(store, tmp_path)
    feed.examples(np.arange(4))
    assert len(list(tmp_path.glob("*.rows"))) == 1
    assert len(list(tmp_path.glob("*.json"))) == 1


def test_the_next_plan_is_made_ahead(store: Store, tmp_path: Path) -> None:
    feed = feed_of(store, tmp_path, variants=2)
    feed.examples(np.array([feed.rows_per_epoch(0) // 2]))
    assert feed.positions.preparing is not None
    feed.positions.preparing.join(30)
    assert plan.is_made(feed.key(1))
    before = feed.positions.preparing
    feed.examples(np.array([feed.rows_per_epoch(0) // 2 + 1]))
    assert feed.positions.preparing is before


def test_lost_plans_do_not_change_what_comes(store: Store, tmp_path: Path, folder: Path) -> None:
    positions = np.array([5, 2_000, 50_000])
    expected = feed_of(store, folder).examples(positions)
    found = feed_of(store, tmp_path).examples(positions)
    for name in expected:
        assert np.array_equal(expected[name], found[name])


def test_a_window_smaller_than_the_store(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_ROWS", 16)
    feed = feed_of(store, folder, window_bytes=20_000)
    count = feed.rows_per_epoch(0)
    _, rows = feed.locate(np.arange(count))
    assert np.array_equal(np.sort(rows), np.arange(count))
    assert feed.positions.order(0).window_blocks < feed.positions.order(0).blocks // 2


def test_seed_split_and_objective_matter(store: Store, folder: Path) -> None:
    base = feed_of(store, folder).examples(np.arange(50))["input_ids"]
    for settings in ({"seed": 4}, {"split": "eval"}, {"objective": "mlm"}, {"short_share": 0.9}):
        assert not np.array_equal(base, feed_of(store, folder, **settings).examples(np.arange(50))["input_ids"])


def test_describe_says_what_chance_is(store: Store, folder: Path) -> None:
    feed = feed_of(store, folder)
    found = feed.describe()
    examples = feed.examples(np.arange(feed.rows_per_epoch(0)))
    assert found["rows_per_epoch"] == len(examples["input_ids"])
    assert found["random_share"] == pytest.approx(examples["next_sentence_labels"].mean())
    assert found["majority_label_share"] == max(found["random_share"], 1 - found["random_share"])
    assert found["mean_tokens"] == pytest.approx(examples["input_mask"].sum(axis=1).mean())
    assert found["padding_share"] == pytest.approx(1 - examples["input_mask"].mean())
    assert feed.max_rows >= max(feed.rows_per_epoch(variant) for variant in range(10))


def test_a_store_smaller_than_one_example(tmp_path: Path) -> None:
    tiny = lengths_store(tmp_path / "tiny", [[2, 1]])
    feed = feed_of(tiny, tmp_path / "plans", length=4_096)
    examples = feed.examples(np.arange(20))
    assert set(examples["input_mask"].sum(axis=1).tolist()) <= {5, 6, 7, 8}
    assert np.isin(examples["input_ids"], [0, 2, 3, 5, 6, 7]).all()


def test_word_starts_survive_many_shards(tmp_path: Path) -> None:
    many = lengths_store(tmp_path / "many", drawn_documents(40), shards=7)
    feed = feed_of(many, tmp_path / "plans")
    _, rows = feed.locate(np.arange(30))
    examples = feed.examples(np.arange(30))
    for at, row in enumerate(rows.tolist()):
        for name, expected in expected_row(feed, 0, row).items():
            assert np.array_equal(examples[name][at], expected), (name, at)


def test_windows_never_leave_memory() -> None:
    memory = np.arange(100, dtype=np.uint16)
    starts = np.array([-3, 0, 50, 90, 95, 99])
    found = windows(memory, starts, 10)
    for row, start in zip(found.tolist(), starts.tolist(), strict=True):
        inside = range(max(start, 0), min(start + 10, 100))
        assert [row[at - start] for at in inside] == list(inside)
    assert windows(memory[:5], np.array([0, 2]), 10)[:, :3].tolist() == [[0, 1, 2], [2, 3, 4]]


def test_bit_windows_at_every_shift() -> None:
    bits = np.random.default_rng(0).integers(0, 2, 400).astype(np.uint8)
    memory = np.packbits(bits, bitorder="little")
    for width in (1, 7, 8, 9, 64, 100):
        starts = np.arange(0, 400 - width)
        expected = bits[starts[:, None] + np.arange(width)]
        assert np.array_equal(bit_windows(memory, starts, width), expected)


def test_settings_that_cannot_be(store: Store, tmp_path: Path) -> None:
    with pytest.raises(BertJaxError, match="no documents in its eval split"):
        feed_of(lengths_store(tmp_path / "none", [[3, 3]]), tmp_path, split="eval")
    with pytest.raises(BertJaxError, match="gives no examples"):
        feed_of(lengths_store(tmp_path / "short", [[1]]), tmp_path, objective="mlm+sop")
    with pytest.raises(BertJaxError, match="variants is 0"):
        feed_of(store, tmp_path, variants=0)
    with pytest.raises(BertJaxError, match="objective 'nsp'"):
        feed_of(store, tmp_path, objective="nsp")
