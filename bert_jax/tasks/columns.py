"""Examples from tables with named columns: TSV, CSV and JSONL files, globs of them, TensorFlow Datasets.

    read_examples("data/*.tsv", data, {"text": Column(("sentence",), 0), "label": Column(("label",), 1)}, make)

A file whose name has `.jsonl` or `.json` holds one object per line, `.csv` values between commas, quoted where need be,
anything else values between tabs, in which a quote is a character like others. `.gz .bz2 .xz .zst` are read too, and a
byte-order mark is passed over. Lines end with \\n or \\r\\n and nothing else: texts hold U+2028 and its like.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from bert_jax.console import log, warn
from bert_jax.data.streams import Unit, compression_of, read_lines
from bert_jax.data.tfds_source import tfds_rows
from bert_jax.errors import BertJaxError
from bert_jax.files import clear_errors, parse_json
from bert_jax.finetune_config import TaskData
from bert_jax.tasks.source_files import files_of

_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_NUMBERS = ("index", "idx", "id")
"""Columns that name an example, when a table has them."""

Example = TypeVar("Example")


class Column(NamedTuple):
    """A column that is wanted: by one of its `names`, or by `number` (from 0, negative from the end) without header."""

    names: tuple[str, ...] = ()
    number: int | None = None
    required: bool = True


class Cells(NamedTuple):
    """One line of a table: what stands in the wanted columns (None: the table has no such one), and in which file."""

    place: str
    id: str
    values: Mapping[str, Any]
    table: frozenset[str]
    """The names of all columns of the table, empty without a header."""


class _Line(NamedTuple):
    """One line as the file's format gives it, or what is wrong with it."""

    number: int
    content: Any


def read_examples(
    source: str, data: TaskData, columns: Mapping[str, Column], make: Callable[[Cells], Example]
) -> Iterator[Example]:
    """What `make` makes of each line of `source`, in order.

    A line that does not fit the table, or that `make` refuses with a `BertJaxError`, ends the reading; with
    data.on_error "skip" it is left out, and the count is told at the end, with the first reason.
    Errors: `BertJaxError` naming file and line; for no such file, a column that is not there, text that is not UTF-8,
    and a source that has no example at all.
    """
    count = 0
    skipped: list[str] = []
    for cells in _cells(source, data, columns):
        try:
            if isinstance(cells, BertJaxError):
                raise cells
            example = make(cells)
        except BertJaxError as error:
            if data.on_error == "stop":
                raise BertJaxError(f"{error}; mend it, or leave such lines out with --data.on-error skip") from error
            skipped.append(str(error) if not skipped else "")
        else:
            count += 1
            yield example
    if skipped:
        warn(f"{source}: {len(skipped)} of {len(skipped) + count} examples were left out; the first: {skipped[0]}")
    if not count:
        raise BertJaxError(f"source {source} holds no example{' that can be used' if skipped else ''}")


def _cells(source: str, data: TaskData, columns: Mapping[str, Column]) -> Iterator[Cells | BertJaxError]:
    if source.startswith("tfds:"):
        for number, row in tfds_rows(source):
            yield _of_object(f"{source}, example {number}", number, row, columns)
        return
    number = 0
    for path in files_of(source):
        name = Path(path).name
        for suffix in _COMPRESSED:
            name = name.removesuffix(suffix)
        suffix = Path(name).suffix.lower()
        read = _objects if suffix in (".jsonl", ".json", ".ndjson") else _table
        for cells in read(path, suffix == ".csv", data, columns):
            yield cells._replace(id=cells.id or str(number)) if isinstance(cells, Cells) else cells
            number += 1


# --- lines ------------------------------------------------------------------------------------------------------------


