"""A disk that is full, a folder that may not be written to or is gone: nothing half-written, training goes on.

The small disk is a real one, in memory, and mounting it takes a privileged user; elsewhere these tests are skipped, and
what they hold is tested with a limit on the size of files in the tests of each module.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_stores import lengths_store
from test_train_loop import _end, whole  # noqa: F401 - a fixture
from tiny_training import run_tiny, tiny_config

from bert_jax import cli
from bert_jax.config import Checkpoint, Log
from bert_jax.data.plan import load_plan
from bert_jax.data.store import load_store
from bert_jax.errors import BertJaxError
from bert_jax.train.checkpoint import Checkpoints, restore_params
from bert_jax.train.metrics import read_metrics

CONFIG = tiny_config(log=Log(every=4, tensorboard=True))


class SmallDisk:
    """A mounted file system with a file in it that takes what room there is."""

    def __init__(self, path: Path):
        self.path, self._ballast = path, path / "ballast"

    def fill(self, leave: int = 0) -> None:
        """Take all the room but `leave` bytes."""
        with open(self._ballast, "ab", buffering=0) as file:
            for size in (1 << 16, 1 << 10, 1):
                try:
                    while file.write(bytes(size)) == size:
                        pass
                except OSError:
                    continue
        if leave:
            os.truncate(self._ballast, self._ballast.stat().st_size - leave)

    def free(self) -> None:
        """Give the room back."""
        self._ballast.unlink(missing_ok=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """One megabyte."""
    path = tmp_path / "disk"
    path.mkdir()
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)], capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("there is no mount command: a small disk cannot be had")
    if done.returncode:
        pytest.skip(f"this user may not mount a small disk: {done.stderr.strip()}")
    yield SmallDisk(path)
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def at_steps(actions: dict[int, Callable[[], Any]]) -> Callable[[dict[str, Any]], None]:
    """Does something at the training lines of some steps."""

    def on_metrics(line: dict[str, Any]) -> None:
        if "loss" in line and line["step"] in actions:
            actions[line["step"]]()

    return on_metrics


def wait_for_save(run: Path, step: int) -> None:
    """Until a save that is under way in the background is whole."""
    begun = time.monotonic()
    while not (run / "checkpoints" / str(step)).is_dir():
        assert time.monotonic() - begun < 60
        time.sleep(0.01)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def no_part_of_a_file(folder: Path) -> bool:
    return not [path for path in folder.rglob("*") if ".partial" in path.name or "tmp" in path.name]


# --- while training ---------------------------------------------------------------------------------------------------


def test_a_full_disk_costs_saves_and_lines_but_not_the_training(
    disk: SmallDisk,
    whole: Path,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = disk.path / "run"
    seen: list[Any] = []

    def look() -> None:
        wait_for_save(run, 5)
        seen.append(restore_params(run)[1])  # checked by its digests
        disk.fill()

    # Steps 5, 10, … are saved. At 8 the disk is full: 5 is there; 10 and 15 fail; from 20 on there is room.
    found = run_tiny(run, CONFIG, on_metrics=at_steps({8: look, 12: look, 16: look, 20: disk.free}))
    assert found["step"] == 24 and not found["stopped"]
    failed = [line for line in caplog.messages if "cannot save checkpoint" in line]
    assert found["save_failures"] == len(failed) == 2
    assert all("No space left on device" in line and "training goes on" in line for line in failed)
    assert seen == [5, 5, 5]
    assert names(run / "checkpoints") == ["20", "24"]
    assert no_part_of_a_file(run)
    assert _end(run) == _end(whole)
    # Lines that did not fit are missing, those after them are whole, and nobody stumbles over the rest of one.
    assert sum("lines are missing" in line for line in caplog.messages) <= 1
    lines = read_metrics(run / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line][-2:] == [20, 24]
    assert len({json.dumps(line) for line in lines}) == len(lines)
    assert run_tiny(run, CONFIG)["step"] == 24  # opened again, and nothing is left to do
    assert [json.loads(line)["event"] for line in (run / "history.jsonl").read_text().splitlines()][-1] == "started"


@pytest.mark.ci
def test_a_disk_that_stays_full_ends_with_the_reason_and_goes_on_where_it_was(
    disk: SmallDisk,
    whole: Path,  # noqa: F811
) -> None:
    run = disk.path / "run"
    with pytest.raises(BertJaxError, match=r"cannot save checkpoint 24: No space left on device .* before it are int"):
        run_tiny(run, CONFIG, on_metrics=at_steps(dict.fromkeys((12, 16, 20, 24), disk.fill)))
    newest = restore_params(run)[1]
    assert newest in (5, 10)
    disk.free()
    assert run_tiny(run, CONFIG)["step"] == 24
    assert _end(run) == _end(whole)
    steps = [line["step"] for line in read_metrics(run / "metrics.jsonl") if "loss" in line]
    assert len(set(steps)) == len(steps)


@pytest.mark.ci
def test_metrics_history_and_events_on_a_full_disk_lose_lines_only(
    disk: SmallDisk, caplog: pytest.LogCaptureFixture
) -> None:
    """Full to the last byte within a page, so that lines are cut in the middle."""
    run, config = disk.path / "run", dataclasses.replace(CONFIG, checkpoint=Checkpoint(every=100))

    def full_at_once() -> None:
        disk.fill()
        for name in ("metrics.jsonl", "history.jsonl"):
            with open(run / name, "ab", buffering=0) as file:
                file.write(b'{"step": 3, "half a line": "' + bytes(0))
                try:
                    while file.write(b"x" * 10) == 10:
                        pass
                except OSError:
                    pass

    actions = {8: full_at_once, 12: disk.fill, 16: disk.fill, 20: disk.free}
    assert run_tiny(run, config, on_metrics=at_steps(actions))["step"] == 24
    assert sum("cannot write" in line and "lines are missing there" in line for line in caplog.messages) == 1
    assert [line["step"] for line in read_metrics(run / "metrics.jsonl") if "loss" in line] == [1, 4, 8, 24]
    last = (run / "history.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["event"] == "finished"  # on a line of its own
    before = len(read_metrics(run / "metrics.jsonl"))
    run_tiny(run, config)
    assert len(read_metrics(run / "metrics.jsonl")) == before
    assert all(json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())  # the halves are gone


@pytest.mark.ci
def test_a_folder_that_vanishes_during_a_save(
    tmp_path: Path,
    whole: Path,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, save, begun = tmp_path / "run", Checkpoints.save, []

    def save_and_vanish(self: Any, step: int, *arguments: Any) -> None:
        save(self, step, *arguments)
        begun.append(step)
        if step == 10:
            (run / "checkpoints").rename(tmp_path / "away")

    monkeypatch.setattr(Checkpoints, "save", save_and_vanish)
    found = run_tiny(run, CONFIG)
    assert begun == [5, 10, 15, 20, 24] and found["step"] == 24
    failed = [line for line in caplog.messages if "cannot save checkpoint" in line]
    assert found["save_failures"] == len(failed) >= 1
    assert names(run / "checkpoints") == ["20", "24"] and no_part_of_a_file(run)
    assert _end(run) == _end(whole)
    assert restore_params(run)[1] == 24


@pytest.mark.ci
def test_a_folder_that_may_not_be_written_to(
    whole: Path,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As another user than root, whom nothing is forbidden."""
    with tempfile.TemporaryDirectory() as folder:
        run, root = Path(folder) / "run", os.geteuid() == 0
        if root:
            os.chown(folder, 65534, 65534)
            os.seteuid(65534)
        try:
            actions = {8: lambda: wait_for_save(run, 5) or (run / "checkpoints").chmod(0o500)}
            actions[16] = lambda: (run / "checkpoints").chmod(0o700)
            found = run_tiny(run, CONFIG, on_metrics=at_steps(actions))
        finally:
            if root:
                os.seteuid(0)
        assert found["step"] == 24 and found["save_failures"] == 2
        assert any("cannot save checkpoint 10: Permission denied" in line for line in caplog.messages)
        assert names(run / "checkpoints") == ["20", "24"] and no_part_of_a_file(run)
        assert _end(run) == _end(whole)


