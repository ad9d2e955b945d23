"""The feed of packed rows: each example as it is unpacked, each row as its plan says, a pure function of positions."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_stores import drawn_documents, lengths_store

from bert_jax import batch as schemas
from bert_jax.batch import prediction_counts, row_predictions
from bert_jax.data import packed_feed, packed_plan
from bert_jax.data.drivers import batches
from bert_jax.data.feed import Feed, make_feed
from bert_jax.data.mixture import BLOCK, Mixture
from bert_jax.data.packed_feed import PackedFeed, Packing
from bert_jax.data.store import Store
from bert_jax.data.synthetic import make_synthetic_store
from bert_jax.errors import BertJaxError

LENGTH, MOST = 64, 4
PACKING = Packing(MOST)
OF_TOKENS = ("input_ids", "input_mask", "segment_ids", "word_starts")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A small synthetic store: real pieces and words, two splits."""
    return make_synthetic_store(tmp_path_factory.mktemp("feed") / "store", seed=1, tokens=40_000, vocab_size=500)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the module's plans lie."""
    return tmp_path_factory.mktemp("plans")


def feed_of(store: Store, folder: Path, packing: Packing = PACKING, **settings: Any) -> PackedFeed:
    found = make_feed(store, **{"length": LENGTH, "seed": 3, "plan_dir": folder, "packing": packing, **settings})
    assert isinstance(found, PackedFeed)
    return found


def plain_of(store: Store, folder: Path, **settings: Any) -> dict[int, dict[str, np.ndarray]]:
    """Every example of the first epoch by its number, without padding."""
    feed = make_feed(store, **{"length": LENGTH, "seed": 3, "plan_dir": folder, **settings})
    assert isinstance(feed, Feed)
    examples = feed.examples(np.arange(feed.rows_per_epoch(0)))
    sizes = examples["input_mask"].sum(axis=1)
    found = {}
    for at, number in enumerate(examples["example_ids"].tolist()):
        found[number] = {name: examples[name][at, : sizes[at]] for name in OF_TOKENS}
        found[number]["label"] = examples["next_sentence_labels"][at]
    return found


def check_rows(examples: dict[str, np.ndarray], expected: dict[int, dict[str, np.ndarray]]) -> list[int]:
    """Compare every example of every row with the unpacked one; the numbers of the examples."""
    numbers = []
    for row, sequence in enumerate(examples["sequence_ids"]):
        stop = 0
        for place in range(int(sequence.max())):
            number = int(examples["example_ids"][row, place])
            example = expected[number]
            begin, stop = stop, stop + len(example["input_ids"])
            assert examples["cls_positions"][row, place] == begin
            assert (sequence[begin:stop] == place + 1).all()
            assert np.array_equal(examples["position_ids"][row, begin:stop], np.arange(stop - begin))
            for name in OF_TOKENS:
                assert np.array_equal(examples[name][row, begin:stop], example[name]), (row, place, name)
            assert examples["next_sentence_labels"][row, place] == example["label"]
            numbers.append(number)
        for name in (*OF_TOKENS, "position_ids", "sequence_ids"):
            assert not examples[name][row, stop:].any()
        for name in ("cls_positions", "example_ids", "epochs", "next_sentence_labels"):
            assert not examples[name][row, int(sequence.max()) :].any()
    return numbers


@pytest.mark.parametrize("objective", ["mlm+nsp", "mlm", "mlm+sop"])
@pytest.mark.parametrize("most", [2, 9])
def test_every_example_as_it_is_unpacked_once_per_epoch(store: Store, folder: Path, objective: str, most: int) -> None:
    feed = feed_of(store, folder, Packing(most), objective=objective)
    examples = feed.examples(np.arange(feed.rows_per_epoch(0)))
    schemas.check(examples, schemas.EXAMPLES | schemas.PACKED)
    assert set(examples) == set(schemas.EXAMPLES | schemas.PACKED)
    narrow = {"input_mask", "segment_ids", "word_starts"}
    assert {examples[name].dtype for name in narrow} == {np.dtype(np.uint8)}
    assert examples["example_ids"].dtype == np.uint32
    assert {a.dtype for n, a in examples.items() if n not in narrow | {"example_ids"}} == {np.dtype(np.int32)}
    expected = plain_of(store, folder, objective=objective)
    assert sorted(check_rows(examples, expected)) == sorted(expected)


