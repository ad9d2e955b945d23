"""A run that moves to fewer devices, to two processes and to other mesh axes trains as if it had not moved."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from small_runs import make_store

sys.path.append(str(Path(__file__).parent / "chaos"))

import elastic


@pytest.mark.ci
def test_moved_between_devices_processes_and_axes(tmp_path: Path) -> None:
    """Two rows per chip at most: on two devices the sixteen of a batch are four microbatches, by themselves."""
    make_store(tmp_path, str(elastic.small_text(tmp_path, 12_000)), size=300)
    found = elastic.compare(tmp_path, 24, elastic.SHORT_ROUND)
    assert found["holds"], found
    assert [place for place, _ in found["places"]] == [str(place) for place in elastic.SHORT_ROUND]
    assert len(found["examples_per_epoch"]) > 1, found  # or nothing could come twice
    assert found["losses_compared"] == 24
