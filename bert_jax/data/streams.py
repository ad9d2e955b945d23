"""Bytes of one piece of a source: work units, decompression, lines with a limit, decoding, cuts at boundaries."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Literal, cast

from bert_jax.errors import BertJaxError
from bert_jax.files import clear_errors

LINE_LIMIT = 16 << 20
"""Longest line of text, in bytes: a longer one is an error, so that memory stays bounded."""
DOCUMENT_LIMIT = 4 << 20
"""A document of lines longer than this many bytes is cut into several, at line ends."""
UNIT_BYTES = 16 << 20
"""About how many bytes of an uncompressed file make one unit."""

UnitKind = Literal["text", "wiki", "json", "parquet", "tfds"]
Layout = Literal["sentences", "paragraphs"]
EncodingErrors = Literal["strict", "replace"]

_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True)
class Unit:
    """A piece of a source that one process reads alone, in order; it can be pickled.

    `start` and `end` count bytes of an uncompressed file, row groups of a parquet file, or shards of a TFDS split;
    a compressed file is one unit (0, None).
    """

    kind: UnitKind
    path: str
    start: int = 0
    end: int | None = None
    size: int = 0
    """Bytes on disk, about: for progress and for balancing work."""
    layout: Layout = "paragraphs"
    """Whether a line of plain text is one sentence or a paragraph."""
    field: str | None = None
    encoding_errors: EncodingErrors = "strict"
    compression: str | None = None
    label: str = ""
    """What to call the file in messages (its path, or <stdin>)."""
    dataset: tuple[str, str, str | None] | None = None
    """TFDS: name with config, split, data directory."""

    @property
    def name(self) -> str:
        """The unit in words, for messages."""
        place = self.label or self.path
        return place if self.start == 0 and self.end is None else f"{place} [{self.start}:{self.end}]"


def compression_of(head: bytes) -> str | None:
    """The compression that a file's first bytes announce, or None."""
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


def open_stream(path: str, compression: str | None) -> IO[bytes]:
    """Open a file for reading, decompressed and buffered."""
    with clear_errors("read", path):
        if compression is None:
            return open(path, "rb", buffering=1 << 20)
        raw = _OPENERS[compression](path)
    return cast(IO[bytes], io.BufferedReader(raw, 1 << 20))


_FRAME_BYTES = 1 << 10  # read of a zstd file at once: 4 bytes may stand for 128 KiB


class _ZstdReader(io.RawIOBase):
    """The frames of a zstd file, one after the other; the library's own reader is silent about a last one cut short."""

    def __init__(self, path: str):
        try:
            import zstandard
        except ImportError:
            raise BertJaxError(
                f"{path} is compressed with zstd: pip install zstandard, or decompress it first"
            ) from None
        self._new_frame = zstandard.ZstdDecompressor().decompressobj
        self._file = open(path, "rb")  # noqa: SIM115 - closed by close()
        self._frame: Any = None
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            data = self._file.read(_FRAME_BYTES)
            if not data:
                if self._frame is not None:
                    raise EOFError("the file ends inside a zstd frame")
                return 0
            self._frame = self._frame or self._new_frame()
            self._ready = memoryview(self._frame.decompress(data))
            left = self._frame.unused_data
            if self._frame.eof:
                self._frame = None
            if left:  # the next frame begins inside this chunk
                self._file.seek(-len(left), io.SEEK_CUR)
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


_OPENERS: dict[str, Callable[[str], Any]] = {
    "gzip": gzip.GzipFile,
    "bzip2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
    "zstd": _ZstdReader,
}