def _lines(path: str) -> Iterator[tuple[int, str]]:
    """(number from 1, text with its line end) of each line."""
    with clear_errors("read", path), open(path, "rb") as file:
        compression = compression_of(file.read(8))
    for number, (_, raw) in enumerate(read_lines(Unit("text", path, compression=compression)), start=1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise BertJaxError(f"{path}, line {number} is not UTF-8 at byte {error.start}: save it so") from error
        yield number, line


def _separated(path: str) -> Iterator[_Line]:
    """Values between tabs."""
    for number, line in _lines(path):
        if line.strip():
            yield _Line(number, line.removesuffix("\n").removesuffix("\r").split("\t"))


def _quoted(path: str) -> Iterator[_Line]:
    """Values between commas; one in quotes may hold commas, line ends, and doubled quotes. Lines count from where a
    record begins."""
    reader = csv.reader((line for _, line in _lines(path)), strict=True)
    while True:
        first = reader.line_num + 1
        try:
            values = next(reader, None)
        except csv.Error as error:
            yield _Line(first, BertJaxError(f"{path}, line {first} is not CSV: {error}"))
            continue
        if values is None:
            return
        if values:
            yield _Line(first, values)


def _table(path: str, commas: bool, data: TaskData, columns: Mapping[str, Column]) -> Iterator[Cells | BertJaxError]:
    lines = _quoted(path) if commas else _separated(path)
    first = next(lines, None)
    if first is None:
        raise BertJaxError(f"{path} is empty: expected a table")
    if isinstance(first.content, BertJaxError):
        raise first.content
    names = [name.strip() for name in first.content]
    header = _header(names, data, columns)
    places = _places(path, names, header, columns)
    table = frozenset(names) if header else frozenset()
    named = next((names.index(name) for name in _NUMBERS if name in table), None)

    def cells(line: _Line) -> Cells | BertJaxError:
        if isinstance(line.content, BertJaxError):
            return line.content
        place, values = f"{path}, line {line.number}", line.content
        if len(values) != len(first.content):
            kind = "the header" if header else f"line {first.number}"
            return BertJaxError(f"{place} has {len(values)} field(s): expected {len(first.content)}, as {kind} has")
        found = {key: None if index is None else values[index] for key, index in places.items()}
        return Cells(place, "" if named is None else values[named], found, table)

    if not header:
        yield cells(first)
    yield from map(cells, lines)


def _header(first: Sequence[str], data: TaskData, columns: Mapping[str, Column]) -> bool:
    """Whether the first line names the columns: as told, else whether it holds the names of what is required."""
    if data.header is not None:
        return data.header
    required = [column for column in columns.values() if column.required]
    if any(column.number is None for column in required):
        return True  # only a header can say where such a column is
    if any(column.names for column in required):
        return all(any(name in first for name in column.names) for column in required if column.names)
    return any(name in first for column in columns.values() for name in column.names)


def _places(path: str, first: Sequence[str], header: bool, columns: Mapping[str, Column]) -> dict[str, int | None]:
    """Which field of a line each wanted column is; None for one that is not there and need not be."""
    places: dict[str, int | None] = {}
    for key, column in columns.items():
        number = next((first.index(name) for name in column.names if name in first), None) if header else None
        if number is None and column.number is not None and (not header or not column.names):
            number = column.number if column.number >= 0 else len(first) + column.number
            if not 0 <= number < len(first):
                number = None
        if number is None and column.required:
            wanted = " or ".join(map(repr, column.names)) if header and column.names else str(column.number)
            raise BertJaxError(f"{path} has no column {wanted} ({key}): {_found(first, header)}")
        if number is None and key == "label":
            log(f"{path} has no column for {key} ({_found(first, header)}): its examples have none")
        places[key] = number
    return places


def _found(first: Sequence[str], header: bool) -> str:
    if not header:
        return f"its lines have {len(first)} fields, numbered from 0, and no header"
    shown = ", ".join(name[:40] for name in first[:20])
    return f"it has {shown}"


# --- objects ----------------------------------------------------------------------------------------------------------


def _objects(path: str, commas: bool, data: TaskData, columns: Mapping[str, Column]) -> Iterator[Cells | BertJaxError]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            value = parse_json(line)
        except ValueError as error:
            yield BertJaxError(f"{place} is not JSON: {error}")
            continue
        if not isinstance(value, dict):
            yield BertJaxError(f"{place} holds {line.strip()[:60]}: expected an object with named fields")
            continue
        yield _of_object(place, None, value, columns)


def _of_object(
    place: str, number: int | None, value: Mapping[str, Any], columns: Mapping[str, Column]
) -> Cells | BertJaxError:
    found = {}
    for key, column in columns.items():
        name = next((name for name in column.names if name in value), None)
        if name is None and column.required:
            wanted = " or ".join(map(repr, column.names)) or f"with a name (it is number {column.number})"
            return BertJaxError(f"{place} has no field {wanted} ({key}): it has {', '.join(map(str, value))[:200]}")
        found[key] = None if name is None else value[name]
    named = next((value[name] for name in _NUMBERS if isinstance(value.get(name), str | int)), number)
    return Cells(place, "" if named is None else str(named), found, frozenset(map(str, value)))


# --- what stands in a cell --------------------------------------------------------------------------------------------


def text_of(cells: Cells, key: str) -> str:
    """The text in column `key`. Errors: `BertJaxError` for anything else."""
    value = cells.values[key]
    if not isinstance(value, str):
        raise BertJaxError(f"{cells.place} has {json.dumps(value)[:60]} for {key}: expected a text")
    return value


def number_of(cells: Cells, key: str) -> float | None:
    """The finite number in column `key`; None where the table has no such column, or null.

    Errors: `BertJaxError` for an empty field and for what is no number.
    """
    value = cells.values[key]
    if value is None:
        return None
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
    except (ValueError, OverflowError):
        number = None
    if number is None or number != number or abs(number) == float("inf"):
        raise BertJaxError(f"{cells.place} has {json.dumps(value)[:60]} for {key}: expected a number")
    return number
