"""google's TFRecords train as they are: every record once per epoch, by position, damage named."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from bert_jax import batch as schemas
from bert_jax.data.drivers import batches, tensorflow_on_cpu
from bert_jax.data.records import RecordsFeed, make_records_feed
from bert_jax.data.records_index import open_index
from bert_jax.errors import BertJaxError

COUNTS = (60, 489)  # see the config.json beside each file


@pytest.fixture(scope="module")
def files(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Copies of the two official files: some tests damage theirs."""
    folder = tmp_path_factory.mktemp("records")
    names = ["sample_text_uncased.tfrecord", "news_zh_chinese.tfrecord"]
    return [Path(shutil.copy(data_dir / "golden" / "pretraining_data" / name, folder)) for name in names]


@pytest.fixture(scope="module")
def feed(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> RecordsFeed:
    """A feed over both."""
    return make_records_feed(files, seed=1, index_dir=tmp_path_factory.mktemp("index"))


def test_every_record_once_per_epoch(feed: RecordsFeed) -> None:
    total = sum(COUNTS)
    assert feed.rows_per_epoch(0) == total
    assert (feed.length, feed.predictions) == (128, 20)
    orders = []
    for epoch in range(2):
        examples = feed.examples(np.arange(epoch * total, (epoch + 1) * total))
        schemas.check(examples, schemas.MASKED)
        assert np.array_equal(np.sort(examples["example_ids"]), np.arange(total))
        assert set(examples["epochs"].tolist()) == {epoch}
        orders.append(examples["example_ids"])
    assert not np.array_equal(*orders)


def test_records_are_the_official_instances(feed: RecordsFeed, data_dir: Path) -> None:
    """In file order they are the instances that the same run printed as JSON, token by token."""
    folder = data_dir / "golden" / "pretraining_data"
    vocabulary = (data_dir / "vocab" / "bert_base_uncased.txt").read_text("utf-8").splitlines()
    ids = {entry: number for number, entry in enumerate(vocabulary)}
    total = sum(COUNTS)
    _, rows = feed.locate(np.arange(total))
    positions = np.argsort(rows)[: COUNTS[0]]
    examples = feed.examples(positions)
    lines = (folder / "sample_text_uncased.jsonl").read_text("utf-8").splitlines()
    for at, line in enumerate(lines):
        one = json.loads(line)
        size, count = len(one["tokens"]), len(one["masked_lm_positions"])
        assert examples["input_ids"][at].tolist() == [ids[t] for t in one["tokens"]] + [0] * (128 - size)
        assert examples["segment_ids"][at, :size].tolist() == one["segment_ids"]
        assert examples["input_mask"][at].sum() == size
        assert examples["masked_lm_positions"][at, :count].tolist() == one["masked_lm_positions"]
        assert examples["masked_lm_ids"][at, :count].tolist() == [ids[t] for t in one["masked_lm_labels"]]
        assert examples["masked_lm_weights"][at].tolist() == [1.0] * count + [0.0] * (20 - count)
        assert examples["next_sentence_labels"][at] == one["is_random_next"]


@pytest.mark.parametrize("driver", ["thread", "tf"])
def test_resumes_by_position(feed: RecordsFeed, driver: str) -> None:
    whole = list(batches(feed, 0, 5, 8, driver=driver))
    later = list(batches(feed, 3, 2, 8, driver=driver))
    for one, other in zip(whole[3:], later, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)
    far = next(batches(feed, 10**8, 1, 8, driver=driver))
    assert far["epochs"].tolist() == [(10**8 * 8 + row) // sum(COUNTS) for row in range(8)]


def test_the_fingerprint_is_of_the_records(feed: RecordsFeed, files: list[Path], tmp_path: Path) -> None:
    copies = [Path(shutil.copy(path, tmp_path)) for path in files]
    assert make_records_feed(copies, seed=9, index_dir=tmp_path / "index").fingerprint == feed.fingerprint
    assert make_records_feed(copies[::-1], seed=1, index_dir=tmp_path / "index").fingerprint != feed.fingerprint


def test_describe(feed: RecordsFeed) -> None:
    found = feed.describe()
    assert found["rows_per_epoch"] == sum(COUNTS)
    assert 0.4 < found["random_share"] < 0.7
    assert 100 < found["mean_tokens"] <= 128


def offsets_of(path: Path) -> list[int]:
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        found.append(at)
        at += 16 + struct.unpack_from("<Q", data, at)[0]
    return found


def test_the_index_is_made_once_and_again_when_the_file_changes(files: list[Path], tmp_path: Path) -> None:
    path = Path(shutil.copy(files[0], tmp_path))
    index = open_index(path, tmp_path / "index")
    assert (index.offsets - 12).tolist() == offsets_of(path)
    (stored,) = (tmp_path / "index").glob("*.npy")
    written = stored.stat().st_mtime_ns
    open_index(path, tmp_path / "index")
    assert stored.stat().st_mtime_ns == written
    data = bytearray(stored.read_bytes())
    data[-5] ^= 1
    stored.write_bytes(data)
    assert np.array_equal(open_index(path, tmp_path / "index").offsets, index.offsets)
    path.write_bytes(path.read_bytes()[: offsets_of(path)[10]])
    assert len(open_index(path, tmp_path / "index").offsets) == 10


@pytest.mark.parametrize("damage", ["data", "length", "cut"])
def test_a_damaged_record_is_named(files: list[Path], tmp_path: Path, damage: str) -> None:
    path = Path(shutil.copy(files[0], tmp_path))
    offset = offsets_of(path)[7]
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[offset + 100 :]
    else:
        data[offset + (100 if damage == "data" else 0)] ^= 1
    path.write_bytes(data)
    with pytest.raises(BertJaxError, match=rf"{path.name} is damaged: record 7 at byte {offset} "):
        make_records_feed(path, seed=0, index_dir=tmp_path / "index")
    assert not list((tmp_path / "index").glob("*.npy"))


def test_a_change_while_in_use_is_noticed(files: list[Path], tmp_path: Path) -> None:
    path = Path(shutil.copy(files[0], tmp_path))
    feed = make_records_feed(path, seed=0, index_dir=tmp_path / "index")
    with open(path, "r+b") as file:
        file.seek(offsets_of(path)[5] + 50)
        file.write(b"\xff\xfe\xfd")
    with pytest.raises(BertJaxError, match=r"record 5 at byte \d+ is not the one indexed"):
        feed.examples(np.arange(COUNTS[0]))


def test_ids_of_another_vocabulary_are_named(files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(BertJaxError, match=r"record \d+ has input_ids up to \d+, the tokenizer has 90 entries"):
        make_records_feed(files[0], seed=0, index_dir=tmp_path, vocab_size=90)
    make_records_feed(files[0], seed=0, index_dir=tmp_path, vocab_size=30522).examples(np.arange(COUNTS[0]))


def test_files_that_are_no_such_records(files: list[Path], tmp_path: Path) -> None:
    tensorflow = tensorflow_on_cpu()

    def written(name: str, *examples: dict[str, int]) -> Path:
        with tensorflow.io.TFRecordWriter(str(tmp_path / name)) as writer:
            for sizes in examples:
                features = {
                    key: tensorflow.train.Feature(
                        **(
                            {"float_list": tensorflow.train.FloatList(value=[1.0] * size)}
                            if key == "masked_lm_weights"
                            else {"int64_list": tensorflow.train.Int64List(value=[1] * size)}
                        )
                    )
                    for key, size in sizes.items()
                }
                example = tensorflow.train.Example(features=tensorflow.train.Features(feature=features))
                writer.write(example.SerializeToString())
        return tmp_path / name

    def open_files(*paths: Path) -> RecordsFeed:
        return make_records_feed(paths, seed=0, index_dir=tmp_path / "index")

    whole = {name: {"B": 1, "BT": 16, "BM": 3}[key.axes] for name, key in schemas.MASKED.items()}
    with pytest.raises(BertJaxError, match="record 0 has no input_mask"):
        open_files(written("other", {name: size for name, size in whole.items() if name != "input_mask"}))
    mixed = open_files(written("short", whole, {**whole, "input_ids": 15}))
    with pytest.raises(BertJaxError, match="short: record 1 is not an example of length 16 and 3 predictions"):
        mixed.examples(np.arange(2))
    with pytest.raises(BertJaxError, match="holds no records"):
        open_files(written("empty"))
    (tmp_path / "packed.gz").write_bytes(b"\x1f\x8b12345")
    with pytest.raises(BertJaxError, match="compressed"):
        open_files(tmp_path / "packed.gz")
    with pytest.raises(BertJaxError, match="No such file"):
        open_files(tmp_path / "missing")
    with pytest.raises(BertJaxError, match="no TFRecord files"):
        open_files()
