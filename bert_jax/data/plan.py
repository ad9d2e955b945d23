"""Plans: the rows of one variant of all examples of a split, kept as a disposable, memory-mapped file (`rows_file`).

    DIR/plan-<digest>.json, .rows    int32 (rows, 5), see `spans.encode_rows`; how many examples have a random second
                                     segment, and how many tokens there are

Counting rows without making them costs a third.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bert_jax.console import log
from bert_jax.data import pairs
from bert_jax.data.pairs import Walk
from bert_jax.data.rows_file import RowsFile, Sums
from bert_jax.data.spans import ROW_FIELDS
from bert_jax.files import digest

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
    def file(self) -> RowsFile:
        """Where the plan is kept."""
        return RowsFile(self.cache_dir, self.name, ROW_FIELDS)

    @property
    def header_path(self) -> Path:
        """The small file: counts and checksums."""
        return self.file.header_path

    @property
    def rows_path(self) -> Path:
        """The rows."""
        return self.file.rows_path

    def make_rows(self) -> Iterator[NDArray[np.int32]]:
        """The rows anew, in pieces of bounded size, nothing written.

        Errors: `BertJaxError` at the end when the store's files were altered meanwhile: no such rows are kept.
        """
        documents = self.store.split(self.split)
        yield from pairs.make_rows(documents, self.walk, self.seed, self.variant)
        documents.look_at_all()


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
    return Plan(*key.file.open(lambda sums: _make(key, sums)))


def row_count(key: PlanKey) -> int:
    """How many rows the plan has, without making its rows if they are not there."""

    def count() -> int:
        documents = key.store.split(key.split)
        rows = pairs.count_rows(documents, key.walk, key.seed, key.variant)
        documents.look_at_all()
        return rows

    return key.file.count(count)


def is_made(key: PlanKey) -> bool:
    """Whether the plan's files are there (their contents are checked when opened)."""
    return key.file.is_made()


def _make(key: PlanKey, sums: Sums) -> Iterator[NDArray[np.int32]]:
    begun = time.monotonic()
    rows = random = tokens = 0
    extra = key.walk.length - key.walk.room
    for piece in key.make_rows():
        rows += len(piece)
        random += int((piece[:, 4] & 1).sum())
        in_segments = piece[:, 1] - piece[:, 0] + piece[:, 3] - piece[:, 2]
        tokens += int(in_segments.sum(dtype=np.int64)) + extra * len(piece)
        yield piece
    sums |= {"random": random, "tokens": tokens}
    seconds = time.monotonic() - begun
    if seconds > _NOTEWORTHY_SECONDS:
        log(f"planned {rows:,} examples of {key.walk.length} tokens (variant {key.variant}) in {seconds:.0f} s")
