"""Records of benchmarks become Markdown and CSV."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from bert_jax.errors import BertJaxError, UsageError
from bert_jax.scale.bench_table import bench_table, markdown, read_rows

ROWS = [
    {
        "bench": "train",
        "name": "base_128",
        "batch": 8,
        "mfu": 0.4512,
        "peak_bytes": 2_500_000_000,
        "versions": {"a": 1},
    },
    {"bench": "train", "name": "large", "error": "RESOURCE_EXHAUSTED: a | b\nmore", "mfu": None},
]


def test_a_table_has_the_columns_that_are_used() -> None:
    assert markdown(ROWS) == (
        "| workload | batch | MFU | peak GB | error |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| base_128 | 8 | 45.1% | 2.50 |  |\n"
        "| large |  |  |  | RESOURCE_EXHAUSTED: a \\| b more |\n"
    )


def test_tables_of_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "suite.json").write_text(json.dumps({"bench": "suite", "commit": "abc", "rows": ROWS}))
    (tmp_path / "lines.json").write_text('a log line\n{"bench": "feed", "commit": "def", "sequences_per_second": 3}\n')
    files = [str(tmp_path / name) for name in ("suite.json", "lines.json")]
    answer = bench_table(files=files, out=str(tmp_path / "out.md"))
    assert answer == {"bench": "table", "rows": 3, "out": str(tmp_path / "out.md")}
    text = (tmp_path / "out.md").read_text()
    assert capsys.readouterr().out == f"{text}\n"
    assert [line.split(" | ")[0] for line in text.splitlines()[2:]] == ["| base_128", "| large", "| feed"]
    bench_table(files=files, out=str(tmp_path / "out.csv"))
    table = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert [row["commit"] for row in table] == ["abc", "abc", "def"]
    assert json.loads(table[0]["versions"]) == {"a": 1}


def test_files_without_records_are_refused(tmp_path: Path) -> None:
    (tmp_path / "none.json").write_text('{"step": 3}\n')
    with pytest.raises(BertJaxError, match=r"none.json holds no record of a benchmark: expected the JSON"):
        read_rows(tmp_path / "none.json")
    with pytest.raises(UsageError, match="name its JSON files"):
        bench_table()
