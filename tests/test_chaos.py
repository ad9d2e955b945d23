"""The commands of tests/chaos in small: a few kills, places, predictions and steps. The large runs are by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.ci

CHAOS = Path(__file__).parent / "chaos"


def result(command: str, *arguments: str) -> dict[str, Any]:
    """The JSON object that a command ends with; it has to end well."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(CHAOS.parents[1])}
    done = subprocess.run(
        [sys.executable, str(CHAOS / command), *arguments], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chaos")


def test_five_kills_and_ten_damaged_places(work: Path) -> None:
    moments = ("save", "phase switch", "deletion", "cache write", "step")
    found = result("kill.py", "--kills", "5", "--work", str(work), "--moments", *moments)
    assert found["by_moment"] == dict.fromkeys(moments, 1)
    assert found["failures"] == []
    found = result("damage.py", str(work / "whole"), "--places", "10", "--seed", "1")
    assert sum(sum(outcomes.values()) for outcomes in found["outcomes"].values()) == 10
    assert sum(found["outcomes"]["all damaged"].values()) == 1
    assert found["failures"] == []


def test_memory_is_flat_over_predictions() -> None:
    found = result("load.py", "predictions", "--count", "400")
    assert 0 < found["compilations"] <= found["buckets"]


def test_memory_is_flat_over_steps() -> None:
    assert result("load.py", "steps", "--count", "4000")["compilations"] == 0
