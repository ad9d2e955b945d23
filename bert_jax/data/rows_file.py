"""Tables of int32 rows that can be made again from something else: kept on disk, checked when opened, disposable.

    FOLDER/NAME.json    how many rows, what their maker summed up, a checksum of each part
    FOLDER/NAME.rows    int32 (rows, fields)

The name is a digest of all that the rows depend on, so a file is never stale; one that is missing or damaged is made
again, the same to the byte. Counting rows may be cheaper than making them: then only the small file is written.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bert_jax.errors import BertJaxError
from bert_jax.files import PARTIAL_SUFFIX, atomic_writer, clear_errors, digest, lock, read_json, write_json

MAX_ROWS = 2**32  # an example's number within an epoch is a uint32
_CHECKED_BYTES = 1 << 24

Rows = NDArray[np.int32]
Sums = dict[str, int]
Make = Callable[[Sums], Iterator[Rows]]
"""Yields the rows in pieces of bounded size, and leaves sums over them in the dict that it is given."""


@dataclass(frozen=True)
class RowsFile:
    """Where such a table lies, and how many fields its rows have."""

    folder: Path
    name: str
    fields: int

    @property
    def header_path(self) -> Path:
        """The small file: counts and checksums."""
        return self.folder / f"{self.name}.json"

    @property
    def rows_path(self) -> Path:
        """The rows."""
        return self.folder / f"{self.name}.rows"

    def is_made(self) -> bool:
        """Whether the files are there (their contents are checked when opened)."""
        header = self._read_header()
        return header is not None and "checksums" in header and self.rows_path.is_file()

    def open(self, make: Make) -> tuple[Rows, Sums]:
        """The rows (R, fields), memory-mapped, and the sums, `rows` among them; made first if they are not there.

        One process makes them, the others wait for it. Errors: `BertJaxError` for a full disk, or too many rows.
        """
        found = self._read()
        if found is None:
            with self._lock():
                found = self._read()  # another process may just have made it
                if found is None:
                    self._write(make)
                    found = self._read()
            if found is None:
                raise BertJaxError(
                    f"{self.rows_path} changed while it was read: check the disk, or set another plan folder"
                )
        return found

    def count(self, count: Callable[[], int]) -> int:
        """How many rows there are, by `count()` if that is not known yet."""
        header = self._read_header()
        if header is None:
            with self._lock():
                header = self._read_header()
                if header is None:
                    header = {"rows": count()}
                    self._write_header(header)
        return int(header["rows"])

    def _lock(self) -> contextlib.AbstractContextManager[Any]:
        return lock(self.folder / f"{self.name}.lock")

    def _read_header(self) -> dict[str, Any] | None:
        if not self.header_path.is_file():
            return None
        try:
            header = read_json(self.header_path)
        except BertJaxError:
            return None  # damaged: it is made again
        if not isinstance(header, dict) or header.pop("digest", None) != digest(header):
            return None
        return header

    def _write_header(self, header: dict[str, Any]) -> None:
        write_json(self.header_path, {**header, "digest": digest(header)})

    def _read(self) -> tuple[Rows, Sums] | None:
        """What is on disk, or None when it is not there or any byte of it has changed."""
        header = self._read_header()
        if header is None or "checksums" not in header or not self.rows_path.is_file():
            return None
        size = int(header["rows"]) * self.fields * 4
        with clear_errors("read", self.rows_path):
            if self.rows_path.stat().st_size != size:
                return None
            data = np.memmap(self.rows_path, np.uint8, "r") if size else np.zeros(0, np.uint8)
        if [zlib.crc32(part) for part in _parts(data)] != header.pop("checksums"):
            return None
        # A plain array: indexing a memmap object costs several times as much.
        return np.asarray(data).view("<i4").reshape(-1, self.fields), header

    def _write(self, make: Make) -> None:
        """Write the rows, then the header that makes them count."""
        for left_over in self.folder.glob(f".{self.name}.*{PARTIAL_SUFFIX}"):
            with contextlib.suppress(OSError):
                left_over.unlink()
        rows, sums = 0, Sums()
        checksums: list[int] = []
        filled = 0  # bytes in the part that the last checksum is of
        with atomic_writer(self.rows_path) as file:
            for piece in make(sums):
                rows += len(piece)
                if rows > MAX_ROWS:
                    raise BertJaxError(
                        f"a plan of more than {MAX_ROWS:,} examples is not possible: cut the store into several"
                    )
                data = np.ascontiguousarray(piece, "<i4").data.cast("B")
                file.write(data)
                while len(data):
                    room = _CHECKED_BYTES - filled
                    previous = checksums.pop() if filled else 0
                    checksums.append(zlib.crc32(data[:room], previous))
                    filled = (filled + len(data[:room])) % _CHECKED_BYTES
                    data = data[room:]
        self._write_header({"rows": rows, **sums, "checksums": checksums})


def _parts(data: NDArray[np.uint8]) -> Iterator[memoryview]:
    for first in range(0, len(data), _CHECKED_BYTES):
        yield data[first : first + _CHECKED_BYTES].data
