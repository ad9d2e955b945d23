"""Token stores on disk: what is written is what is read, over any number of shards, and damage is named."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_jax.data.shard import ShardWriter
from bert_jax.data.store import Store, load_store, verify_once, write_store
from bert_jax.errors import BertJaxError
from bert_jax.files import sha256


class Tokenizer:
    """As much of a tokenizer as a store needs: a word's id is its length."""

    kind = "words"
    cased = True
    fingerprint = "f" * 64

    def __init__(self, vocab_size: int = 100):
        self.vocab_size = vocab_size

    def ids_and_word_starts(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        ids = np.array([len(word) for word in text.split()], np.int32)
        return ids, ids % 2 == 0

    def save(self, directory: Path) -> None:
        directory.mkdir()
        (directory / "vocab.txt").write_text("\n".join(map(str, range(self.vocab_size))))


def random_documents(count: int = 200, vocab_size: int = 100, seed: int = 0) -> list[list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [[rng.integers(0, vocab_size, rng.integers(1, 20)) for _ in range(rng.integers(1, 8))] for _ in range(count)]


def read_back(store: Store, split: str) -> list[list[list[int]]]:
    """All documents of a split as lists of sentences of ids, by the description of the format alone."""
    documents = []
    for shard in store.split(split).shards:
        token = sentence = 0
        for document_end in shard.document_ends.tolist():
            document = []
            for end in shard.sentence_ends[sentence:document_end].tolist():
                document.append(shard.tokens[token:end].tolist())
                token = end
            sentence = document_end
            documents.append(document)
        assert (token, sentence) == (len(shard.tokens), len(shard.sentence_ends))
    return documents


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return write_store(tmp_path / "store", random_documents(), Tokenizer(), eval_fraction=0.2, shards=3)


def test_documents_come_back_and_are_split_by_their_text(store: Store, tmp_path: Path) -> None:
    expected = [[sentence.tolist() for sentence in document] for document in random_documents()]
    found = read_back(store, "train") + read_back(store, "eval")
    assert sorted(found) == sorted(expected)
    assert 20 < store.split("eval").documents < 60
    backwards = write_store(tmp_path / "back", random_documents()[::-1], Tokenizer(), eval_fraction=0.2, shards=2)
    assert sorted(read_back(backwards, "eval")) == sorted(read_back(store, "eval"))


def test_counts_and_offsets_agree_with_the_arrays(store: Store) -> None:
    for name in ("train", "eval"):
        split = store.split(name)
        assert split.tokens == sum(len(shard.tokens) for shard in split.shards) == split.token_offsets[-1]
        assert split.sentences == sum(len(shard.sentence_ends) for shard in split.shards) == split.sentence_offsets[-1]
        assert split.documents == sum(len(shard.document_ends) for shard in split.shards) == split.document_offsets[-1]
        assert store.manifest[name]["tokens"] == split.tokens


def test_files_are_plain_numpy_arrays(store: Store) -> None:
    shard = store.split("train").shards[1]
    tokens = np.load(store.path / "shards" / "00001" / "train.tokens.npy", allow_pickle=False)
    assert tokens.dtype == np.uint16
    np.testing.assert_array_equal(tokens, shard.tokens)
    ends = np.load(store.path / "shards" / "00001" / "train.sentence_ends.npy", allow_pickle=False)
    assert ends.dtype == np.int64
    assert not shard.tokens.flags.writeable


def test_flat_memory_gathers_across_shards(tmp_path: Path) -> None:
    documents = [[f"{'a' * (1 + index % 9)} bb ccc" for index in range(start, start + 3)] for start in range(50)]
    store = write_store(tmp_path / "store", documents, Tokenizer(), shards=4)
    split = store.split("train")
    every = np.arange(split.tokens)
    tokens = split.token_memory[split.token_addresses(every)]
    np.testing.assert_array_equal(tokens, np.concatenate([shard.tokens for shard in split.shards]))
    bits = split.word_start_addresses(every)
    starts = split.word_start_memory[bits >> 3] >> (bits & 7) & 1
    np.testing.assert_array_equal(starts, tokens % 2 == 0)
    # A segment's addresses follow each other: one look-up per segment is enough.
    shape = split.token_addresses(np.array([[0, 5], [split.tokens - 1, 9]]))
    assert shape.shape == (2, 2)


def test_memory_outlives_the_store(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", random_documents(), Tokenizer())
    tokens = store.split("train").shards[0].tokens
    expected = tokens.copy()
    del store
    np.testing.assert_array_equal(tokens, expected)


def test_large_vocabularies_take_four_bytes(tmp_path: Path) -> None:
    for size, dtype in ((65_536, np.uint16), (65_537, np.uint32)):
        store = write_store(tmp_path / str(size), [[np.array([size - 1, 0])]], Tokenizer(size))
        tokens = store.split("train").shards[0].tokens
        assert (tokens.dtype, tokens.tolist()) == (dtype, [size - 1, 0])


def test_streaming_in_many_pieces_equals_writing_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_store(tmp_path / "once", random_documents(), Tokenizer())
    monkeypatch.setattr("bert_jax.data.shard._FLUSH_TOKENS", 13)
    write_store(tmp_path / "pieces", random_documents(), Tokenizer())
    files = [path.relative_to(tmp_path / "once") for path in (tmp_path / "once").rglob("*") if path.is_file()]
    assert len(files) == 10
    for file in files:
        assert (tmp_path / "once" / file).read_bytes() == (tmp_path / "pieces" / file).read_bytes(), file


def test_a_batch_of_documents_equals_one_by_one(tmp_path: Path) -> None:
    records = []
    for name, at_once in (("a", True), ("b", False)):
        (tmp_path / name).mkdir()
        with ShardWriter(tmp_path / name, 100) as writer:
            if at_once:
                writer.add("train", np.arange(6), [1, 2, 3], np.arange(6) > 2, [1, 2])
            else:
                writer.add("train", np.arange(1), [1], np.zeros(1, bool))
                writer.add("train", np.arange(1, 6), [2, 3], np.arange(1, 6) > 2)
            records.append(writer.finish())
    assert records[0] == records[1]


def test_the_fingerprint_is_of_the_content(store: Store, tmp_path: Path) -> None:
    moved = load_store(shutil.move(store.path, tmp_path / "moved"))
    assert moved.fingerprint == store.fingerprint
    other = write_store(tmp_path / "other", random_documents(seed=1), Tokenizer(), eval_fraction=0.2, shards=3)
    assert other.fingerprint != store.fingerprint
    unsegmented = write_store(
        tmp_path / "none", random_documents(), Tokenizer(), eval_fraction=0.2, shards=3, word_starts="none"
    )
    assert unsegmented.fingerprint != store.fingerprint


def test_word_starts_say_where_they_come_from(tmp_path: Path) -> None:
    found = {}
    for word_starts in ("pieces", "segmenter:jieba 0.42.1", "none"):
        store = write_store(tmp_path / word_starts[:4], random_documents(3), Tokenizer(), word_starts=word_starts)
        found[store.word_starts] = (store.has_word_starts, store.segmenter)
    assert found == {
        "pieces": (True, None),
        "segmenter:jieba 0.42.1": (True, "jieba 0.42.1"),
        "none": (False, None),
    }


def test_a_store_does_not_replace_what_is_there(store: Store) -> None:
    with pytest.raises(BertJaxError, match="exists and is not empty"):
        write_store(store.path, random_documents(), Tokenizer())


# --- damage -----------------------------------------------------------------------------------------------------------


def change_manifest(store: Store, change: Any) -> None:
    path = store.path / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def one_line(error: pytest.ExceptionInfo[BertJaxError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_missing_shard_is_named(store: Store) -> None:
    (store.path / "shards" / "00001" / "eval.sentence_ends.npy").unlink()
    with pytest.raises(BertJaxError, match=r"shards/00001/eval\.sentence_ends\.npy is missing") as error:
        load_store(store.path)
    one_line(error)


def test_a_truncated_shard_is_named(store: Store) -> None:
    path = store.path / "shards" / "00002" / "train.tokens.npy"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(BertJaxError, match=r"shards/00002/train\.tokens\.npy is truncated: [\d,]+ bytes, expected"):
        load_store(store.path)


def test_a_file_that_shrinks_after_loading_is_an_error_and_no_crash(store: Store) -> None:
    path = store.path / "shards" / "00002" / "train.tokens.npy"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(BertJaxError, match="bytes: expected"):
        _ = store.split("train").token_memory


def test_an_altered_byte_is_found_by_verify_only(store: Store) -> None:
    store.verify()
    path = store.path / "shards" / "00000" / "train.word_starts.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BertJaxError, match=r"shards/00000/train\.word_starts\.npy was altered") as error:
        load_store(store.path).verify()
    one_line(error)
    load_store(store.path).verify("eval")
    with pytest.raises(BertJaxError, match=r"train\.word_starts\.npy was altered"):
        load_store(store.path).verify("train")


def test_a_store_is_read_once_and_again_when_a_file_changed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    monkeypatch.setattr("bert_jax.data.store.sha256", lambda path: read.append(path) or sha256(path))
    verify_once(store, tmp_path)
    files = len(read)
    verify_once(load_store(store.path), tmp_path)
    assert len(read) == files  # by size and times the same files: not read again
    path = store.path / "shards" / "00000" / "eval.tokens.npy"
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # its old date hides nothing
    for split in ("eval", None):
        with pytest.raises(BertJaxError, match="00000/eval.tokens.npy was altered"):
            verify_once(load_store(store.path), tmp_path, split)
    verify_once(load_store(store.path), tmp_path, "train")


@pytest.mark.parametrize("alike", [False, True], ids=["of other sizes", "of the same sizes"])
def test_swapped_shards_are_named(tmp_path: Path, alike: bool) -> None:
    documents = [[np.arange(9 if alike or index % 2 else 5) + index] for index in range(20)]
    store = write_store(tmp_path / "store", documents, Tokenizer(), shards=2)
    verify_once(store, tmp_path)
    one, other = (store.path / "shards" / f"0000{shard}" / "train.tokens.npy" for shard in (0, 1))
    os.utime(other, ns=(one.stat().st_atime_ns, one.stat().st_mtime_ns))
    one.rename(tmp_path / "kept")
    other.rename(one)
    (tmp_path / "kept").rename(other)
    message = r"00000/train\.tokens\.npy " + ("was altered: its checksum" if alike else "is of another store: ")
    with pytest.raises(BertJaxError, match=message):
        verify_once(load_store(store.path), tmp_path)


def test_the_manifest_of_another_store_of_the_same_sizes_is_refused(tmp_path: Path) -> None:
    stores = [
        write_store(tmp_path / f"{first}", [[np.arange(9) + first + index] for index in range(20)], Tokenizer())
        for first in (0, 1)
    ]
    verify_once(stores[0], tmp_path)
    shutil.copy(stores[1].path / "manifest.json", stores[0].path)
    with pytest.raises(BertJaxError, match=r"0/shards/00000/train\.tokens\.npy was altered: its checksum"):
        verify_once(load_store(stores[0].path), tmp_path)


def test_a_note_that_cannot_be_written_or_read_is_none(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    verify_once(store, tmp_path / "file")  # no folder to write to: read, and not noted
    assert list(tmp_path.glob("**/verified-*")) == []
    verify_once(store, tmp_path)
    (note,) = tmp_path.glob("verified-*")
    written = note.read_text()
    note.write_text("{")
    verify_once(store, tmp_path)
    assert note.read_text() == written


def test_the_manifest_of_another_store_is_refused(store: Store, tmp_path: Path) -> None:
    other = write_store(tmp_path / "other", random_documents(seed=5), Tokenizer(), eval_fraction=0.2, shards=3)
    shutil.copy(other.path / "manifest.json", store.path / "manifest.json")
    with pytest.raises(BertJaxError, match=r"shards/00000/train\..* is (truncated|of another store)"):
        load_store(store.path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(version=99), "has version 99: expected 1"),
        (lambda m: m.update(format="x"), "is not the manifest of a token store"),
        (lambda m: m["shards"].pop(), "does not match its own fingerprint"),
        (lambda m: m["tokenizer"].update(vocab_size=99), "does not match its own fingerprint"),
        (lambda m: m.update(word_starts="none"), "does not match its own fingerprint"),
        (lambda m: m["shards"][0].update(name="../../elsewhere"), r"names the file .*elsewhere.*inside the store"),
        (lambda m: m["tokenizer"]["files"].update({"/etc/x": {"bytes": 1, "sha256": ""}}), "inside the store"),
        (lambda m: m["shards"][0]["train"].update(tokens=1), r"damaged: shard 00000, train\.tokens\.npy"),
        (lambda m: m.pop("shards"), "is damaged"),
        (lambda m: m["shards"][0]["files"].clear(), "is damaged"),
        (lambda m: m.update(shards=3), "is damaged"),
        (lambda m: m["tokenizer"].update(vocab_size="many"), "is damaged"),
    ],
)
def test_a_changed_manifest_is_refused(store: Store, change: Any, message: str) -> None:
    change_manifest(store, change)
    with pytest.raises(BertJaxError, match=message) as error:
        load_store(store.path)
    one_line(error)


def test_what_is_no_store_says_so(tmp_path: Path, store: Store) -> None:
    with pytest.raises(BertJaxError, match="is not a token store"):
        load_store(tmp_path / "nothing")
    (tmp_path / ".half.partial").mkdir()
    with pytest.raises(BertJaxError, match="unfinished one lies beside it"):
        load_store(tmp_path / "half")
    with pytest.raises(BertJaxError, match="no split 'test'"):
        store.split("test")
    (store.path / "manifest.json").write_text("{")
    with pytest.raises(BertJaxError, match="is not JSON"):
        load_store(store.path)
