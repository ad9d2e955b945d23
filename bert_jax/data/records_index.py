"""The index of a TFRecord file: where its records lie, what their checksums are, and which of them are damaged.

At first use a file is gone over once: its headers are followed, and every record's own checksum is compared (see
`record_frames`). What stays is a small file beside the plans. From then on a record is read by number, and
compared with the index each time.

A damaged record stops the training, unless `data.max_bad_records` allows to set some aside. One that is set aside costs
itself alone. Where headers are destroyed, it is not known how many records lay there: they count as many as would fit
if each were as small as the smallest whole one of the file. Records that were cut off together with their headers, at
the end of a file, leave no trace that could be counted. A run keeps what it set aside (`run.json`), whatever becomes of
the file.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bert_jax.data.mixture import Ints
from bert_jax.data.record_frames import FOOTER_BYTES, HEADER_BYTES, Frame, Gap, checksums, frames_of
from bert_jax.errors import BertJaxError
from bert_jax.files import atomic_writer, clear_errors, digest, lock

_VERSION = 2
_GZIP = b"\x1f\x8b"
_READ_BYTES = 1 << 24
_LARGEST = 1 << 20
"""Bytes of a record: an example of 4,096 tokens has about 50,000."""
_REASONS = (
    "does not match its checksum",
    "has a length that does not match its checksum",
    "has lost bytes",
    "is cut off by the end of the file",
)
_REMEDY = "restore the file or write it anew"


class BadRecord(NamedTuple):
    """A damaged place: its number among the records, where it begins, its bytes, how many records it is at most."""

    record: int
    byte: int
    bytes: int
    most: int
    reason: str

    def __str__(self) -> str:
        several = f" (at most {self.most} records in {self.bytes:,} bytes)" if self.most > 1 else ""
        return f"record {self.record} at byte {self.byte} {self.reason}{several}"


@dataclass(frozen=True)
class RecordIndex:
    """Where the whole records of one file lie: int64 (R,) offset and size of each one's bytes, uint32 (R,) CRC-32.

    `bad`: what is set aside, in order.
    """

    path: Path
    offsets: Ints
    sizes: Ints
    checksums: NDArray[np.uint32]
    bad: tuple[BadRecord, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 over sizes and checksums of the whole records in order."""
        return fingerprint_of([self])

    def name(self, row: int) -> int:
        """The number of a whole record in its file, where damaged ones count too."""
        return row + sum(bad.byte < int(self.offsets[row]) for bad in self.bad)

    def read(self, file: Any, row: int) -> bytes:
        """The bytes of a whole record. Errors: `BertJaxError` when they are not what was indexed."""
        offset, size = int(self.offsets[row]), int(self.sizes[row])
        with clear_errors("read", self.path):
            data = os.pread(file.fileno(), size, offset)
        if len(data) != size or zlib.crc32(data) != int(self.checksums[row]):
            raise BertJaxError(
                f"{self.path} changed while in use: record {self.name(row)} at byte {offset - HEADER_BYTES} is not the "
                "one indexed; restore the file and start again"
            )
        return bytes(data)


def fingerprint_of(indices: Sequence[RecordIndex]) -> str:
    """Hex SHA-256 over the records' sizes and checksums in order, wherever the files lie."""
    state = hashlib.sha256()
    for index in indices:
        state.update(np.ascontiguousarray(index.sizes).tobytes())
        state.update(np.ascontiguousarray(index.checksums).tobytes())
    return state.hexdigest()


def open_indices(
    paths: Sequence[Path], index_dir: Path, most: int = 0, fixed: Sequence[Mapping[str, Any]] | None = None
) -> list[RecordIndex]:
    """The indices of all files; up to `most` damaged records in them all are set aside.

    `fixed`: what a run that goes on has set aside, as of `set_aside`: the same again, and nothing else.
    Errors: `BertJaxError` naming file and record for more damage than that, and what a file misses otherwise.
    """
    if fixed is not None:
        return [_as_begun(open_index(path, index_dir, None), number, fixed) for number, path in enumerate(paths)]
    indices: list[RecordIndex] = []
    before = 0
    for path in paths:
        indices.append(open_index(path, index_dir, most, before))
        before += sum(bad.most for bad in indices[-1].bad)
    return indices


