"""Digests of leaves, and the record of a step."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bert_jax.errors import BertJaxError
from bert_jax.train.digests import (
    RECORD_FILE,
    RECORD_FOLDER,
    Damaged,
    digests_of,
    leaves_by_path,
    make_record,
    means_damage,
    read_record,
)


def test_digest_is_the_same_on_every_mesh() -> None:
    array = jax.random.normal(jax.random.key(0), (16, 24))
    whole = digests_of({"a": array})
    for shape, spec in (
        ((8, 1), ("x", None)),
        ((2, 4), ("x", "y")),
        ((2, 4), (("x", "y"), None)),
        ((4, 2), (None, "y")),
    ):
        mesh = jax.make_mesh(shape, ("x", "y"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
        placed = jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))
        assert digests_of({"a": placed}) == whole


@pytest.mark.parametrize("dtype", ["float32", "int32", "bfloat16", "float16", "int8", "uint8", "bool"])
def test_digest_sees_every_bit_and_every_place(dtype: str) -> None:
    array = np.zeros((4, 6), jnp.dtype(dtype))
    array[1, 2] = 1
    one = digests_of({"a": jnp.asarray(array)})["a"]
    moved = np.roll(array, 1, axis=1)
    last_bit = array.copy()
    last_bit.view(np.uint8).reshape(-1)[0] ^= 1
    assert len({one, digests_of({"a": moved})["a"], digests_of({"a": last_bit})["a"]}) == 3


def test_digest_tells_minus_zero_from_zero_and_nans_apart() -> None:
    values = np.array([0.0, -0.0], np.float32)
    assert digests_of({"a": values})["a"] != digests_of({"a": values[::-1].copy()})["a"]
    nan = np.array([np.nan, 1], np.float32)
    assert digests_of({"a": nan}) == digests_of({"a": nan.copy()})


def test_digest_of_swapped_values_differs() -> None:
    values = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    swapped = values.copy()
    swapped[[3, 40]] = swapped[[40, 3]]
    assert digests_of({"a": values}) != digests_of({"a": swapped})


def _written(folder: Path) -> Path:
    record = make_record(7, leaves_by_path({"params": {"a": jnp.ones(3)}}), {"sequences_seen": 5, "x": 0.1}, 0.25)
    (folder / RECORD_FOLDER).mkdir(parents=True)
    path = folder / RECORD_FOLDER / RECORD_FILE
    path.write_text(json.dumps(record))
    return path


def test_record_reads_back(tmp_path: Path) -> None:
    _written(tmp_path)
    record = read_record(tmp_path)
    assert (record["step"], record["score"], record["counters"]) == (7, 0.25, {"sequences_seen": 5, "x": 0.1})
    assert record["leaves"]["params/a"]["shape"] == [3]


def test_every_altered_byte_of_a_record_is_damage(tmp_path: Path) -> None:
    path = _written(tmp_path)
    text = path.read_bytes()
    blank = 0
    for place in range(len(text)):
        altered = bytearray(text)
        altered[place] ^= 1
        path.write_bytes(bytes(altered))
        try:
            assert read_record(tmp_path) is not None
            blank += 1  # only where JSON ignores it
        except Damaged:
            pass
    assert blank == 0


def test_a_record_of_the_future_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _written(tmp_path)
    monkeypatch.setattr("bert_jax.train.digests.RECORD_FORMAT", 0)
    with pytest.raises(BertJaxError, match=r"digests.json has format 1, this version reads 0: install a newer"):
        read_record(tmp_path)


@pytest.mark.parametrize(
    ("error", "damage"),
    [
        (ValueError("DATA_LOSS: checksum"), True),
        (FileNotFoundError(errno.ENOENT, "No such file"), True),
        (json.JSONDecodeError("x", "y", 0), True),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (OSError(errno.EMFILE, "Too many open files"), False),
        (OSError(errno.EIO, "Input/output error"), False),
        (MemoryError(), False),
        (ConnectionError(), False),
        (ValueError("PERMISSION_DENIED: Error opening"), False),
        (ValueError("NOT_FOUND: Error reading [os_error_code='116', os_error='Stale file handle']"), False),
        (ValueError("NOT_FOUND: Error opening [os_error_code='2', os_error='No such file or directory']"), True),
        (ValueError("Error reading: Connection timed out"), False),
        (ValueError("CURL error[28] Timeout was reached"), False),
        (ValueError("Transport endpoint is not connected"), False),
        (ValueError("Error reading: Host is down"), False),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), False),
        (RuntimeError("anything else"), False),
        (ExceptionGroup("reads", [ValueError("DATA_LOSS"), PermissionError(errno.EACCES, "no")]), False),
    ],
)
def test_damage_is_told_from_a_failing_machine(error: BaseException, damage: bool) -> None:
    assert means_damage(error) is damage


def test_a_cause_counts() -> None:
    error = ValueError("cannot read")
    error.__cause__ = PermissionError(errno.EACCES, "no")
    assert not means_damage(error)
