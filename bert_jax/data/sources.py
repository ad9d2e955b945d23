"""Where text comes from: the name of a source (or an iterable) → work units → documents.

* `path.txt`, a glob or a directory: plain text with a blank line between documents, WikiExtractor output, JSON lines or
  parquet, recognised per file by content; `.gz .bz2 .xz .zst` too. Hidden files are passed over.
* `path.jsonl[:field]`, `path.parquet:field`: `a.b` is nested, `title+abstract` joins, a list holds sentences.
* `-`: JSON lines on standard input (objects, strings, or lists of sentences), copied to a temporary file.
* `tfds:name[/config]:split[:field]`: TensorFlow Datasets.
* `stdlib`: the documentation that ships with CPython.
* any iterable of strings (a document each) or of lists of sentences, copied to a temporary file.

In Python a string or path is one source, a list of them several; `as_sources` says what else a list may hold.

A field is what follows the last `:` unless it holds a `/`.
"""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from bert_jax.data.documents import Document, read_line_unit, recognise
from bert_jax.data.iterables import PASS_DOCUMENTS, Sources, SourceSpec, as_sources, write_documents
from bert_jax.data.parquet import MAGIC as PARQUET_MAGIC
from bert_jax.data.parquet import parquet_documents, parquet_units
from bert_jax.data.stdlib import stdlib_documents
from bert_jax.data.streams import UNIT_BYTES, EncodingErrors, Unit, compression_of, cut, read_lines
from bert_jax.data.tfds_source import tfds_documents, tfds_units
from bert_jax.errors import BertJaxError
from bert_jax.files import clear_errors, digest

READER_VERSION = 1
"""Part of every fingerprint: raised when the same bytes would give other documents."""

_STDLIB_UNIT_BYTES = 1 << 19


class Source:
    """Documents from one or several places; reading it twice gives the same documents in the same order."""

    def __init__(self, name: str, list_units: Callable[[], list[Unit]], identity: Callable[[], Any], keep: Any = None):
        self.name = name
        self._list_units = list_units
        self._identity = identity
        self._keep = keep  # parts whose temporary files live as long as they do
        self._units: list[Unit] | None = None
        self._fingerprint: str | None = None

    def units(self) -> list[Unit]:
        """Pieces of the source in reading order, each read by `read_unit`; the list depends on the content only.

        Errors: nothing to read, a file that is not what its name says, no such field.
        """
        if self._units is None:
            self._units = self._list_units()
            if not self._units:
                raise BertJaxError(f"source {self.name} holds no text: give one with at least one document")
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
    if unit.kind == "parquet":
        return parquet_documents(unit)
    if unit.kind == "tfds":
        return tfds_documents(unit)
    return read_line_unit(unit)


def open_source(
    spec: SourceSpec, *, encoding_errors: EncodingErrors = "strict", unit_bytes: int = UNIT_BYTES
) -> Source:
    """The source that `spec` names, in the forms at the top of this file; a file name is a string or a path.

    `encoding_errors` "replace" reads bytes that are not UTF-8 as U+FFFD; "strict" makes them an error.
    Errors: `BertJaxError` when there is no such file, directory, match or set, or nothing in it.
    """
    if encoding_errors not in ("strict", "replace"):
        raise BertJaxError(f"encoding_errors is {encoding_errors!r}: expected 'strict' or 'replace'")
    if isinstance(spec, os.PathLike):
        return _open_files(os.fspath(spec), None, encoding_errors, unit_bytes)
    if not isinstance(spec, str):
        return _spool("<iterable>", lambda file: write_documents(spec, file), encoding_errors, unit_bytes)
    if spec == "-":
        return _spool(
            "<stdin>", lambda file: shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20), encoding_errors, unit_bytes
        )
    if spec == "stdlib":
        return _spool(
            spec,
            lambda file: write_documents(map(list, stdlib_documents()), file),
            encoding_errors,
            min(unit_bytes, _STDLIB_UNIT_BYTES),
        )
    if spec.startswith("tfds:"):
        return _open_tfds(spec, encoding_errors)
    path, field = split_field(spec)
    return _open_files(path, field, encoding_errors, unit_bytes)


