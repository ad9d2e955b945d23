"""Where text comes from: one name (or iterable) → work units → documents."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from bert_jax.data.documents import Document, read_line_unit, recognise
from bert_jax.data.streams import UNIT_BYTES, EncodingErrors, Unit, compression_of, cut
from bert_jax.errors import BertJaxError
from bert_jax.files import clear_errors, digest

SourceSpec = str | os.PathLike[str] | Iterable[str] | Iterable[list[str]]

READER_VERSION = 1
"""Part of every fingerprint: raised when the same bytes would give other documents."""


class Source:
    """Documents from one or several places; reading it twice gives the same documents in the same order."""

    def __init__(self, name: str, list_units: Callable[[], list[Unit]], identity: Callable[[], Any], keep: Any = None):
        self.name = name
        self._list_units = list_units
        self._identity = identity
        self._keep = keep  # holds a spool file alive as long as the source
        self._units: list[Unit] | None = None
        self._fingerprint: str | None = None

    def units(self) -> list[Unit]:
        """Pieces of the source in reading order, each read by `read_unit`; the list depends on the content only."""
        if self._units is None:
            self._units = self._list_units()
            if not self._units:
                raise BertJaxError(f"{self.name} holds no text: give a source with at least one document")
        return list(self._units)

    def fingerprint(self) -> str:
        """Hex digest of what the source holds: names below its root, sizes, contents, and how they are read."""
        if self._fingerprint is None:
            self._fingerprint = digest({"reader": READER_VERSION, "content": self._identity()})
        return self._fingerprint

    def __iter__(self) -> Iterator[Document]:
        for unit in self.units():
            yield from read_unit(unit)


def read_unit(unit: Unit) -> Iterator[Document]:
    """The documents of one unit, in order; each is a non-empty list of non-empty sentences. Memory stays bounded."""
    return read_line_unit(unit)


def open_source(
    spec: SourceSpec, *, encoding_errors: EncodingErrors = "strict", unit_bytes: int = UNIT_BYTES
) -> Source:
    """The source that `spec` names, see the top of this file."""
    assert isinstance(spec, str | os.PathLike)
    text = os.fspath(spec)
    return _open_files(text, None, encoding_errors, unit_bytes)


def open_sources(
    specs: Iterable[SourceSpec], *, encoding_errors: EncodingErrors = "strict", unit_bytes: int = UNIT_BYTES
) -> Source:
    """Several sources one after the other, as one."""
    sources = [open_source(spec, encoding_errors=encoding_errors, unit_bytes=unit_bytes) for spec in specs]
    if not sources:
        raise BertJaxError("no source was given: name at least one with --source")
    if len(sources) == 1:
        return sources[0]
    return Source(
        " + ".join(source.name for source in sources),
        lambda: [unit for source in sources for unit in source.units()],
        lambda: [source.fingerprint() for source in sources],
        sources,
    )


def _open_files(text: str, field: str | None, encoding_errors: EncodingErrors, unit_bytes: int) -> Source:
    files = list_files(text)

    def list_units() -> list[Unit]:
        return [unit for _, path in files for unit in _file_units(path, field, encoding_errors, unit_bytes)]

    def identity() -> Any:
        content = [[name, os.path.getsize(path), content_digest(path)] for name, path in files]
        return {"files": content, "field": field, "encoding_errors": encoding_errors}

    return Source(text, list_units, identity)


def list_files(text: str) -> list[tuple[str, str]]:
    """(name below the source's root, path) of each file that a path, directory or glob means, sorted by name."""
    path = os.path.expanduser(text)
    if os.path.isfile(path):
        return [(os.path.basename(path), path)]
    if os.path.isdir(path):
        roots = [path]
        base = path
    else:
        roots = glob.glob(path, recursive=True)
        base = os.path.dirname(path[: min((path.find(c) for c in "*?[" if c in path), default=len(path))])
    found = [file for root in roots for file in _walk(root)]
    if not found:
        what = "no such file, directory or glob match" if not os.path.isdir(path) else "the directory holds no files"
        raise BertJaxError(f"source {text}: {what}")
    return sorted({(Path(os.path.relpath(file, base or ".")).as_posix(), file) for file in found})


def _walk(root: str) -> Iterator[str]:
    if os.path.isfile(root):
        yield root
        return
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(folder, name) for name in names if not name.startswith("."))


def _file_units(path: str, field: str | None, encoding_errors: EncodingErrors, unit_bytes: int) -> list[Unit]:
    with clear_errors("read", path), open(path, "rb") as file:
        compression = compression_of(file.read(8))
        size = os.fstat(file.fileno()).st_size
    what = recognise(path, compression, encoding_errors)
    if what is None:
        return []
    kind, layout = what
    ranges: list[tuple[int, int | None]] = [(0, None)]
    if compression is None:
        ranges = list(cut(path, size, kind, unit_bytes))
    return [
        Unit(kind, path, start, end, (end or size) - start, layout, field, encoding_errors, compression)
        for start, end in ranges
    ]


_WHOLE_BYTES = 256 << 20
_SAMPLES = 256


def content_digest(path: str) -> str:
    """Hex SHA-256 of a file's content; of 256 evenly spread blocks of 1 MiB when it is larger than 256 MiB."""
    state = hashlib.sha256()
    with clear_errors("read", path), open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= _WHOLE_BYTES:
            return hashlib.file_digest(file, "sha256").hexdigest()
        for sample in range(_SAMPLES):
            file.seek((size - (1 << 20)) * sample // (_SAMPLES - 1))
            state.update(file.read(1 << 20))
    return state.hexdigest()
