"""Multiple choice as SWAG (CSV), CODAH (TSV) and others (JSON lines) publish it → `ChoiceExample`s."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bert_jax.console import warn
from bert_jax.errors import BertJaxError
from bert_jax.files import clear_errors, parse_json
from bert_jax.finetune_config import TaskData
from bert_jax.tasks.multiple_choice import check_choices
from bert_jax.tasks.source_files import files_of, whole_number
from bert_jax.tasks.task import ChoiceExample

_ENDING = re.compile(r"(?:ending|choice|option)_?(\d{1,9})", re.IGNORECASE)
_CODAH_COLUMNS = ("category", "prompt", "ending0", "ending1", "ending2", "ending3", "label")
_CONTEXTS = ("context", "sent1", "startphrase", "prompt")  # in the order in which they are looked for


def read_choices(source: str, data: TaskData) -> Iterator[ChoiceExample]:
    """The examples of the file, or of the files of the glob, `source`:

    - `.csv`, whose first line names the columns, as SWAG's: `sent1` (or `context`, `startphrase`, `prompt`, or the one
      that `data.text` names), `sent2` (or `question`) if there is one, `ending0`, `ending1`, … (or `choice…`,
      `option…`; an empty one is none), `label` (or `data.label`) if there is one;
    - `.tsv` the same with tabs and no quotes; without a header (the default there) as CODAH's: category, prompt, four
      endings, label;
    - `.jsonl`: `{"context", "question", "choices": […], "label"}`, question and label if there are any.

    An example that cannot be used ends the reading (`data.on_error` "stop"), or is counted and passed over ("skip").
    Errors: `BertJaxError` naming file and line.
    """
    for path in map(Path, files_of(source)):
        yield from _read(path, data)


def _read(path: Path, data: TaskData) -> Iterator[ChoiceExample]:
    rows = _objects(path) if path.suffix in (".jsonl", ".json") else _table(path, data)
    count, skipped, first = 0, 0, ""
    for count, (line, row) in enumerate(rows, start=1):
        place = f"{path}, line {line}"
        try:
            example = _example(row, data, place, str(row.get("id", count)))
            check_choices(example)
        except BertJaxError as error:
            if data.on_error == "stop":
                raise
            skipped, first = skipped + 1, first or str(error)
            continue
        yield example
    if not count:
        raise BertJaxError(f"{path} holds no examples: expected at least one")
    if skipped:
        warn(f"{skipped} of {count} examples of {path} left out. The first: {first}")


def _objects(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            value = parse_json(line)
        except ValueError as error:
            raise BertJaxError(f"{path}, line {number} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise BertJaxError(f"{path}, line {number} holds {line[:60]}: expected {_OBJECT}")
        yield number, value


_OBJECT = '{"context": …, "choices": […], "label": 0}'


def _table(path: Path, data: TaskData) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Rows of a CSV or TSV file by column name, with the endings gathered under `choices`."""
    tabs = path.suffix != ".csv"
    header = not tabs if data.header is None else data.header
    texts = (line for _, line in _lines(path, ends=True))
    reader = csv.reader(texts, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.reader(texts)
    columns: Sequence[str] = _CODAH_COLUMNS
    for index, cells in enumerate(_rows(reader, path)):
        if header and index == 0:
            columns = [cell.strip() for cell in cells]
            if sum(_ENDING.fullmatch(name) is not None for name in columns) < 2:
                raise BertJaxError(
                    f"{path}, line 1 names the columns {', '.join(columns)}: expected at least ending0 and ending1; "
                    "without a header give --data.header False"
                )
            continue
        if len(cells) != len(columns):
            known = ", ".join(columns)
            raise BertJaxError(
                f"{path}, line {reader.line_num} has {len(cells)} columns: expected {len(columns)} ({known})"
            )
        row: dict[str, Any] = dict(zip(columns, cells, strict=True))
        endings = [(int(match[1]), cell) for name, cell in row.items() if (match := _ENDING.fullmatch(name))]
        yield reader.line_num, row | {"choices": [cell for _, cell in sorted(endings) if cell.strip()]}


def _rows(reader: Iterable[list[str]], path: Path) -> Iterator[list[str]]:
    """Rows that are not empty. Errors: `BertJaxError` for what is no table."""
    try:
        yield from (cells for cells in reader if cells)
    except csv.Error as error:
        raise BertJaxError(f"{path} is not a table: {error}") from error


def _lines(path: Path, ends: bool = False) -> Iterator[tuple[int, str]]:
    """Numbered lines of a UTF-8 file, with or without a byte-order mark; `ends`: their line ends are kept."""
    with clear_errors("read", path), open(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise BertJaxError(f"{path}, line {number} is not UTF-8 at byte {error.start}: save it so") from error
            yield number, line if ends else line.rstrip("\r\n")


def _example(row: Mapping[str, Any], data: TaskData, place: str, name: str) -> ChoiceExample:
    column = next((name for name in _CONTEXTS if name in row), None) if data.text is None else _named(row, data.text)
    if column is None:
        wanted = data.text or " or ".join(_CONTEXTS)
        raise BertJaxError(f"{place} has no {wanted} (it has {_names(row)}): expected {_OBJECT}")
    if data.label is not None and _named(row, data.label) is None:
        raise BertJaxError(f"{place} has no column {data.label}: it has {_names(row)}")
    choices, question = row.get("choices"), row.get("question", row.get("sent2", "") if column == "sent1" else "")
    texts = [row[column], question or "", *(choices if isinstance(choices, list) else [None])]
    if not all(isinstance(text, str) for text in texts):
        raise BertJaxError(f"{place}: context, question and choices must be texts: expected {_OBJECT}")
    context, question, *choices = texts
    for what, text in (("context", context), *((f"choice {index}", text) for index, text in enumerate(choices))):
        if not text.strip():
            raise BertJaxError(f"{place}: {what} is empty: expected a text")
    label = _label(row.get(_named(row, data.label or "label") or ""), place)
    return ChoiceExample(place=place, id=name, context=context, question=question, choices=tuple(choices), label=label)


def _names(row: Mapping[str, Any]) -> str:
    return ", ".join(filter(None, row)) or "none"


def _named(row: Mapping[str, Any], column: str) -> str | None:
    """The column's name, given that or its number from 0; None where there is none."""
    if column in row or not column.isdecimal():
        return column if column in row else None
    return next((name for number, name in enumerate(row) if number == int(column)), None)


def _label(value: Any, place: str) -> int | None:
    if value is None or value == "":
        return None
    number = whole_number(value) if isinstance(value, str) else value
    if type(number) is int:
        return number
    raise BertJaxError(f"{place} has the label {value!r}: expected the number of the right choice, counted from 0")
