"""Asked to stop at some moment, a training has saved and ended in time, and goes on to the same bits."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "chaos"))

import sigterm


@pytest.mark.ci
def test_stopped_at_five_moments_and_continued(tmp_path: Path) -> None:
    """The command does twenty; here one of each kind."""
    found = sigterm.repeat(tmp_path, len(sigterm.MOMENTS), seed=1)
    assert found["final_state_equal"] and found["lines_equal"], found
    assert not found["wrong"], found
    assert not [stop for stop in found["late"] if stop["seconds"] > 3 * sigterm.LIMIT], found  # a busy machine
    assert set(found["by_moment"].values()) == {1}
    assert found["exit_codes"]["75"] >= 3, found