def set_aside(indices: Sequence[RecordIndex]) -> list[dict[str, Any]]:
    """What is set aside, one entry per place, ready for JSON."""
    return [
        {"file": number, "name": index.path.name, "fingerprint": index.fingerprint, **bad._asdict()}
        for number, index in enumerate(indices)
        for bad in index.bad
    ]


def _as_begun(index: RecordIndex, number: int, fixed: Sequence[Mapping[str, Any]]) -> RecordIndex:
    """The index with just those records set aside that were when the run began, mended or not."""
    mine = [entry for entry in fixed if entry["file"] == number]
    bad = tuple(BadRecord(*(entry[name] for name in BadRecord._fields)) for entry in mine)
    for found in index.bad:
        if not any(one.byte <= found.byte < one.byte + one.bytes for one in bad):
            raise BertJaxError(f"{index.path} was damaged since the run began: {found}; {_REMEDY}")
    begins = index.offsets - HEADER_BYTES
    keep = np.ones(len(begins), bool)
    for one in bad:
        keep &= (begins < one.byte) | (begins >= one.byte + one.bytes)
    found_now = RecordIndex(index.path, index.offsets[keep], index.sizes[keep], index.checksums[keep], bad)
    if mine and found_now.fingerprint != mine[0]["fingerprint"]:
        raise BertJaxError(
            f"{index.path} is not the file that the run began with, whose {bad[0]} and was set aside: "
            "give that file, or another --run"
        )
    return found_now


def open_index(path: Path, index_dir: Path, most: int | None = 0, before: int = 0) -> RecordIndex:
    """The index of a file: read from `index_dir`, or made there when the file is new or was changed since.

    `before`: how many damaged records the files before it have. Errors: `BertJaxError` for more than `most` together
    (None: any number), or when no record is whole.
    """
    with clear_errors("read", path):
        state = path.stat()
    name = f"records-{digest([_VERSION, str(path.resolve()), state.st_size, state.st_mtime_ns])[:32]}.npy"
    cached = index_dir / name
    with lock(cached.with_suffix(".lock")):
        found = _read_tables(cached)
        if found is None:
            found = _make_tables(path, most, before)
            with atomic_writer(cached) as file:
                file.write(struct.pack("<I", zlib.crc32(b"".join(table.tobytes() for table in found))))
                for table in found:
                    np.save(file, table)
    table, damaged = found
    bad = tuple(BadRecord(at, byte, size, count, _REASONS[why]) for at, byte, size, count, why in damaged.tolist())
    if most is not None and bad and before + sum(one.most for one in bad) > most:
        raise BertJaxError(_too_many(path, bad, most, before))
    if not len(table):
        raise BertJaxError(f"{path} holds no {'whole ' if bad else ''}records: write it anew")
    return RecordIndex(path, table[:, 0], table[:, 1], table[:, 2].astype(np.uint32), bad)


def _too_many(path: Path, bad: Sequence[BadRecord], most: int, before: int) -> str:
    if not most:
        return f"{path} is damaged: {bad[0]}; {_REMEDY}, or set it aside with --data.max-bad-records"
    listed = "; ".join(map(str, bad[:3])) + ("; …" if len(bad) > 3 else "")
    others = f" with {before} in the files before it" if before else ""
    return f"{path} is damaged: {listed}; that is{others} more than data.max_bad_records {most}: {_REMEDY}"


Tables = tuple[NDArray[np.int64], NDArray[np.int64]]
"""int64 (R, 3): offset, size and CRC-32 of each whole record; int64 (B, 5): each `BadRecord`, its reason a number."""


