"""What a saved step says about itself: a digest of every leaf, the loop's counters, a checksum over all that.

A digest is computed on the device from the bits and the global index of every word, by sums modulo 2^32, so it is the
same on every mesh and needs no leaf in one place. Here too is the rule that tells damage from a failing machine.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from bert_jax import files
from bert_jax.errors import BertJaxError

RECORD_FORMAT = 1
RECORD_FOLDER, RECORD_FILE = "record", "digests.json"

Leaves = dict[str, Any]


class Damaged(Exception):
    """A step whose files cannot be read back as they were written."""


def leaves_by_path(tree: Any) -> Leaves:
    """The leaves of a tree by their path, `params/encoder/layer_0/…`."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


def _words(leaf: jax.Array) -> jax.Array:
    """The bits of a leaf as uint32, in its own shape (64-bit numbers with one more axis of two)."""
    size = leaf.dtype.itemsize
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint32)
    if size >= 4:
        return jax.lax.bitcast_convert_type(leaf, jnp.uint32)
    return jax.lax.bitcast_convert_type(leaf, {1: jnp.uint8, 2: jnp.uint16}[size]).astype(jnp.uint32)


def _scramble(value: jax.Array, first: int, second: int) -> jax.Array:
    value = (value ^ (value >> 16)) * jnp.uint32(first)
    value = (value ^ (value >> 15)) * jnp.uint32(second)
    return value ^ (value >> 16)


def _leaf_digest(leaf: jax.Array) -> jax.Array:
    """Two uint32 sums over scrambled (word, global index) pairs: no reshape, so no leaf is ever gathered."""
    words = _words(leaf)
    index = jnp.zeros(words.shape, jnp.uint32)
    for axis in range(words.ndim):
        stride = math.prod(words.shape[axis + 1 :]) % 2**32
        index = index + jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * jnp.uint32(stride)
    one = _scramble(words + index * jnp.uint32(0x9E3779B1) + jnp.uint32(1), 0x85EBCA6B, 0xC2B2AE35)
    two = _scramble(words * jnp.uint32(0x27D4EB2F) ^ (index + jnp.uint32(0x165667B1)), 0x7FEB352D, 0x846CA68B)
    return jnp.stack([jnp.sum(one, dtype=jnp.uint32), jnp.sum(two, dtype=jnp.uint32)])


@functools.cache
def _make_all_digests(mesh: jax.sharding.Mesh | None) -> Callable[[list[jax.Array]], jax.Array]:
    """Compiled once per mesh; every process gets the whole answer."""
    everywhere = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    return jax.jit(lambda leaves: jnp.stack([_leaf_digest(leaf) for leaf in leaves]), out_shardings=everywhere)


def digests_of(leaves: Mapping[str, jax.Array]) -> dict[str, str]:
    """Hex digest of every leaf, equal on every mesh; computed on the device, one small transfer."""
    shardings = [getattr(leaf, "sharding", None) for leaf in leaves.values()]
    mesh = next((sharding.mesh for sharding in shardings if isinstance(sharding, NamedSharding)), None)
    rows = np.asarray(jax.device_get(_make_all_digests(mesh)(list(leaves.values()))))
    return {path: f"{one:08x}{two:08x}" for path, (one, two) in zip(leaves, rows.tolist(), strict=True)}


def structure_of(leaves: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
    return {path: (tuple(leaf.shape), str(leaf.dtype)) for path, leaf in leaves.items()}


def make_record(
    step: int, leaves: Leaves, counters: Mapping[str, Any], score: float | None, phase: int = 0
) -> dict[str, Any]:
    digests = digests_of(leaves)
    body = {
        "format": RECORD_FORMAT,
        "step": step,
        "score": score,
        "phase": phase,
        "counters": files.finite(counters),
        "leaves": {
            path: {"shape": list(shape), "dtype": dtype, "digest": digests[path]}
            for path, (shape, dtype) in structure_of(leaves).items()
        },
    }
    return {"checksum": files.digest(body), **body}


def amend_record(directory: Path, **changed: Any) -> None:
    """Put other values into the record of a step that is whole, atomically; its arrays stay.

    Errors: as of `read_record`, and `BertJaxError` when it cannot be written.
    """
    body = files.finite(read_record(directory) | changed)
    files.write_json(directory / RECORD_FOLDER / RECORD_FILE, {"checksum": files.digest(body), **body})


def read_record(directory: Path) -> dict[str, Any]:
    """The record of a step's directory.

    Errors: `Damaged` when it is missing or not what was written; `BertJaxError` for a format of the future.
    """
    path = directory / RECORD_FOLDER / RECORD_FILE
    try:
        with damage_if_unreadable():
            record = dict(files.parse_json(path.read_bytes().decode("utf-8")))
            checksum = record.pop("checksum")
    except Damaged as damage:
        raise Damaged(f"{path.name}: {damage}") from damage
    if files.digest(record) != checksum:
        raise Damaged(f"{path.name}: its checksum is {files.digest(record)[:12]}, not {str(checksum)[:12]} as written")
    if not isinstance(record.get("format"), int) or not isinstance(record.get("score", ""), int | float | None):
        raise Damaged(f"{path.name}: format {record.get('format')!r} and score {record.get('score')!r} are none")
    if record["format"] > RECORD_FORMAT:
        raise BertJaxError(
            f"{path} has format {record['format']}, this version reads {RECORD_FORMAT}: install a newer bert_jax"
        )
    return record


# How tensorstore and XLA spell failures of the machine rather than of the data.
_MACHINE = re.compile(
    "PERMISSION_DENIED|RESOURCE_EXHAUSTED|UNAVAILABLE|DEADLINE_EXCEEDED|UNAUTHENTICATED|CANCELLED|ABORTED"
    "|Permission denied|Operation not permitted|Cannot allocate|Too many open files|No space left|Input/output error"
    "|[Tt]imed? ?out|CURL error|Stale file handle|Connection (reset|refused|aborted)|not connected|unreachable"
    "|Host is down|Remote I/O error"
)
_ERROR_CODE = re.compile(r"os_error_code='(\d+)'")
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and everything it was raised from or groups."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        this = waiting.pop()
        if this is None or id(this) in seen:
            continue
        seen.add(id(this))
        yield this
        waiting += [this.__cause__, this.__context__]
        if isinstance(this, BaseExceptionGroup):
            waiting += this.exceptions


def means_damage(error: BaseException) -> bool:
    """Whether an error while reading says that the data is not what was written, rather than that reading failed."""
    for this in _chain(error):
        if isinstance(this, MemoryError | ConnectionError | TimeoutError) or _MACHINE.search(str(this)):
            return False
        if isinstance(this, OSError) and this.errno is not None and this.errno not in _NOT_THERE:
            return False
        code = _ERROR_CODE.search(str(this))  # how tensorstore says what the system said
        if code is not None and int(code.group(1)) not in _NOT_THERE:
            return False
    # Orbax raises a bare Exception for an unreadable chunk, and trips over altered metadata in any of these ways.
    return type(error) is Exception or isinstance(
        error, ValueError | LookupError | OSError | TypeError | AttributeError | ExceptionGroup
    )


@contextlib.contextmanager
def damage_if_unreadable() -> Iterator[None]:
    try:
        yield
    except Damaged:
        raise
    except Exception as error:
        if not means_damage(error):
            raise
        reason = (str(error).splitlines() or ["no reason given"])[0][:160]
        own = error.strerror if isinstance(error, OSError) else None  # without the path, which the caller names
        raise Damaged(own or f"{type(error).__name__}: {reason}") from error