def open_sources(given: Sources, *, encoding_errors: EncodingErrors = "strict", unit_bytes: int = UNIT_BYTES) -> Source:
    """Several sources one after the other, as one; what may be given says `as_sources`."""
    specs = as_sources(given)
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


def split_field(spec: str) -> tuple[str, str | None]:
    """(path, field): a field is what follows the last `:` unless it holds a `/`; a path that exists whole has none."""
    path, colon, field = spec.rpartition(":")
    if not colon or not path or "/" in field:
        return spec, None
    if os.path.exists(spec) and not os.path.exists(path):
        return spec, None
    if not field:
        raise BertJaxError(f"source {spec}: a field's name is expected after the last ':'")
    return path, field


def _spool(name: str, write: Callable[[IO[bytes]], Any], encoding_errors: EncodingErrors, unit_bytes: int) -> Source:
    """A source of JSON lines in a temporary file, which goes when the source does."""
    with clear_errors("write", tempfile.gettempdir()):
        folder = tempfile.mkdtemp(prefix="bert_jax_source_")
    path = os.path.join(folder, "documents.jsonl")
    try:
        with clear_errors("write", path), open(path, "wb") as file:
            write(file)
        size = os.path.getsize(path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise

    def list_units() -> list[Unit]:
        if not any(line.strip() for _, line in read_lines(Unit("json", path, label=name))):
            return []
        return [
            Unit("json", path, start, end, end - start, encoding_errors=encoding_errors, label=name)
            for start, end in cut(path, size, "json", unit_bytes)
        ]

    source = Source(name, list_units, lambda: ["json", size, content_digest(path), encoding_errors])
    weakref.finalize(source, shutil.rmtree, folder, ignore_errors=True)
    return source


def _open_tfds(spec: str, encoding_errors: EncodingErrors) -> Source:
    units = tfds_units(spec, encoding_errors)

    def identity() -> Any:
        shards = [
            # a set on remote storage is known by its version and counts alone
            [os.path.basename(unit.path), unit.start, unit.end, unit.size and content_digest(unit.path)]
            for unit in units
        ]
        return {"tfds": shards, "field": units[0].field if units else None, "encoding_errors": encoding_errors}

    return Source(spec, lambda: units, identity)


def _open_files(text: str, field: str | None, encoding_errors: EncodingErrors, unit_bytes: int) -> Source:
    files = list_files(text)

    def list_units() -> list[Unit]:
        units = [unit for _, path in files for unit in file_units(path, field, encoding_errors, unit_bytes)]
        if field is not None and units and not any(unit.kind in ("json", "parquet") for unit in units):
            raise BertJaxError(f"source {text}:{field}: plain text has no fields; leave :{field} out")
        return units

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
        hint = "; copy it to a local path first" if "://" in text else ""
        if " " in text and not os.path.isdir(path):
            hint = f"; if it is a text: {PASS_DOCUMENTS}"
        raise BertJaxError(f"source {text}: {what}{hint}")
    return sorted({(Path(os.path.relpath(file, base or ".")).as_posix(), file) for file in found})


def _walk(root: str) -> Iterator[str]:
    if os.path.isfile(root):
        yield root
        return
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(folder, name) for name in names if not name.startswith("."))


def file_units(path: str, field: str | None, encoding_errors: EncodingErrors, unit_bytes: int) -> list[Unit]:
    """The units of one file, whatever it holds; none when it has no text."""
    with clear_errors("read", path), open(path, "rb") as file:
        head = file.read(8)
        size = os.fstat(file.fileno()).st_size
    if head.startswith(PARQUET_MAGIC):
        return parquet_units(path, field, encoding_errors, unit_bytes)
    compression = compression_of(head)
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


WHOLE_BYTES = 256 << 20
"""Larger files are known by a sample of their bytes."""
_SAMPLES = 256


def content_digest(path: str) -> str:
    """Hex SHA-256 of a file's content; of 256 evenly spread blocks of 1 MiB when it is larger than 256 MiB."""
    state = hashlib.sha256()
    with clear_errors("read", path), open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= WHOLE_BYTES:
            return hashlib.file_digest(file, "sha256").hexdigest()
        for sample in range(_SAMPLES):
            file.seek((size - (1 << 20)) * sample // (_SAMPLES - 1))
            state.update(file.read(1 << 20))
    return state.hexdigest()
