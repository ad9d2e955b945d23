"""The command: a line per finding, one JSON object, exit 1 when something will fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bert_jax import cli


def test_a_healthy_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "quickstart", "--folder", str(tmp_path), "--quick"]) == 0
    out, errors = capsys.readouterr()
    found = json.loads(out)
    assert found["failing"] == 0
    assert {"packages", "limits", "folder", "devices", "mesh"} <= {one["check"] for one in found["findings"]}
    assert next(line.split()[1] for line in errors.splitlines() if line.startswith("ok")) == "packages"


def test_what_fails_is_counted_and_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "missing")
    assert cli.main(["doctor", "--folder", missing, str(tmp_path), "--quick"]) == 1
    out, errors = capsys.readouterr()
    found = json.loads(out)
    assert found["failing"] == 1
    assert next(one["status"] for one in found["findings"] if one["check"] == "folder") == "failing"
    assert f"FAIL  folder       cannot write {missing}" in errors and "→ give another folder" in errors
