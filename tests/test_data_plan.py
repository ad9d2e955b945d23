"""Plans are made once, checked when opened, made again when lost, and never half there."""

from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path

import numpy as np
import pytest
from data_stores import drawn_documents, lengths_store

from bert_jax.data import pairs, rows_file
from bert_jax.data.pairs import Walk
from bert_jax.data.plan import PlanKey, is_made, load_plan, open_plan, row_count
from bert_jax.data.spans import decode_rows
from bert_jax.data.store import Store, load_store
from bert_jax.errors import BertJaxError


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of 300 documents in three shards."""
    return lengths_store(tmp_path_factory.mktemp("plan") / "store", drawn_documents(300), shards=3)


def key(store: Store, folder: Path, variant: int = 0, **settings: object) -> PlanKey:
    return PlanKey(store, "train", Walk(**{"length": 64, **settings}), 1, variant, folder)  # type: ignore[arg-type]


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The variant of every plan that is made."""
    made: list[int] = []
    original = pairs.make_rows

    def counted(documents: object, walk: Walk, seed: int, variant: int) -> object:
        made.append(variant)
        return original(documents, walk, seed, variant)  # type: ignore[arg-type]

    monkeypatch.setattr(pairs, "make_rows", counted)
    return made


def test_holds_the_rows_and_their_sums(store: Store, tmp_path: Path, builds: list[int]) -> None:
    settings = {"length": 64, "seed": 1, "objective": "mlm+nsp", "short_share": 0.1, "cache_dir": tmp_path}
    found = load_plan(store, "train", variant=2, **settings)  # type: ignore[arg-type]
    again = load_plan(store, "train", variant=2, **settings)  # type: ignore[arg-type]
    assert builds == [2]
    rows = np.concatenate(list(pairs.make_rows(store.split("train"), Walk(64), 1, 2)))
    assert np.array_equal(found.rows, rows)
    assert np.array_equal(again.rows, rows)
    spans = decode_rows(rows)
    tokens = (spans.a1 - spans.a0 + spans.b1 - spans.b0 + 3).sum()
    assert found.summary == {"rows": len(rows), "random": int(spans.label.sum()), "tokens": int(tokens)}
    assert not found.rows.flags.writeable


def test_every_setting_has_its_own_file(store: Store, tmp_path: Path) -> None:
    other = lengths_store(tmp_path / "other", drawn_documents(5))
    keys = [key(store, tmp_path), key(store, tmp_path, 1), key(other, tmp_path), key(store, tmp_path, length=65)]
    keys += [key(store, tmp_path, objective="mlm"), key(store, tmp_path, short_share=0.2)]
    keys += [PlanKey(store, "eval", Walk(64), 1, 0, tmp_path), PlanKey(store, "train", Walk(64), 2, 0, tmp_path)]
    assert len({one.name for one in keys}) == len(keys)


def test_counting_makes_no_rows_and_survives_their_loss(store: Store, tmp_path: Path, builds: list[int]) -> None:
    one = key(store, tmp_path)
    count = row_count(one)
    assert not builds
    assert not is_made(one)
    assert len(open_plan(one).rows) == count
    assert is_made(one)
    one.rows_path.unlink()
    assert row_count(one) == count
    assert len(open_plan(one).rows) == count
    assert builds == [0, 0]


@pytest.mark.parametrize(
    "damage", ["rows byte", "rows cut", "rows longer", "rows gone", "header byte", "header cut", "count"]
)
def test_damage_costs_a_rebuild(store: Store, tmp_path: Path, builds: list[int], damage: str) -> None:
    one = key(store, tmp_path)
    rows = np.array(open_plan(one).rows)
    path = one.rows_path if damage.startswith("rows") else one.header_path
    data = bytearray(path.read_bytes())
    if damage.endswith("byte"):
        data[len(data) // 2] ^= 1
    elif damage.endswith("cut"):
        del data[-7:]
    elif damage.endswith("longer"):
        data += bytes(20)
    elif damage == "count":
        data = bytearray(bytes(data).replace(b'"rows": ', b'"rows": 1'))
    path.write_bytes(data)
    if damage.endswith("gone"):
        path.unlink()
    assert np.array_equal(open_plan(one).rows, rows)
    assert builds == [0, 0]
    assert np.array_equal(open_plan(one).rows, rows)
    assert builds == [0, 0]


def test_a_build_that_fails_leaves_nothing(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*arguments: object) -> object:
        yield np.zeros((3, 5), np.int32)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pairs, "make_rows", failing)
        with pytest.raises(BertJaxError, match="No space left on device"):
            open_plan(key(store, tmp_path))
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    assert len(open_plan(key(store, tmp_path)).rows)


def test_left_overs_of_a_killed_build_go(store: Store, tmp_path: Path) -> None:
    one = key(store, tmp_path)
    left_over = tmp_path / f".{one.rows_path.name}.abc.partial"
    left_over.write_bytes(b"half")
    open_plan(one)
    assert not left_over.exists()


def test_threads_make_a_plan_once(store: Store, tmp_path: Path, builds: list[int]) -> None:
    found: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: found.append(open_plan(key(store, tmp_path)).rows)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert builds == [0]
    assert len(found) == 4


def _open_elsewhere(store_path: Path, folder: Path) -> None:
    open_plan(key(load_store(store_path), folder))


def test_another_process_finds_it(store: Store, tmp_path: Path, builds: list[int]) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_open_elsewhere, args=(store.path, tmp_path))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    open_plan(key(store, tmp_path))
    assert not builds


def test_checksums_cover_parts_of_any_size(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces longer and shorter than a checked part give the same checksums as the file read in parts."""
    monkeypatch.setattr(rows_file, "_CHECKED_BYTES", 1_000)
    monkeypatch.setattr(pairs, "_BLOCK_SENTENCES", 30)
    one = key(store, tmp_path)
    assert len(open_plan(one).rows) > 100
    assert is_made(one)
