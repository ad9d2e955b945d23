"""Two processes that train together, each under a supervisor: one is killed, hangs, or is asked to stop."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_runs import (
    ended,
    final_digests,
    free_port,
    losses,
    make_store,
    pretrain_command,
    saved_steps,
    start,
    supervised,
    together,
)
from small_runs import wait_until as wait

pytestmark = pytest.mark.ci
STEPS, HEARTBEAT = 40, 10
MARGIN = 15.0
"""Seconds that a busy machine may take beyond the heartbeat: to notice, to end, and to be looked at."""
TINY = ("--model.num-hidden-layers", "1", "--evaluate.every", "40")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds a token store of real text."""
    folder = tmp_path_factory.mktemp("peers")
    make_store(folder)
    return folder


@pytest.fixture
def pair(folder: Path, tmp_path: Path) -> Iterator[Pair]:
    made = Pair(folder, tmp_path / "run")
    yield made
    for process in made.supervisors:
        for child in made.children(process):
            _kill(child)
        _kill(process.pid)
        process.communicate()


class Pair:
    """Two supervised processes of one training, at their beginning in the middle of it."""

    def __init__(self, folder: Path, run: Path) -> None:
        self.folder, self.run = folder, run
        self.supervisors: list[subprocess.Popen[str]] = []

    def begin(self, at_step: int, *settings: str, steps: int = STEPS, options: tuple[str, ...] = ()) -> None:
        command = pretrain_command(self.folder, self.folder / "store", self.run, steps, *TINY, *settings)
        self.supervisors = together(
            supervised(command, *options), BERT_JAX_HEARTBEAT_SECONDS=str(HEARTBEAT), PYTHONFAULTHANDLER="0"
        )
        saved = at_step > 10  # and the checkpoint of step 10 is on disk
        wait(lambda: len(losses(self.run)) >= at_step and (saved_steps(self.run) != [] or not saved), self.supervisors)

    def children(self, process: subprocess.Popen[str]) -> list[int]:
        listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        return [int(pid) for pid in listed.read_text().split()] if listed.is_file() else []

    def worker(self, index: int) -> int:
        (pid,) = self.children(self.supervisors[index])
        return pid


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


LINE = "supervisor: a peer process was lost or nothing moved: this one has ended, the newest checkpoint is step "


def test_a_killed_peer_ends_the_other_and_both_start_again_to_the_same_bits(pair: Pair, tmp_path: Path) -> None:
    pair.begin(13, "--checkpoint.every", "10", options=("--restart", "--delay", "1"))
    began = time.monotonic()
    first = pair.worker(0)
    _kill(pair.worker(1))
    wait(lambda: pair.children(pair.supervisors[0]) != [first], pair.supervisors)
    assert time.monotonic() - began < HEARTBEAT + MARGIN
    outputs = [ended(process) for process in pair.supervisors]
    assert [code for code, _, _ in outputs] == [0, 0], outputs
    assert f"{LINE}10; start all processes again" in outputs[0][2]
    assert "supervisor: ended with exit 76; starting again in 1 s" in outputs[0][2]
    assert "supervisor: ended with exit 137; starting again in 1 s" in outputs[1][2]
    assert f"resuming {pair.run} from step 10 of {STEPS}" in outputs[0][2]

    whole = Pair(pair.folder, tmp_path / "whole")
    whole.begin(0, "--checkpoint.every", "10")
    assert [ended(process)[0] for process in whole.supervisors] == [0, 0]
    assert final_digests(pair.run) == final_digests(whole.run)
    assert losses(pair.run) == losses(whole.run)
    assert list(losses(whole.run)) == list(range(1, STEPS + 1))


@pytest.mark.parametrize("hanging", [0, 1])
def test_a_peer_that_does_not_answer_ends_the_other_within_the_heartbeat(pair: Pair, hanging: int) -> None:
    """Process 0 holds the coordination service, process 1 is one of its clients."""
    pair.begin(11, "--checkpoint.every", "10", steps=100_000)
    began = time.monotonic()
    os.kill(pair.worker(hanging), signal.SIGSTOP)
    code, _, errors = ended(pair.supervisors[1 - hanging])
    assert time.monotonic() - began < HEARTBEAT + MARGIN
    assert code == 76
    assert LINE in errors.splitlines()[-1]


def test_where_the_heartbeat_sees_nothing_the_watchdog_ends_it(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "HEARTBEAT", 600)
    pair.begin(11, "--checkpoint.every", "10", "--log.watchdog-seconds", "20", steps=100_000)
    began = time.monotonic()
    os.kill(pair.worker(1), signal.SIGSTOP)
    code, _, errors = ended(pair.supervisors[0])
    # From the last step on, which was a little before; a save that waits for the other may take longer.
    assert 10 < time.monotonic() - began < 20 * 4 + MARGIN
    assert code == 76
    assert LINE in errors.splitlines()[-1]
    assert "error: nothing moved for" in errors and "exit 76, nothing saved; start again" in errors
    assert "most recent call first" in errors and "train/loop.py" in errors


def test_asked_to_stop_both_have_saved_and_left_in_ten_seconds(pair: Pair) -> None:
    """The signal comes to one of them only, as when one machine is taken away."""
    pair.begin(5, "--checkpoint.every", "100000", steps=100_000)
    began = time.monotonic()
    pair.supervisors[1].send_signal(signal.SIGTERM)
    outputs = [ended(process) for process in pair.supervisors]
    seconds = time.monotonic() - began
    assert [code for code, _, _ in outputs] == [75, 75], outputs
    (step,) = saved_steps(pair.run)
    assert f"SIGTERM: stopping at step {step} of 100000, saving" in outputs[0][2]
    assert json.loads(outputs[0][1].splitlines()[-1])["stopped"]
    assert seconds < 10 + MARGIN, seconds


def test_one_that_fails_alone_keeps_its_own_code_and_the_other_is_told(folder: Path, tmp_path: Path) -> None:
    """Only the second process has no CONFIG; the first waits for it, and not for minutes."""
    command = pretrain_command(folder, folder / "store", tmp_path / "run", STEPS, *TINY)
    join = ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", "2", "--process"]
    heartbeat = {"BERT_JAX_HEARTBEAT_SECONDS": str(HEARTBEAT)}
    first = start(supervised([*command, *join, "0"]), **heartbeat)
    began = time.monotonic()
    command[command.index("pretrain") + 1] = str(tmp_path / "none.py")
    code, _, errors = ended(start(supervised([*command, *join, "1"]), **heartbeat))
    assert code == 1
    assert "error: no configuration" in errors and "peer" not in errors
    code, _, errors = ended(first)
    assert (code, time.monotonic() - began < 120) == (76, True)
    assert "supervisor: a peer process was lost" in errors