def test_many_shards_and_the_edges_of_memory(tmp_path: Path) -> None:
    many = lengths_store(tmp_path / "many", drawn_documents(40), shards=7)
    feed = feed_of(many, tmp_path / "plans", length=40)
    examples = feed.examples(np.arange(feed.rows_per_epoch(0)))
    check_rows(examples, plain_of(many, tmp_path / "plans", length=40))
    tiny = lengths_store(tmp_path / "tiny", [[2, 1]])
    feed = feed_of(tiny, tmp_path / "plans", length=300)
    examples = feed.examples(np.arange(20))
    assert np.isin(examples["input_ids"], [0, 2, 3, 5, 6, 7]).all()


@pytest.mark.parametrize("chunk", [1, 1_000, 1 << 20])
def test_rows_do_not_depend_on_company(store: Store, folder: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = feed_of(store, folder).examples(np.arange(200))
    monkeypatch.setattr(packed_feed, "_CHUNK_TOKENS", chunk)
    chosen = np.array([199, 0, 7, 7, 100])
    part = feed_of(store, folder).examples(chosen)
    for name, array in whole.items():
        assert np.array_equal(array[chosen], part[name]), name
    assert feed_of(store, folder).examples(np.zeros(0, np.int64))["input_ids"].shape == (0, LENGTH)


def test_variants_epochs_and_far_positions(store: Store, folder: Path) -> None:
    feed = feed_of(store, folder, variants=3)
    counts = [feed.rows_per_epoch(epoch) for epoch in range(4)]
    assert counts[0] == counts[3]
    epochs, rows = feed.locate(np.arange(sum(counts)))
    orders = [rows[epochs == epoch] for epoch in range(4)]
    assert all(np.array_equal(np.sort(order), np.arange(count)) for order, count in zip(orders, counts, strict=True))
    assert not np.array_equal(orders[0], orders[3])
    straddling = feed.examples(np.array([counts[0] - 1, counts[0]]))["epochs"]
    assert straddling[:, 0].tolist() == [0, 1]
    feed.examples(np.array([10**9]))
    again = feed_of(store, folder, variants=3)
    begun = time.process_time()
    assert again.examples(10**9 + np.arange(64))["epochs"].max() > 1_000
    assert time.process_time() - begun < 1.0


def test_lost_plans_do_not_change_what_comes(store: Store, folder: Path, tmp_path: Path) -> None:
    positions = np.array([5, 2_000, 50_000])
    expected, found = feed_of(store, folder).examples(positions), feed_of(store, tmp_path).examples(positions)
    for name in expected:
        assert np.array_equal(expected[name], found[name])


def test_looking_plans_one_variant_and_training_the_next(store: Store, tmp_path: Path) -> None:
    feed = feed_of(store, tmp_path, variants=2)
    feed.examples(np.arange(4))
    assert len(list(tmp_path.glob("packed-*.rows"))) == 1
    feed.examples(np.array([feed.rows_per_epoch(0) // 2]))
    assert feed.positions.preparing is not None
    feed.positions.preparing.join(30)
    assert feed._key(1).is_made()


def test_a_window_smaller_than_the_store(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then blocks of the order are as large as those that were packed together."""
    monkeypatch.setattr(packed_plan, "_BLOCK_EXAMPLES", 60)
    monkeypatch.setattr(packed_feed, "BLOCK_ROWS", 16)
    feed = feed_of(store, tmp_path, window_bytes=20_000)
    count = feed.rows_per_epoch(0)
    _, rows = feed.locate(np.arange(count))
    assert np.array_equal(np.sort(rows), np.arange(count))
    order = feed.positions.order(0)
    assert order.block_rows == feed._key(0).block_rows() > 16
    assert order.window_blocks < order.blocks


@pytest.mark.parametrize("driver", ["thread", "tf"])
def test_both_drivers_any_number_of_processes(store: Store, folder: Path, driver: str) -> None:
    if driver == "tf":
        pytest.importorskip("tensorflow")
    feed = feed_of(store, folder)
    whole = feed.examples(np.arange(24, 48))
    for count in (1, 2):
        parts: list[list[dict[str, np.ndarray]]] = []
        for index in range(count):
            with batches(feed, 3, 3, 8, process_index=index, process_count=count, driver=driver) as source:
                parts.append(list(source))
        for name, array in whole.items():
            joined = np.concatenate([np.concatenate([part[step][name] for part in parts]) for step in range(3)])
            assert np.array_equal(joined, array), name


def test_a_mixture_keeps_the_shares_of_the_examples(store: Store, folder: Path, tmp_path: Path) -> None:
    short = lengths_store(tmp_path / "short", [[3, 4]] * 600)  # two or three to the row of the other
    with pytest.raises(BertJaxError, match="different tokenizers"):
        make_feed([store, short], length=LENGTH, seed=3, plan_dir=folder, packing=Packing(MOST), weights=[1, 1])
    long = lengths_store(tmp_path / "long", drawn_documents(300, sentences=20))
    mixture = make_feed([long, short], length=LENGTH, seed=3, plan_dir=folder, packing=Packing(MOST), weights=[1, 1])
    assert isinstance(mixture, Mixture)
    examples = mixture.examples(np.arange(BLOCK))
    schemas.check(examples, schemas.EXAMPLES | schemas.PACKED)
    used = np.arange(MOST) < examples["sequence_ids"].max(axis=1)[:, None]
    of_short = examples["example_ids"][used] >= mixture._id_offsets[1]
    assert of_short.mean() == pytest.approx(0.5, abs=0.02)
    assert mixture.quotas[0] > 1.5 * mixture.quotas[1]
    labels = examples["next_sentence_labels"][used]
    described = mixture.describe()
    assert described["random_share"] == pytest.approx(labels.mean(), abs=0.03)
    assert described["padding_share"] == pytest.approx(1 - examples["input_mask"].mean(), abs=0.01)


def test_describe_says_what_packing_saves(store: Store, folder: Path) -> None:
    feed = feed_of(store, folder)
    found = feed.describe()
    examples = feed.examples(np.arange(feed.rows_per_epoch(0)))
    assert found["rows_per_epoch"] == len(examples["input_ids"])
    assert found["padding_share"] == pytest.approx(1 - examples["input_mask"].mean())
    assert found["padding_share"] < 0.02 < found["padding_share_unpacked"]
    used = np.arange(MOST) < examples["sequence_ids"].max(axis=1)[:, None]
    assert found["examples_per_epoch"] == used.sum()
    assert found["examples_per_row"] == pytest.approx(used.sum() / len(used))
    assert found["random_share"] == pytest.approx(examples["next_sentence_labels"][used].mean())
    plain = make_feed(store, length=LENGTH, seed=3, plan_dir=folder).describe()
    assert found["majority_label_share"] == plain["majority_label_share"]


def test_too_few_places_are_found_when_planned(store: Store, folder: Path) -> None:
    counts = prediction_counts(LENGTH, 10)
    enough = row_predictions(LENGTH, MOST, 10)
    feed_of(store, folder, Packing(MOST, enough, counts))
    with pytest.raises(BertJaxError, match=r"row_predictions is 5, and packed rows of .* have up to \d+ pred") as said:
        feed_of(store, folder, Packing(MOST, 5, counts))
    needed = int(str(said.value).split("have up to ")[1].split(" ")[0])
    feed_of(store, folder, Packing(MOST, needed, counts))
    with pytest.raises(BertJaxError, match=f"give {needed}, or leave row_predictions out"):
        feed_of(store, folder, Packing(MOST, needed - 1, counts))


def test_one_example_per_row_is_the_plain_feed(store: Store, folder: Path) -> None:
    assert isinstance(make_feed(store, length=LENGTH, seed=3, plan_dir=folder, packing=Packing(1)), Feed)
