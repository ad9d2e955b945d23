"""`bench table`: records of benchmarks as one Markdown or CSV table."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bert_jax.errors import BertJaxError, UsageError
from bert_jax.files import clear_errors, write_text

# Column, the keys it is read from (the first that is there), and how it is written.
COLUMNS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("workload", ("name", "peer", "bench"), "s"),
    ("model", ("model",), "s"),
    ("batch", ("batch",), "d"),
    ("length", ("length",), "d"),
    ("attention", ("attention_engine",), "s"),
    ("sequences/s", ("sequences_per_second",), ".1f"),
    ("real tokens/s", ("real_tokens_per_second",), ".0f"),
    ("MB/s", ("megabytes_per_second",), ".1f"),
    ("MFU", ("mfu",), ".1%"),
    ("padding", ("padding_share",), ".1%"),
    ("p50 s", ("seconds_p50",), ".4f"),
    ("p99 s", ("seconds_p99",), ".4f"),
    ("compile s", ("compile_seconds",), ".1f"),
    ("peak GB", ("peak_bytes",), "gigabytes"),
    ("MB sent by each", ("sent_bytes",), "megabytes"),
    ("device", ("device_kind",), "s"),
    ("devices", ("devices",), "d"),
    ("dtype", ("dtype",), "s"),
    ("commit", ("commit",), "s"),
    ("error", ("error",), "s"),
)
_UNITS = {"megabytes": 1e6, "gigabytes": 1e9}


def bench_table(*, files: Sequence[str] = (), out: str | None = None) -> dict[str, Any]:
    """Print the records in `files` (of `bench`, its suite or sweep, the peers' script, or one a line) as Markdown.

    Returns how many there were and where they were written.
    `out`: also written there, as CSV with every key where the name ends in .csv, else as Markdown. Columns in which no
    record has anything are left out. Errors: `UsageError` without files, `BertJaxError` for one that holds no records.
    """
    if not files:
        raise UsageError("bench table reads what bench wrote: name its JSON files")
    rows = [row for name in files for row in read_rows(Path(name))]
    text = markdown(rows)
    if out is not None:
        write_text(out, as_csv(rows) if out.endswith(".csv") else text)
    sys.stdout.write(f"{text}\n")
    return {"bench": "table", "rows": len(rows), "out": out}


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The records of one file, those of a suite or sweep one by one, each with what the whole says of the machine."""
    with clear_errors("read", path):
        text = path.read_text(encoding="utf-8", errors="replace")
    found = []
    for value in _values(text):
        if not isinstance(value, dict):
            continue
        if isinstance(value.get("rows"), list):
            shared = {name: value[name] for name in ("commit", "versions", "cores") if value.get(name) is not None}
            found += [shared | row for row in value["rows"] if isinstance(row, dict)]
        elif "bench" in value or "peer" in value:
            found.append(value)
    if not found:
        raise BertJaxError(f"{path} holds no record of a benchmark: expected the JSON that `bert-jax bench` prints")
    return found


def _values(text: str) -> Iterable[Any]:
    """The JSON values of a text: the whole, or its lines; what is none (a log) is passed over."""
    try:
        return [json.loads(text)]
    except ValueError:
        values = []
        for line in text.splitlines():
            try:
                values.append(json.loads(line))
            except ValueError:
                continue
        return values


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table of the columns in which some row has a value."""
    cells = [[_cell(row, keys, form) for _, keys, form in COLUMNS] for row in rows]
    used = [index for index in range(len(COLUMNS)) if any(line[index] for line in cells)]
    header = [COLUMNS[index][0] for index in used]
    lines = [header, ["---"] * len(used), *([line[index] for index in used] for line in cells)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(row: Mapping[str, Any], keys: Sequence[str], form: str) -> str:
    value = next((row[key] for key in keys if row.get(key) is not None), None)
    if value is None:
        return ""
    if form in _UNITS:
        return f"{value / _UNITS[form]:.2f}"
    if form == "s" or isinstance(value, str):
        return " ".join(str(value).split()).replace("|", "\\|")
    return format(value, form)


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Every key of every row as a column; what is not a number or a text as JSON."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        values = (row.get(name) for name in names)
        writer.writerow([json.dumps(value) if isinstance(value, dict | list) else value for value in values])
    return file.getvalue()
