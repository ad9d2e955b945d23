"""Plans: the rows of one variant of all examples of a split, kept as a disposable, memory-mapped file.

    DIR/plan-<digest>.json    how many rows, the share of random second segments, tokens, a checksum of each part
    DIR/plan-<digest>.rows    int32 (rows, 5), see `spans.encode_rows`

The digest covers all that the rows depend on, so a plan is never stale; one that is missing or damaged is made again,
the same to the byte. Counting rows without making them costs a third, and only the small file is written then.
"""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bert_jax.console import log
from bert_jax.data import pairs
from bert_jax.data.pairs import Documents, Walk
from bert_jax.data.spans import ROW_FIELDS
from bert_jax.errors import BertJaxError
from bert_jax.files import PARTIAL_SUFFIX, atomic_writer, clear_errors, digest, lock, read_json, write_json

MAX_ROWS = 2**32  # an example's number within an epoch is a uint32
_CHECKED_BYTES = 1 << 24
_NOTEWORTHY_SECONDS = 5.0


class PlannedStore(Protocol):
    """What is needed of a token store."""

    @property
    def fingerprint(self) -> str: ...

    def split(self, name: str) -> Any: ...


@dataclass(frozen=True)
class Plan:
    """Rows int32 (R, 5), memory-mapped, and their summary: `rows`, `random`, `tokens` (with special ones)."""

    rows: NDArray[np.int32]
    summary: dict[str, Any]


@dataclass(frozen=True)
class PlanKey:
    """All that the rows of a plan depend on, and where the file lies."""

    store: PlannedStore
    split: str
    walk: Walk
    seed: int
    variant: int
    cache_dir: Path

    @property
    def name(self) -> str:
        """File name without its ending."""
        settings = [self.walk.length, self.walk.objective, self.walk.short_share, self.seed, self.variant]
        return f"plan-{digest([pairs.VERSION, self.store.fingerprint, self.split, *settings])[:32]}"

    @property
    def header_path(self) -> Path:
        """The small file: counts and checksums."""
        return self.cache_dir / f"{self.name}.json"

    @property
    def rows_path(self) -> Path:
        """The rows."""
        return self.cache_dir / f"{self.name}.rows"


def load_plan(
    store: PlannedStore,
    split: str,
    *,
    length: int,
    seed: int,
    variant: int,
    objective: str = "mlm+nsp",
    short_share: float = 0.1,
    cache_dir: str | os.PathLike[str],
) -> Plan:
    """The plan of one variant: read from `cache_dir`, or made there first (by one process, the others wait for it).

    Errors: `BertJaxError` for settings that cannot be, a damaged store, more than 2³² rows, or a full disk.
    """
    key = PlanKey(store, split, Walk(length, objective, short_share), seed, variant, Path(cache_dir))
    return open_plan(key)


def open_plan(key: PlanKey) -> Plan:
    """`load_plan` for a key."""
    plan = _read(key)
    if plan is None:
        with lock(key.cache_dir / f"{key.name}.lock"):
            plan = _read(key)  # another process may just have made it
            if plan is None:
                _build(key)
                plan = _read(key)
        if plan is None:
            raise BertJaxError(f"{key.rows_path} changed while it was read: check the disk, or set another plan folder")
    return plan


def row_count(key: PlanKey) -> int:
    """How many rows the plan has, without making its rows if they are not there."""
    header = _read_header(key)
    if header is None:
        with lock(key.cache_dir / f"{key.name}.lock"):
            header = _read_header(key)
            if header is None:
                header = {"rows": pairs.count_rows(_documents(key), key.walk, key.seed, key.variant)}
                _write_header(key, header)
    return int(header["rows"])


def is_made(key: PlanKey) -> bool:
    """Whether the plan's files are there (their contents are checked when opened)."""
    header = _read_header(key)
    return header is not None and "checksums" in header and key.rows_path.is_file()


def _documents(key: PlanKey) -> Documents:
    documents: Documents = key.store.split(key.split)
    return documents


def _read_header(key: PlanKey) -> dict[str, Any] | None:
    if not key.header_path.is_file():
        return None
    try:
        header = read_json(key.header_path)
    except BertJaxError:
        return None  # damaged: it is made again
    if not isinstance(header, dict) or header.pop("digest", None) != digest(header):
        return None
    return header


def _write_header(key: PlanKey, header: dict[str, Any]) -> None:
    write_json(key.header_path, {**header, "digest": digest(header)})


def _read(key: PlanKey) -> Plan | None:
    """The plan on disk, or None when it is not there or any byte of it has changed."""
    header = _read_header(key)
    if header is None or "checksums" not in header or not key.rows_path.is_file():
        return None
    size = int(header["rows"]) * ROW_FIELDS * 4
    with clear_errors("read", key.rows_path):
        if key.rows_path.stat().st_size != size:
            return None
        data = np.memmap(key.rows_path, np.uint8, "r") if size else np.zeros(0, np.uint8)
    if [zlib.crc32(part) for part in _parts(data)] != header["checksums"]:
        return None
    # A plain array: indexing a memmap object costs several times as much.
    rows = np.asarray(data).view("<i4").reshape(-1, ROW_FIELDS)
    return Plan(rows, {name: header[name] for name in ("rows", "random", "tokens")})


def _parts(data: NDArray[np.uint8]) -> Iterator[memoryview]:
    for first in range(0, len(data), _CHECKED_BYTES):
        yield data[first : first + _CHECKED_BYTES].data


def _build(key: PlanKey) -> None:
    """Write the rows, then the header that makes them count."""
    for left_over in key.cache_dir.glob(f".{key.name}.*{PARTIAL_SUFFIX}"):
        with contextlib.suppress(OSError):
            left_over.unlink()
    begun = time.monotonic()
    rows = random = tokens = 0
    checksums: list[int] = []
    filled = 0  # bytes in the part that the last checksum is of
    extra = key.walk.length - key.walk.room
    with atomic_writer(key.rows_path) as file:
        for piece in pairs.make_rows(_documents(key), key.walk, key.seed, key.variant):
            rows += len(piece)
            if rows > MAX_ROWS:
                raise BertJaxError(
                    f"a plan of more than {MAX_ROWS:,} examples is not possible: cut the store into several"
                )
            random += int((piece[:, 4] & 1).sum())
            tokens += int((piece[:, 1] - piece[:, 0] + piece[:, 3] - piece[:, 2]).sum(dtype=np.int64)) + extra * len(
                piece
            )
            data = np.ascontiguousarray(piece, "<i4").data.cast("B")
            file.write(data)
            while len(data):
                room = _CHECKED_BYTES - filled
                previous = checksums.pop() if filled else 0
                checksums.append(zlib.crc32(data[:room], previous))
                filled = (filled + len(data[:room])) % _CHECKED_BYTES
                data = data[room:]
    _write_header(key, {"rows": rows, "random": random, "tokens": tokens, "checksums": checksums})
    seconds = time.monotonic() - begun
    if seconds > _NOTEWORTHY_SECONDS:
        log(f"planned {rows:,} examples of {key.walk.length} tokens (variant {key.variant}) in {seconds:.0f} s")
