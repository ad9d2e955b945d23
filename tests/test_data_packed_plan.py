"""Plans of packed rows: kept and lost like plans, counted without being made, packed in blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_stores import drawn_documents, lengths_store

from bert_jax.data import packed_plan, packing, rows_file
from bert_jax.data.packed_plan import PackedKey, example_lengths
from bert_jax.data.pairs import Walk
from bert_jax.data.plan import PlanKey, open_plan
from bert_jax.data.spans import decode_rows
from bert_jax.data.store import Store
from bert_jax.errors import BertJaxError


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of 300 documents in three shards."""
    return lengths_store(tmp_path_factory.mktemp("packed") / "store", drawn_documents(300), shards=3)


def key(store: Store, folder: Path, most: int = 4, variant: int = 0, **settings: object) -> PackedKey:
    walk = Walk(**{"length": 64, **settings})  # type: ignore[arg-type]
    return PackedKey(PlanKey(store, "train", walk, 1, variant, folder), most)


@pytest.mark.parametrize("objective", ["mlm+nsp", "mlm", "mlm+sop"])
def test_rows_of_the_plans_examples(store: Store, tmp_path: Path, objective: str) -> None:
    one = key(store, tmp_path, objective=objective)
    rows, sums = one.open()
    plan = open_plan(one.plan)
    lengths = example_lengths(plan.rows)
    spans = decode_rows(plan.rows)
    assert np.array_equal(lengths, spans.a1 - spans.a0 + spans.b1 - spans.b0 + (2 if objective == "mlm" else 3))
    assert np.array_equal(np.sort(rows[rows >= 0]), np.arange(len(plan.rows)))
    tokens = np.where(rows >= 0, lengths[rows], 0).sum(axis=1)
    assert tokens.max() <= 64
    assert sums == {"rows": len(rows), "examples": len(plan.rows), "tokens": int(tokens.sum())}
    assert len(rows) < 0.95 * len(plan.rows)
    assert not rows.flags.writeable


def test_counting_needs_no_plan_and_agrees(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_plan, "_BLOCK_EXAMPLES", 150)
    one = key(store, tmp_path)
    count = one.row_count()
    assert not list(tmp_path.glob("*.rows"))
    assert not one.is_made()
    assert len(one.open()[0]) == count
    assert one.is_made()
    one.file.header_path.unlink()
    assert one.row_count() == count  # now from the plan that is there


def test_blocks_are_packed_by_themselves(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_plan, "_BLOCK_EXAMPLES", 100)
    one = key(store, tmp_path)
    rows, sums = one.open()
    assert np.array_equal(np.sort(rows[rows >= 0]), np.arange(sums["examples"]))
    block = np.where(rows >= 0, rows // 100, rows[:, :1] // 100)
    assert (block == block[:, :1]).all()
    assert len(np.unique(block)) == -(-sums["examples"] // 100) > 3
    assert one.block_rows() == len(rows) * 100 // sums["examples"]


def test_every_setting_has_its_own_file(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [key(store, tmp_path), key(store, tmp_path, 5), key(store, tmp_path, 4, 1), key(store, tmp_path, length=65)]
    names = {one.file.name for one in keys}
    monkeypatch.setattr(packing, "VERSION", packing.VERSION + 1)
    names.add(key(store, tmp_path).file.name)
    assert len(names) == len(keys) + 1


@pytest.mark.parametrize("damage", ["byte", "cut", "gone", "plan gone"])
def test_damage_costs_a_rebuild(store: Store, tmp_path: Path, damage: str) -> None:
    one = key(store, tmp_path)
    rows = np.array(one.open()[0])
    path = one.plan.rows_path if damage == "plan gone" else one.file.rows_path
    data = bytearray(path.read_bytes())
    if damage == "byte":
        data[len(data) // 2] ^= 1
    path.write_bytes(data[:-7] if damage == "cut" else data)
    if damage.endswith("gone"):
        path.unlink()
        assert not one.is_made()
    assert np.array_equal(one.open()[0], rows)


def test_a_full_disk_leaves_nothing(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*arguments: object) -> object:
        raise OSError(28, "No space left on device")

    one = key(store, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(packing, "plan_rows", failing)
        with pytest.raises(BertJaxError, match="No space left on device"):
            one.open()
    assert not list(tmp_path.glob("packed-*.rows"))
    assert not one.is_made()
    assert len(one.open()[0])


def test_more_rows_than_can_be_numbered(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_file, "MAX_ROWS", 10)
    with pytest.raises(BertJaxError, match="a plan of more than 10 examples is not possible"):
        key(store, tmp_path).open()
