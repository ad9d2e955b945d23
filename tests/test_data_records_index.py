"""Damaged TFRecord files: file and record are named; one bad record costs itself alone, and only if asked for."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from bert_jax.data import record_frames, records_index
from bert_jax.data.drivers import tensorflow_on_cpu
from bert_jax.data.record_frames import checksums
from bert_jax.data.records import make_records_feed
from bert_jax.data.records_index import RecordIndex, open_index, open_indices, set_aside
from bert_jax.errors import BertJaxError

RECORDS = 60


class Place(NamedTuple):
    """Where a record begins and ends."""

    begin: int
    end: int


def places_of(data: bytes) -> list[Place]:
    found, at = [], 0
    while at < len(data):
        end = at + 16 + int(struct.unpack_from("<Q", data, at)[0])
        found.append(Place(at, end))
        at = end
    return found


@pytest.fixture(scope="module")
def official(data_dir: Path) -> bytes:
    """A file that google-research/bert wrote."""
    data = (data_dir / "golden" / "pretraining_data" / "sample_text_uncased.tfrecord").read_bytes()
    assert len(places_of(data)) == RECORDS
    return data


@pytest.fixture
def path(official: bytes, tmp_path: Path) -> Path:
    """A file to damage."""
    written = tmp_path / "part-0.tfrecord"
    written.write_bytes(official)
    return written


def contents(index: RecordIndex) -> list[bytes]:
    """Every whole record as it is read for training."""
    with open(index.path, "rb") as file:
        return [index.read(file, row) for row in range(len(index.offsets))]


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


Damage = Callable[[bytes, list[Place]], bytes]
CHECKSUM, LENGTH = "does not match its checksum", "has a length that does not match its checksum"
CUT, LOST = "is cut off by the end of the file", "has lost bytes"
DAMAGES: dict[str, tuple[Damage, int, str]] = {
    "data byte": (lambda data, at: flipped(data, at[7].begin + 300), 7, CHECKSUM),
    "data checksum": (lambda data, at: flipped(data, at[7].end - 2), 7, CHECKSUM),
    "length": (lambda data, at: flipped(data, at[7].begin), 7, LENGTH),
    "length that is huge": (lambda data, at: flipped(data, at[7].begin + 7), 7, LENGTH),
    "length checksum": (lambda data, at: flipped(data, at[7].begin + 9), 7, LENGTH),
    "length of the first": (lambda data, at: flipped(data, 1), 0, LENGTH),
    "length of the last": (lambda data, at: flipped(data, at[-1].begin + 3), RECORDS - 1, CUT),
    "header wiped out": (lambda data, at: data[: at[7].begin] + bytes(12) + data[at[7].begin + 12 :], 7, LENGTH),
    "all of it wiped out": (
        lambda data, at: data[: at[7].begin] + bytes(at[7].end - at[7].begin) + data[at[7].end :],
        7,
        LENGTH,
    ),
    "bytes lost inside": (lambda data, at: data[: at[7].begin + 200] + data[at[7].begin + 250 :], 7, LOST),
    "cut in the data": (lambda data, at: data[:-40], RECORDS - 1, CUT),
    "cut in the checksum": (lambda data, at: data[:-1], RECORDS - 1, CUT),
    "cut in the length": (lambda data, at: data[: at[-1].begin + 5], RECORDS - 1, CUT),
    "garbage appended": (lambda data, at: data + bytes(range(256)), RECORDS, CUT),
    "a line appended": (lambda data, at: data + b"done\n", RECORDS, CUT),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_one_damaged_record_costs_itself_alone(path: Path, official: bytes, tmp_path: Path, damage: str) -> None:
    whole = contents(open_index(path, tmp_path / "index"))
    change, record, reason = DAMAGES[damage]
    data = change(official, places_of(official))
    path.write_bytes(data)
    byte = len(official) if record == RECORDS else places_of(official)[record].begin
    named = f"{path} is damaged: record {record} at byte {byte} "
    with pytest.raises(BertJaxError) as stopped:
        open_index(path, tmp_path / "index")
    assert str(stopped.value).startswith(named) and "--data.max-bad-records" in str(stopped.value)
    index = open_index(path, tmp_path / "index", 1)
    assert contents(index) == whole[:record] + whole[record + 1 :]
    (bad,) = index.bad
    assert (bad.record, bad.byte, bad.most) == (record, byte, 1)
    assert bad.reason == reason or (reason == CUT and bad.reason == LENGTH and bad.byte + bad.bytes == len(data))
    with pytest.raises(BertJaxError, match="is damaged: record"):  # what is known of it does not make it allowed
        open_index(path, tmp_path / "index")
    assert [index.name(row) for row in range(len(index.offsets))] == [n for n in range(RECORDS) if n != record]


def test_all_of_a_record_is_guarded(path: Path, official: bytes) -> None:
    """Wherever in a record a bit is flipped it is found, and no other record is lost."""
    place = places_of(official)[3]
    short = official[: places_of(official)[6].end]
    for at in (*range(place.begin, place.begin + 16), *range(place.begin + 16, place.end, 23), place.end - 1):
        path.write_bytes(flipped(short, at))
        table, bad = records_index._make_tables(path, None)
        assert (len(table), bad[:, 0].tolist()) == (6, [3]), at


def test_empty_files_and_files_of_garbage(path: Path, tmp_path: Path) -> None:
    for most in (0, 5, None):
        path.write_bytes(b"")
        with pytest.raises(BertJaxError, match="holds no records: write it anew"):
            open_index(path, tmp_path / "index", most)
        path.write_bytes(bytes(range(256)) * 20)
        with pytest.raises(BertJaxError, match=r"holds no whole records|is damaged: record 0 at byte 0 "):
            open_index(path, tmp_path / "index", most)


def test_what_may_have_been_several_counts_as_several(path: Path, official: bytes, tmp_path: Path) -> None:
    """Four records wiped out, headers too: at most so many as the smallest whole one would fit."""
    places = places_of(official)
    begin, end = places[10].begin, places[13].end
    path.write_bytes(official[:begin] + bytes(end - begin) + official[end:])
    with pytest.raises(BertJaxError, match=r"record 10 at byte \d+ .* \(at most [4-7] records in [\d,]+ bytes\); that"):
        open_index(path, tmp_path / "index", 3)
    index = open_index(path, tmp_path / "index", 7)
    assert len(index.offsets) == RECORDS - 4
    assert 4 <= index.bad[0].most <= 7


def test_up_to_so_many_in_all_files(official: bytes, tmp_path: Path) -> None:
    places, paths = places_of(official), [tmp_path / f"part-{number}" for number in range(3)]
    for number, path in enumerate(paths):
        data = official
        for record in range(number):  # none, one, two
            data = flipped(data, places[5 + 2 * record].begin + 100)
        path.write_bytes(data)
    indices = open_indices(paths, tmp_path / "index", 3)
    assert [len(index.bad) for index in indices] == [0, 1, 2]
    assert [(one["file"], one["name"], one["record"]) for one in set_aside(indices)] == [
        (1, "part-1", 5),
        (2, "part-2", 5),
        (2, "part-2", 7),
    ]
    with pytest.raises(BertJaxError, match=r"part-2 is damaged: .* with 1 in the files before it more than"):
        open_indices(paths, tmp_path / "index", 2)
    with pytest.raises(BertJaxError, match=r"part-1 is damaged: record 5 at byte \d+ does not match its checksum; "):
        open_indices(paths, tmp_path / "index")


def test_what_was_set_aside_stays_so(path: Path, official: bytes, tmp_path: Path) -> None:
    places = places_of(official)
    path.write_bytes(flipped(official, places[7].begin + 100))
    begun = open_indices([path], tmp_path / "index", 1)
    fixed = json.loads(json.dumps(set_aside(begun)))

    def again() -> list[RecordIndex]:
        return open_indices([path], tmp_path / "index", 0, fixed)

    (same,) = again()
    assert same.fingerprint == begun[0].fingerprint and set_aside([same]) == fixed
    path.write_bytes(official)  # mended
    (mended,) = again()
    assert mended.fingerprint == begun[0].fingerprint
    assert set_aside([mended]) == fixed
    path.write_bytes(flipped(official, places[9].begin + 100))  # another one since
    with pytest.raises(BertJaxError, match=r"part-0.tfrecord was damaged since the run began: record 9 at byte \d+ "):
        again()
    path.write_bytes(official[: places[-1].begin])  # another file
    with pytest.raises(BertJaxError, match=r"is not the file that the run began with, whose record 7 at byte"):
        again()


def test_a_mended_end_is_another_file_if_more_came_after_it(path: Path, official: bytes, tmp_path: Path) -> None:
    places = places_of(official)
    path.write_bytes(official[: places[50].end - 10])
    fixed = set_aside(open_indices([path], tmp_path / "index", 1))
    path.write_bytes(official)
    with pytest.raises(BertJaxError, match="is not the file that the run began with, whose record 50 at byte"):
        open_indices([path], tmp_path / "index", 1, fixed)
    path.write_bytes(official[: places[50].end])
    (mended,) = open_indices([path], tmp_path / "index", 1, fixed)
    assert len(mended.offsets) == 50


def test_a_feed_without_the_damaged_ones(path: Path, official: bytes, tmp_path: Path) -> None:
    """Numbers, and so the order and the masks' keys, are of the whole records: the feed is that of a file without."""
    places = places_of(official)
    without = tmp_path / "without.tfrecord"
    without.write_bytes(official[: places[7].begin] + official[places[7].end :])
    path.write_bytes(flipped(official, places[7].begin))
    feed, expected = (
        make_records_feed(one, seed=3, index_dir=tmp_path / "index", max_bad_records=1) for one in (path, without)
    )
    assert feed.fingerprint == expected.fingerprint
    positions = np.arange(2 * (RECORDS - 1))
    found, wanted = feed.examples(positions), expected.examples(positions)
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    assert sorted(found["example_ids"][: RECORDS - 1].tolist()) == list(range(RECORDS - 1))
    assert (len(feed.set_aside), expected.set_aside) == (1, [])
    with open(path, "r+b") as file:  # and while training: the record's own number
        file.seek(places[20].begin + 100)
        file.write(b"\xff\xfe\xfd")
    with pytest.raises(BertJaxError, match=r"changed while in use: record 20 at byte"):
        feed.examples(positions)


