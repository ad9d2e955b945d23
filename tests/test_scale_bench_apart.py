"""A benchmark in a process of its own answers with its record, or with what it died of."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bert_jax.scale import bench_apart


def test_a_process_that_fails_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = bench_apart.measure_apart(["train", "--batch", "0"])
    assert found == {"bench": "train", "error": "--batch 0: expected at least 1"}
    killed = tmp_path / "python"
    killed.write_text(f"#!{sys.executable}\nimport os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    killed.chmod(0o755)
    monkeypatch.setattr(bench_apart.sys, "executable", str(killed))
    assert bench_apart.measure_apart(["feed"])["error"] == "ended by SIGKILL, most likely for want of memory"
