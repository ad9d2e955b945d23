"""Tables with named columns: marks, headers, quotes, line ends; what is wrong with a line, by file and line."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path

import pytest

from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import TaskData
from bert_jax.tasks.columns import Cells, Column, number_of, read_examples, text_of

COLUMNS = {"text": Column(("sentence",), 0), "label": Column(("label",), 1, required=False)}


def read(source: object, data: TaskData | None = None, columns: dict[str, Column] = COLUMNS) -> list[tuple]:
    def make(cells: Cells) -> tuple:
        return text_of(cells, "text"), cells.values["label"], cells.place.rsplit("/", 1)[-1], cells.id

    return list(read_examples(str(source), data or TaskData(), columns, make))


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_quotes_are_characters_in_tsv_and_quotes_in_csv(tmp_path: Path) -> None:
    tsv = write(tmp_path, "a.tsv", 'sentence\tlabel\n"half a quote\t1\n""\t0\n')
    assert read(tsv) == [('"half a quote', "1", "a.tsv, line 2", "0"), ('""', "0", "a.tsv, line 3", "1")]
    csv = write(tmp_path, "a.csv", 'label,sentence\r\n1,"one, ""two""\nthree"\r\n0,four\r\n')
    assert read(csv) == [('one, "two"\nthree', "1", "a.csv, line 2", "0"), ("four", "0", "a.csv, line 4", "1")]


def test_marks_line_ends_and_compression(tmp_path: Path) -> None:
    content = "\ufeffsentence\tlabel\r\nlines\u2028and\x0bmore\x85\t1\r\n\r\nlast\t0".encode()
    plain = read(write(tmp_path, "a.tsv", content))
    assert plain == [("lines\u2028and\x0bmore\x85", "1", "a.tsv, line 2", "0"), ("last", "0", "a.tsv, line 4", "1")]
    packed = read(write(tmp_path, "a.csv.gz", gzip.compress(b'sentence,label\n"x,y",1\n')))
    assert packed == [("x,y", "1", "a.csv.gz, line 2", "0")]
    lines = write(tmp_path, "a.jsonl", '\ufeff{"sentence": "a", "label": 1, "id": "q7"}\n\n{"sentence": "b"}\n')
    assert read(lines) == [("a", 1, "a.jsonl, line 1", "q7"), ("b", None, "a.jsonl, line 3", "1")]


def test_a_header_is_looked_for_and_not_assumed(tmp_path: Path) -> None:
    with_header = write(tmp_path, "a.tsv", "index\tlabel\tsentence\n9\t1\tx\n")
    assert read(with_header) == [("x", "1", "a.tsv, line 2", "9")]
    without = write(tmp_path, "b.tsv", "x\t1\n")
    assert read(without) == [("x", "1", "b.tsv, line 1", "0")]
    assert read(with_header, TaskData(header=False))[0][:2] == ("index", "label")
    with pytest.raises(BertJaxError, match="b.tsv has no column 'sentence'"):
        read(without, TaskData(header=True))


def test_columns_by_number_from_either_end(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tsv", "x\ty\tz\n")
    columns = {"text": Column((), 1), "label": Column((), -1, required=False)}
    assert read(path, None, columns)[0][:2] == ("y", "z")
    assert read(path, None, columns | {"label": Column((), 5, required=False)})[0][:2] == ("y", None)
    mixed = write(tmp_path, "b.tsv", "x\ty\tlabel\n1\t2\t3\n")
    assert read(mixed, None, columns | {"label": Column(("label",), None, required=False)})[0][:2] == ("2", "3")


def test_globs_are_sorted_and_counted_through(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write(tmp_path, f"{name}.tsv", f"sentence\tlabel\n{name}\t1\n")
    assert [row[0] + row[3] for row in read(tmp_path / "*.tsv")] == ["a0", "b1"]


def test_files_without_labels_say_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, "test.tsv", "index\tsentence\n0\tx\n")
    with caplog.at_level(logging.INFO, "bert_jax"):
        assert read(path)[0][:2] == ("x", None)
    assert "test.tsv has no column for label (it has index, sentence): its examples have none" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.tsv",
            "sentence\tlabel\nx\t1\ty\n",
            r"a.tsv, line 2 has 3 field\(s\): expected 2, as the header has; mend",
        ),
        ("a.tsv", "x\t1\ny\n", r"a.tsv, line 2 has 1 field\(s\): expected 2, as line 1 has"),
        ("a.csv", 'sentence,label\n"x" y,1\n', r"a.csv, line 2 is not CSV: "),
        ("a.csv", 'sentence,label\nx,1\n"y,1\nz,0\n', r"a.csv, line 3 is not CSV: unexpected end of data"),
        ("a.jsonl", '{"sentence": "x"}\n{"sentence"\n', r"a.jsonl, line 2 is not JSON: "),
        ("a.jsonl", '["x"]\n', r'a.jsonl, line 1 holds \["x"\]: expected an object with named fields'),
        ("a.jsonl", '{"txt": "x"}\n', r"a.jsonl, line 1 has no field 'sentence' \(text\): it has txt"),
        ("a.jsonl", '{"sentence": 3}\n', r"a.jsonl, line 1 has 3 for text: expected a text"),
    ],
)
def test_a_bad_line_stops_or_is_left_out(
    tmp_path: Path, name: str, content: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(BertJaxError, match=message):
        read(path)
    good = {".tsv": "good\t1\n", ".csv": "good,1\n", ".jsonl": '{"sentence": "good"}\n'}[path.suffix]
    if "end of data" not in message:
        write(tmp_path, name, content + good)
        assert read(path, TaskData(on_error="skip"))[-1][0] == "good"
        assert "1 of " in caplog.text and "examples were left out; the first: " in caplog.text


@pytest.mark.parametrize(
    ("content", "data", "columns", "message"),
    [
        (b"a\tb\n1\t2\n", TaskData(header=True), COLUMNS, r"a.tsv has no column 'sentence' \(text\): it has a, b"),
        (b"a\tb\n", TaskData(), {"text": Column(("t", "u"))}, r"no column 't' or 'u' \(text\): it has a, b"),
        (
            b"a\tb\n",
            TaskData(),
            {"text": Column((), 2)},
            r"no column 2 \(text\): its lines have 2 fields, numbered",
        ),
        (b"", TaskData(), COLUMNS, r"a.tsv is empty"),
        (b"sentence\tlabel\n", TaskData(), COLUMNS, r"holds no example$"),
        (b"sentence\tlabel\nx\n", TaskData(on_error="skip"), COLUMNS, r"holds no example that can be used"),
        (b"x\t1\n\xff\t1\n", TaskData(on_error="skip"), COLUMNS, r"a.tsv, line 2 is not UTF-8 at byte 0"),
    ],
)
def test_bad_tables(tmp_path: Path, content: bytes, data: TaskData, columns: dict, message: str) -> None:
    path = write(tmp_path, "a.tsv", content)
    with pytest.raises(BertJaxError, match=message):
        read(path, data, columns)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(BertJaxError, match="no such file, and no file matches"):
        read(tmp_path / "none.tsv")
    with pytest.raises(BertJaxError, match=r"is a directory: name its files, for instance .*/\*\.tsv"):
        read(tmp_path)


@pytest.mark.parametrize(("value", "expected"), [("0.5", 0.5), (3, 3.0), (" 1 ", 1.0), (None, None)])
def test_numbers(value: object, expected: float | None) -> None:
    assert number_of(Cells("f, line 1", "", {"label": value}, frozenset()), "label") == expected


@pytest.mark.parametrize("value", ["", "nan", "inf", "x", True, [1], "1e999"])
def test_what_is_no_number(value: object) -> None:
    with pytest.raises(BertJaxError, match="f, line 1 has .* for label: expected a number"):
        number_of(Cells("f, line 1", "", {"label": value}, frozenset()), "label")