def test_records_are_those_of_tensorflow(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of both official files, also when they are gone over in many small pieces."""
    tensorflow = tensorflow_on_cpu()
    for name in ("sample_text_uncased", "news_zh_chinese"):
        path = data_dir / "golden" / "pretraining_data" / f"{name}.tfrecord"
        expected = list(tensorflow.data.TFRecordDataset(str(path)).as_numpy_iterator())
        assert contents(open_index(path, tmp_path / "index")) == expected
        monkeypatch.setattr(records_index, "_READ_BYTES", 3_000)
        monkeypatch.setattr(record_frames, "_WINDOW", 100)
        assert contents(open_index(path, tmp_path / "other")) == expected


def test_checksums_against_those_tensorflow_writes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pieces = [random.bytes(int(size)) for size in [*range(20), *random.integers(0, 3000, 50)]]
    tensorflow = tensorflow_on_cpu()
    with tensorflow.io.TFRecordWriter(str(tmp_path / "written")) as writer:
        for piece in pieces:
            writer.write(piece)
    data = (tmp_path / "written").read_bytes()
    places = places_of(data)
    begins = np.array([place.begin + 12 for place in places])
    sizes = np.array([len(piece) for piece in pieces])
    expected = [struct.unpack_from("<I", data, place.end - 4)[0] for place in places]
    assert checksums(np.frombuffer(data, np.uint8), begins, sizes).tolist() == expected


def test_a_record_that_is_no_example_is_refused_before_it_costs_anything(path: Path, tmp_path: Path) -> None:
    tensorflow = tensorflow_on_cpu()
    with tensorflow.io.TFRecordWriter(str(path)) as writer:
        writer.write(b"a")
        writer.write(bytes(2 << 20))
    with pytest.raises(BertJaxError, match="record 1 has 2,097,152 bytes: expected records of create_pretraining_data"):
        open_index(path, tmp_path / "index")


def test_an_old_index_is_made_anew(path: Path, tmp_path: Path) -> None:
    index = open_index(path, tmp_path / "index")
    (stored,) = (tmp_path / "index").glob("*.npy")
    shutil.copy(stored, tmp_path / "kept")
    stored.write_bytes(b"")
    assert np.array_equal(open_index(path, tmp_path / "index").offsets, index.offsets)
    assert stored.read_bytes() == (tmp_path / "kept").read_bytes()
