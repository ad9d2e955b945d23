"""TFDS sources, on a small set written here in TFDS format."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bert_jax.data.counting import count_source
from bert_jax.data.one_reader import one_reader
from bert_jax.data.pool import map_unordered
from bert_jax.data.prepare import prepare
from bert_jax.data.sources import open_source, read_unit
from bert_jax.data.streams import Unit
from bert_jax.errors import BertJaxError

SHARDS = 3
EXAMPLES = 8


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set `tiny/en` of 8 examples in 3 shards, as TFDS keeps it on disk."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(
        {
            "text": tfds.features.Text(),
            "meta": {"title": tfds.features.Text()},
            "sentences": tfds.features.Sequence(tfds.features.Text()),
        }
    )
    root = tmp_path_factory.mktemp("tfds")
    folder = root / "tiny" / "en" / "1.0.0"
    folder.mkdir(parents=True)
    lengths = [3, 3, 2]
    first = 0
    for shard, length in enumerate(lengths):
        with tf.io.TFRecordWriter(str(folder / f"tiny-train.tfrecord-{shard:05d}-of-{SHARDS:05d}")) as writer:
            for i in range(first, first + length):
                example = {"text": f"Doc {i}. Ends é.", "meta": {"title": f"T{i}"}, "sentences": ["a. b", f"c{i}"]}
                writer.write(features.serialize_example(features.encode_example(example)))
        first += length
    split = tfds.core.SplitInfo(
        name="train",
        shard_lengths=lengths,
        num_bytes=1,
        filename_template=tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name="tiny", split="train", filetype_suffix="tfrecord"
        ),
    )
    tfds.folder_dataset.write_metadata(data_dir=str(folder), features=features, split_infos=[split], check_data=False)
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(
        json.dumps({**info, "name": "tiny", "configName": "en", "version": "1.0.0"})
    )
    return root


@pytest.fixture(autouse=True)
def _data_dir(tfds_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tfds_dir))


def test_one_unit_per_shard_in_order() -> None:
    source = open_source("tfds:tiny/en:train")
    units = source.units()
    assert [(unit.start, unit.end) for unit in units] == [(0, 3), (3, 6), (6, 8)]
    assert list(source) == [[f"Doc {i}.", "Ends é."] for i in range(EXAMPLES)]
    assert list(read_unit(units[2])) == [["Doc 6.", "Ends é."], ["Doc 7.", "Ends é."]]
    assert source.fingerprint() == open_source("tfds:tiny/en:train:text").fingerprint()


def test_fields_and_part_of_a_split() -> None:
    source = open_source("tfds:tiny/en:train[25%:75%]:meta.title+text")
    assert list(source) == [[f"T{i}", f"Doc {i}.", "Ends é."] for i in range(2, 6)]
    assert list(open_source("tfds:tiny/en:train[:1]:sentences")) == [["a. b", "c0"]]
    assert source.fingerprint() != open_source("tfds:tiny/en:train:meta.title+text").fingerprint()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tfds:tiny/en", "expected tfds:NAME"),
        ("tfds:tiny/en:nope", "no split 'nope'; it has train"),
        ("tfds:tiny/en:train:nope", "no field 'nope'; it has meta, sentences, text"),
        ("tfds:tiny/en:train:meta.nope", r"no field 'meta\.nope'"),
        ("tfds:no_such_set:train", "no data set 'no_such_set' in"),
    ],
)
def test_errors_name_what_is_wrong(spec: str, message: str) -> None:
    with pytest.raises(BertJaxError, match=message):
        open_source(spec)


# --- one reader for all workers ---------------------------------------------------------------------------------------


def nothing() -> None:
    """Workers have nothing to make ready."""


def documents_and_tensorflow(units: list[Unit]) -> tuple[list[list[str]], bool]:
    return [document for unit in units for document in read_unit(unit)], "tensorflow" in sys.modules


def test_workers_read_copies_and_never_load_tensorflow(tmp_path: Path) -> None:
    units = open_source("tfds:tiny/en:train").units()
    tasks = [([unit],) for unit in units]
    for index, (documents, loaded) in map_unordered(
        nothing, (), documents_and_tensorflow, tasks, 2, one_reader(tmp_path)
    ):
        assert documents == list(read_unit(units[index]))
        assert not loaded
    assert not list(tmp_path.iterdir())
    assert "tensorflow" in sys.modules  # here


def test_a_store_and_counts_do_not_depend_on_who_reads(tmp_path: Path, data_dir: Path) -> None:
    tokenizer = tmp_path / "uncased"
    tokenizer.mkdir()
    (tokenizer / "vocab.txt").write_bytes((data_dir / "vocab" / "bert_base_uncased.txt").read_bytes())
    stores = [
        prepare("tfds:tiny/en:train", tokenizer, tmp_path / str(workers), eval_fraction=0, workers=workers)
        for workers in (1, 2)
    ]
    assert stores[0]["fingerprint"] == stores[1]["fingerprint"]
    assert stores[0]["documents"] == EXAMPLES
    source = open_source("tfds:tiny/en:train")
    one, two = (count_source(source, workers=workers) for workers in (1, 2))
    assert one.words == two.words
    assert one.held_out == two.held_out