# --- before training --------------------------------------------------------------------------------------------------


def test_a_plan_on_a_full_disk_is_one_line_and_no_part_of_a_file(disk: SmallDisk, tmp_path: Path) -> None:
    store = lengths_store(tmp_path / "store", [[7, 9, 5, 8]] * 400)
    plans = disk.path / "plans"
    plans.mkdir()
    disk.fill(leave=4096)
    with pytest.raises(BertJaxError, match=r"cannot write .*plan-\w+.rows: No space left on device") as error:
        load_plan(store, "train", length=32, seed=0, variant=0, cache_dir=plans)
    assert "\n" not in str(error.value)
    assert [name for name in names(plans) if not name.endswith(".lock")] == []
    disk.free()
    expected = load_plan(store, "train", length=32, seed=0, variant=0, cache_dir=tmp_path)
    found = load_plan(store, "train", length=32, seed=0, variant=0, cache_dir=plans)
    assert np.array_equal(found.rows, expected.rows)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """About a megabyte."""
    path = tmp_path / "corpus.txt"
    lines = [f"The river number {number} crosses the town of {number * 7 % 1000}." for number in range(20_000)]
    path.write_text("\n\n".join("\n".join(lines[first : first + 10]) for first in range(0, len(lines), 10)))
    return path


def the_error(capsys: pytest.CaptureFixture[str]) -> str:
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.ci
def test_prepare_on_a_full_disk(
    disk: SmallDisk, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["vocab", "--source", str(text), "--out", str(tmp_path / "tokenizer"), "--size", "300"]) == 0
    command = ["prepare", "--source", str(text), "--tokenizer", str(tmp_path / "tokenizer"), "--workers", "1"]
    command += ["--out", str(disk.path / "store")]
    for room in (0, 10_000, 300_000):
        capsys.readouterr()
        disk.fill(leave=room)
        assert cli.main(command) == 1
        assert "No space left on device" in the_error(capsys)
        assert not (disk.path / "store").exists() and [name for name in names(disk.path) if name != "ballast"] == []
        disk.free()
    assert cli.main(command) == 0
    load_store(disk.path / "store").verify()


@pytest.mark.ci
def test_a_start_on_a_full_disk(
    disk: SmallDisk, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From sources, whose vocabulary and store lie in the run: whatever comes first, nothing half-made is left."""
    (tmp_path / "config.py").write_text("from bert_jax import Config\n\nconfig = Config()\n")
    command = ["pretrain", str(tmp_path / "config.py"), "--run", str(disk.path / "run")]
    command += ["--data.sources", str(text), "--data.vocab-size", "300", "--data.workers", "1", "--train.steps", "2"]
    for room in (0, 8192, 300_000):
        disk.fill(leave=room)
        assert cli.main(command) == 1
        assert "No space left on device" in the_error(capsys)
        assert not (disk.path / "run" / "run.json").exists() and no_part_of_a_file(disk.path)
        disk.free()
