"""A store whose files change while it is read: named, or harmless because the mapping keeps what was opened."""

from __future__ import annotations

import collections
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_stores import lengths_store

from bert_jax.data import watch as module
from bert_jax.data.drivers import batches
from bert_jax.data.feed import make_feed
from bert_jax.data.packed_feed import Packing
from bert_jax.data.plan import load_plan
from bert_jax.data.store import Store, load_store
from bert_jax.errors import BertJaxError

LENGTH = 32
ALTERED = r"shards/00001/train\.tokens\.npy was altered while its store is in use, at 20.*: "
POSITIONS = np.arange(64)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two shards, alike in all sizes, of different tokens."""
    return lengths_store(tmp_path / "store", [[7, 9, 5, 8]] * 64, shards=2)


@pytest.fixture(autouse=True)
def _every_file_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROUND_SECONDS", 0.0)


def feed_of(store: Store, **settings: Any) -> Any:
    return make_feed(store, length=LENGTH, seed=3, plan_dir=store.path.parent / "plans", variants=1, **settings)


def tokens_of(store: Store, shard: int = 1) -> Path:
    return store.path / "shards" / f"{shard:05d}" / "train.tokens.npy"


def altered(data: bytes) -> bytes:
    return data[:-2] + bytes([data[-2] ^ 1]) + data[-1:]


def write_in_place(path: Path, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.write(data)


def write_beside_and_rename(path: Path, data: bytes) -> None:
    path.with_suffix(".new").write_bytes(data)
    path.with_suffix(".new").replace(path)


@pytest.mark.parametrize(("driver", "packing"), [("thread", None), ("thread", Packing(2)), ("tf", None)])
def test_a_flipped_byte_in_use_is_named(store: Store, driver: str, packing: Packing | None) -> None:
    feed = feed_of(store, packing=packing)
    with batches(feed, 0, None, 64, driver=driver, prefetch=1) as ready:
        next(ready)
        write_in_place(tokens_of(store), altered(tokens_of(store).read_bytes()))
        with pytest.raises(BertJaxError, match=ALTERED + r"its checksum is not the manifest's; .* remove checkpoints"):
            collections.deque(ready, maxlen=1)


@pytest.mark.parametrize("array", ["sentence_ends", "document_ends", "word_starts"])
def test_every_array_is_looked_after(store: Store, array: str) -> None:
    feed = feed_of(store)
    feed.examples(POSITIONS)
    path = tokens_of(store).with_name(f"train.{array}.npy")
    write_in_place(path, altered(path.read_bytes()))
    with pytest.raises(BertJaxError, match=rf"train\.{array}\.npy was altered"):
        feed.examples(POSITIONS)


def test_the_old_date_does_not_hide_it(store: Store) -> None:
    feed = feed_of(store)
    feed.examples(POSITIONS)
    before = tokens_of(store).stat()
    write_in_place(tokens_of(store), altered(tokens_of(store).read_bytes()))
    os.utime(tokens_of(store), ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(BertJaxError, match=ALTERED):
        feed.examples(POSITIONS)


def test_two_shards_swapped_in_place_are_named(store: Store) -> None:
    feed = feed_of(store)
    feed.examples(POSITIONS)
    one, other = tokens_of(store, 0).read_bytes(), tokens_of(store, 1).read_bytes()
    assert len(one) == len(other)
    write_in_place(tokens_of(store, 0), other)
    write_in_place(tokens_of(store, 1), one)
    with pytest.raises(BertJaxError, match=r"shards/00000/train\.tokens\.npy was altered"):
        feed.examples(POSITIONS)


def test_files_replaced_by_renaming_are_harmless_and_told_once(
    store: Store, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    feed = feed_of(store)
    expected = feed.examples(POSITIONS)
    for shard in (0, 1):
        write_beside_and_rename(tokens_of(store, shard), altered(tokens_of(store, shard).read_bytes()))
    for _ in range(3):
        found = feed.examples(POSITIONS)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    (told,) = [line for line in caplog.messages if "replaced or removed" in line]
    assert "shards/00000/train.tokens.npy was replaced or removed while its store is in use: going on with" in told
    with pytest.raises(BertJaxError, match=r"shards/00000/train\.tokens\.npy was altered: its checksum"):
        load_store(store.path).verify()  # as the next start does


def test_a_store_made_anew_at_the_same_path_is_not_read(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    feed = feed_of(store)
    expected = feed.examples(POSITIONS)
    shutil.rmtree(store.path)
    feed.examples(POSITIONS)  # removed, and not yet there again
    anew = lengths_store(store.path, [[8, 9, 5, 7]] * 64, shards=2)
    assert anew.fingerprint != store.fingerprint
    found = feed.examples(POSITIONS)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert sum("was replaced or removed" in line for line in caplog.messages) == 1


def test_replaced_before_it_was_mapped_it_is_never_read(store: Store) -> None:
    """Between the comparison of checksums and the first batch."""
    feed = feed_of(store)
    store.verify()
    feed.plan(0)  # maps the ends, not the tokens
    write_beside_and_rename(tokens_of(store), altered(tokens_of(store).read_bytes()))
    with pytest.raises(BertJaxError, match=ALTERED):
        feed.examples(POSITIONS)
    tokens_of(store).unlink()
    with pytest.raises(BertJaxError, match=r"00001/train\.tokens\.npy was removed while its store is in use"):
        feed_of(store).examples(POSITIONS)


def test_a_file_that_grew_is_named(store: Store) -> None:
    feed = feed_of(store)
    feed.examples(POSITIONS)
    with open(tokens_of(store), "ab") as file:
        file.write(b"\0\0")
    with pytest.raises(BertJaxError, match=ALTERED + r"it has [\d,]+ bytes, not [\d,]+; restore it"):
        feed.examples(POSITIONS)


def test_a_file_cut_short_is_named_where_it_is_looked_at_first(store: Store) -> None:
    feed = feed_of(store)
    feed.examples(POSITIONS)
    os.truncate(tokens_of(store), 300)
    with pytest.raises(BertJaxError, match=ALTERED + r"it has 300 bytes, not [\d,]+; restore it"):
        feed.examples(POSITIONS)


_CUT_SHORT_UNSEEN = """
import os, sys
import numpy as np
from pathlib import Path
from bert_jax.data.feed import make_feed
from bert_jax.data.store import load_store
store = load_store(sys.argv[1])
feed = make_feed(store, length=32, seed=3, plan_dir=Path(sys.argv[2]), variants=1)
feed.examples(np.arange(64))
os.truncate(store.path / "shards" / "00001" / "train.tokens.npy", 0)
store.split("train").look = lambda: None
feed.examples(np.arange(64))
print("trained on it")
"""


def test_a_file_cut_short_and_read_before_it_is_looked_at_ends_the_process(store: Store, tmp_path: Path) -> None:
    """What the description promises of the worst case: a crash, never other tokens."""
    command = [sys.executable, "-c", _CUT_SHORT_UNSEEN, str(store.path), str(tmp_path / "plans")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout) == (-7, ""), ended.stderr  # SIGBUS


def test_what_only_looks_new_goes_on(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    feed = feed_of(store)
    before = feed.examples(POSITIONS)
    os.utime(tokens_of(store, 0))
    write_beside_and_rename(tokens_of(store, 1), tokens_of(store, 1).read_bytes())
    os.chmod(tokens_of(store, 0).with_name("train.sentence_ends.npy"), 0o600)
    after = feed.examples(POSITIONS)
    assert set(after) == set(before)
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array, err_msg=name)


def test_no_plan_is_kept_of_a_store_altered_meanwhile(store: Store, tmp_path: Path) -> None:
    path = tokens_of(store, 0).with_name("train.sentence_ends.npy")
    good = path.read_bytes()
    data = np.frombuffer(good, np.uint8).copy()
    data[-8 * 20] += 1  # one sentence is a token longer
    write_in_place(path, data.tobytes())
    with pytest.raises(BertJaxError, match=r"train\.sentence_ends\.npy was altered"):
        load_plan(store, "train", length=LENGTH, seed=0, variant=0, cache_dir=tmp_path / "plans")
    with pytest.raises(BertJaxError, match=r"train\.sentence_ends\.npy was altered"):
        feed_of(store)  # which counts the rows
    assert not list((tmp_path / "plans").glob("plan-*.[jr]*"))
    write_in_place(path, good)
    load_plan(store, "train", length=LENGTH, seed=0, variant=0, cache_dir=tmp_path / "plans")


def test_each_file_is_looked_at_about_once_in_a_round(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = lengths_store(tmp_path / "many", [[7, 9, 5, 8]] * 64, shards=16).split("train")
    looked: list[str] = []
    stat = os.stat
    monkeypatch.setattr(module.os, "stat", lambda path, **more: looked.append(str(path)) or stat(path, **more))
    now = [time.monotonic()]
    monkeypatch.setattr(module, "_ROUND_SECONDS", 60.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    many.look()
    looked.clear()
    for _ in range(60):
        now[0] += 1.0
        many.look()
    assert 64 <= len(looked) <= 120 and len(set(looked)) == 64
    looked.clear()
    now[0] += 3600  # a step that takes an hour: everything once
    many.look()
    assert sorted(set(looked)) == sorted(looked) and len(looked) == 64


def test_a_look_costs_next_to_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROUND_SECONDS", 60.0)
    split = store.split("train")
    split.look()
    begun = time.perf_counter()
    for _ in range(1000):
        split.look()
    assert (time.perf_counter() - begun) / 1000 < 2e-4  # about 5e-6 where nothing else runs; a chunk takes 7e-3
