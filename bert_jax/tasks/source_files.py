"""The files that readers read: names and globs, lines with their numbers, and examples that cannot be used."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterator
from typing import Any

from bert_jax.console import warn
from bert_jax.errors import BertJaxError
from bert_jax.files import clear_errors, parse_json
from bert_jax.finetune_config import TaskData


def files_of(source: str) -> list[str]:
    """The files that a name or a glob stands for, sorted. Errors: `BertJaxError` where there is none."""
    if source.startswith("tfds:"):
        raise BertJaxError(f"{source}: this task reads files; write the set to one of the forms in docs/finetuning.md")
    path = os.path.expanduser(source)
    if os.path.isdir(path):
        raise BertJaxError(f"{source} is a directory: name its files, for instance {source.rstrip('/')}/*.tsv")
    found = [path] if os.path.exists(path) else sorted(p for p in glob.glob(path, recursive=True) if os.path.isfile(p))
    if not found:
        raise BertJaxError(f"no file at {source}: no such file, and no file matches; expected a path or a glob")
    return found


def text_of(path: str) -> str:
    """A UTF-8 file with or without a byte-order mark, line ends as `\\n`. Errors: `BertJaxError` with its line."""
    with clear_errors("read", path), open(path, "rb") as file:
        raw = file.read()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise BertJaxError(f"{path}, line {line} is not UTF-8: save the file as UTF-8") from error
    return text.replace("\r\n", "\n")


def lines_of(path: str) -> Iterator[tuple[int, str]]:
    """The lines of a file without their ends, counted from 1; only `\\n` ends a line."""
    text = text_of(path)
    lines = text.split("\n")
    yield from enumerate(lines[:-1] if text.endswith("\n") else lines, start=1)


def objects_of(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """JSON objects one after the other, each on one line or over several, or in one list; with their places.

    Errors: `BertJaxError` naming the line for what is no JSON, or no object.
    """
    text = text_of(path)
    position, line, counted = 0, 1, 0
    inside = text.lstrip()[:1] == "["  # one list of objects: its brackets and commas stand between them
    between = " \t\r\n[,]" if inside else " \t\r\n"
    while True:
        while position < len(text) and text[position] in between:
            position += 1
        line += text.count("\n", counted, position)
        counted = position
        if position == len(text):
            return
        place = f"{path}, line {line}"
        try:
            value, position = parse_json(text, position)
        except json.JSONDecodeError as error:
            raise BertJaxError(f"{path}, line {error.lineno} is not JSON: {error.msg}") from error
        except ValueError as error:
            raise BertJaxError(f"{place} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise BertJaxError(f"{place} holds {str(value)[:40]!r}: expected a JSON object")
        yield place, value


_WHOLE = re.compile(r"\s*(-?\d{1,18})\s*")


def whole_number(text: str) -> int | None:
    """The whole number that a text is, None for anything else, and for one of more digits than a number here has."""
    match = _WHOLE.fullmatch(text)
    return None if match is None else int(match[1])


class Unusable:
    """Examples of one source that cannot be used: counted, the first one told when all are read.

    With `data.on_error` "stop" the end of reading is then an error, with "skip" a warning.
    """

    def __init__(self, source: str, data: TaskData):
        self.source, self.stop = source, data.on_error == "stop"
        self.examples = self.count = 0
        self.first = ""

    def add(self, place: str, why: str) -> None:
        """One more."""
        self.first = self.first or f"{place}: {why}"
        self.count += 1

    def report(self) -> None:
        """Called once, after the last example. Errors: `BertJaxError` by the rule above."""
        if not self.count:
            return
        if self.stop:
            raise BertJaxError(
                f"{self.first}; {self.count} of the {self.examples} examples of {self.source} cannot be used: mend "
                "them, or leave them out with --data.on_error skip"
            )
        warn(
            f"{self.count} of the {self.examples} examples of {self.source} cannot be used and are left out; the "
            f"first is {self.first}"
        )