def _read_tables(path: Path) -> Tables | None:
    """A stored index, or None when it is not there or damaged."""
    if not path.is_file():
        return None
    try:
        with open(path, "rb") as file:
            (checksum,) = struct.unpack("<I", file.read(4))
            tables: Tables = (np.load(file), np.load(file))
    except (OSError, ValueError, EOFError, struct.error):
        return None
    return tables if zlib.crc32(b"".join(table.tobytes() for table in tables)) == checksum else None


def _make_tables(path: Path, most: int | None, before: int = 0) -> Tables:
    """Go over the file once. Errors: `BertJaxError` as soon as more than `most` places are damaged."""
    with clear_errors("read", path), open(path, "rb") as file:
        if file.read(2) == _GZIP:
            raise BertJaxError(f"{path} is compressed: unpack it first (gunzip), records are read by offset")
        frames = frames_of(file.fileno(), os.fstat(file.fileno()).st_size)
    rows: list[tuple[int, int, int]] = []
    damaged: list[tuple[int, int, int, int, int]] = []  # at most so many records: 0 where the size has to tell

    def set_aside(number: int, byte: int, end: int, single: bool, reason: str) -> None:
        damaged.append((number, byte, end - byte, int(single), _REASONS.index(reason)))
        if most is not None and before + len(damaged) > most:
            bad = [BadRecord(at, byte, size, 1, _REASONS[why]) for at, byte, size, _, why in damaged]
            raise BertJaxError(_too_many(path, bad, most, before))

    for number, frame, checksum in _checked(path, frames):
        if isinstance(frame, Gap):
            set_aside(number, *frame)
        elif checksum is None:
            set_aside(number, frame.byte, frame.end, True, _REASONS[0])
        else:
            rows.append((frame.byte + HEADER_BYTES, frame.size, checksum))
    table, bad = np.array(rows, np.int64).reshape(-1, 3), np.array(damaged, np.int64).reshape(-1, 5)
    if len(table):
        smallest = int(table[:, 1].min()) + HEADER_BYTES + FOOTER_BYTES
        bad[:, 3] = np.where(bad[:, 3] > 0, 1, np.maximum(1, bad[:, 2] // smallest))
    return table, bad


def _checked(path: Path, frames: Sequence[Frame | Gap]) -> Iterator[tuple[int, Frame | Gap, int | None]]:
    """Number, frame or gap, and CRC-32 of the content, None where that does not match the file's own checksum."""
    with clear_errors("read", path), open(path, "rb") as file:
        for first, group in _groups(path, frames):
            whole = [frame for frame in group if isinstance(frame, Frame)]
            begin = whole[0].byte if whole else 0
            data = os.pread(file.fileno(), whole[-1].end - begin, begin) if whole else b""
            begins = np.array([frame.byte - begin + HEADER_BYTES for frame in whole], np.int64)
            sizes = np.array([frame.size for frame in whole], np.int64)
            if whole and len(data) != whole[-1].end - begin:
                raise BertJaxError(f"{path} changed while it was read: start again")
            found = checksums(np.frombuffer(data, np.uint8), begins, sizes)
            good: dict[int, int | None] = {}
            for frame, start, size, crc in zip(whole, begins.tolist(), sizes.tolist(), found.tolist(), strict=True):
                stop = start + size
                same = crc == struct.unpack_from("<I", data, stop)[0]
                good[frame.byte] = zlib.crc32(data[start:stop]) if same else None
            for number, one in enumerate(group, first):
                yield number, one, good.get(one.byte)


def _groups(path: Path, frames: Sequence[Frame | Gap]) -> Iterator[tuple[int, Sequence[Frame | Gap]]]:
    """Neighbours that are read at once, with the number of the first. Errors: `BertJaxError` for a huge record."""
    first = size = 0
    for number, frame in enumerate(frames):
        if isinstance(frame, Frame) and frame.size > _LARGEST:
            raise BertJaxError(
                f"{path}: record {number} has {frame.size:,} bytes: expected records of create_pretraining_data.py"
            )
        size += frame.end - frame.byte
        if size > _READ_BYTES:
            yield first, frames[first:number]
            first, size = number, frame.end - frame.byte
    yield first, frames[first:]