def read_lines(unit: Unit) -> Iterator[tuple[int, bytes]]:
    """(offset, line) of each line in the unit, the line end included; offsets count decompressed bytes of the file.

    Errors: a line over `LINE_LIMIT`, a damaged compressed file, a file that cannot be read.
    """
    label = unit.label or unit.path
    position = unit.start
    end = unit.end if unit.end is not None else float("inf")
    with open_stream(unit.path, unit.compression) as stream:
        if position:
            stream.seek(position)
        while position < end:
            line = _next_line(stream, label)
            if not line:
                return
            if len(line) > LINE_LIMIT:
                raise BertJaxError(
                    f"{line_place(unit, position)}: longer than {LINE_LIMIT >> 20} MiB; put line ends between "
                    "sentences or paragraphs and a blank line between documents, or cut the record into several"
                )
            yield position, line
            position += len(line)


def _next_line(stream: IO[bytes], label: str) -> bytes:
    try:
        return stream.readline(LINE_LIMIT + 1)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise BertJaxError(f"{label} is damaged or cut short: {error}; fetch it again") from error
    except OSError as error:
        raise BertJaxError(f"cannot read {label}: {error.strerror or error}") from error
    except MemoryError as error:  # a compressed file says itself how large a dictionary it takes
        raise BertJaxError(f"{label} takes more memory to decompress than there is: compress it otherwise") from error
    except Exception as error:
        if type(error).__name__ == "ZstdError":
            raise BertJaxError(f"{label} is damaged or cut short: {error}; fetch it again") from error
        raise


def line_place(unit: Unit, offset: int) -> str:
    """File and number of the line that begins at `offset`, for messages (reads the file up to there)."""
    number = 1
    with open_stream(unit.path, unit.compression) as stream:
        while offset > 0 and (chunk := stream.read(min(offset, 1 << 20))):
            number += chunk.count(b"\n")
            offset -= len(chunk)
    return f"{unit.label or unit.path}, line {number}"


def decode(line: bytes, offset: int, unit: Unit) -> str:
    """One line as text, without a byte-order mark at the file's start.

    Errors: bytes that are not UTF-8, named by file and byte offset, unless the unit replaces them.
    """
    if offset == 0 and line.startswith(b"\xef\xbb\xbf"):
        line, offset = line[3:], 3
    try:
        return line.decode("utf-8", unit.encoding_errors)
    except UnicodeDecodeError as error:
        looks = " (it looks like UTF-16)" if offset == 0 and line[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        where = "byte" if unit.compression is None else "decompressed byte"
        raise BertJaxError(
            f"{unit.label or unit.path} is not UTF-8 at {where} {offset + error.start}{looks}: convert it, "
            "or pass encoding_errors='replace' (--encoding-errors replace)"
        ) from error


_BOUNDARY = {
    "text": re.compile(rb"\n[ \t\r\x0b\x0c]*\n"),
    "wiki": re.compile(rb"\n(?=<doc )"),
    "json": re.compile(rb"\n"),
}


def cut(path: str, size: int, kind: str, unit_bytes: int = UNIT_BYTES) -> list[tuple[int, int]]:
    """Byte ranges of about `unit_bytes` that cover a file, cut where documents end.

    Only a plain-text document longer than `DOCUMENT_LIMIT` can be cut in its middle, at a line end.
    """
    points = [0]
    with clear_errors("read", path), open(path, "rb") as file:
        while size - points[-1] > unit_bytes * 3 // 2:
            point = _boundary(file, points[-1] + unit_bytes, size, kind)
            if point >= size:
                break
            points.append(point)
    return list(zip(points, [*points[1:], size], strict=True))


def _boundary(file: IO[bytes], position: int, size: int, kind: str) -> int:
    """Where the first document after `position` begins, or `size`."""
    file.seek(position)
    window = b""
    while chunk := file.read(1 << 20):
        window += chunk
        if match := _BOUNDARY[kind].search(window):
            return position + match.end()
        if len(window) >= DOCUMENT_LIMIT:
            line_end = window.find(b"\n") if kind == "text" else -1
            if line_end >= 0:
                return position + line_end + 1
            keep = 16  # a boundary may lie across two windows
            position += len(window) - keep
            window = window[-keep:]
    return size
