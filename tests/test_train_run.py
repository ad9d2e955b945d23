"""The run directory: made whole or not at all, read back anywhere, written by one process at a time."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_training import FINGERPRINTS, TinyTokenizer, open_or_create, tiny_config

from bert_jax.errors import BertJaxError
from bert_jax.train.run import create_run, is_run, open_run


def test_a_run_reads_back_also_after_a_move(tmp_path: Path) -> None:
    config = tiny_config()
    run = create_run(tmp_path / "a" / "run", config, TinyTokenizer(), FINGERPRINTS, {"dtype": "float32"}, "other@7")
    assert not is_run(tmp_path / "a")
    shutil.move(run.path, tmp_path / "moved")
    moved = open_run(tmp_path / "moved")
    assert moved.config == config
    assert moved.fingerprints == FINGERPRINTS
    assert moved.numerics["dtype"] == "float32"
    assert "jax" in moved.numerics
    assert moved.initialized_from == "other@7"
    assert (moved.tokenizer / "vocab.txt").is_file()
    assert "/a/" not in (tmp_path / "moved" / "run.json").read_text()


def test_a_second_run_in_the_same_place_is_refused(tmp_path: Path) -> None:
    open_or_create(tmp_path, tiny_config())
    with pytest.raises(BertJaxError, match="holds a run already"):
        create_run(tmp_path, tiny_config(), TinyTokenizer(), FINGERPRINTS, {})


def test_checkpoints_without_a_run_are_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    with pytest.raises(BertJaxError, match=r"holds checkpoints but .* no run.json"):
        create_run(tmp_path, tiny_config(), TinyTokenizer(), FINGERPRINTS, {})


def test_a_making_that_was_killed_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(run: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("bert_jax.train.run.Run.write", killed)
        with pytest.raises(KeyboardInterrupt):
            create_run(tmp_path, tiny_config(), TinyTokenizer(), FINGERPRINTS, {})
    assert not is_run(tmp_path)
    (tmp_path / "tokenizer" / "vocab.txt").unlink()  # as if nothing had been written
    create_run(tmp_path, tiny_config(), TinyTokenizer(), FINGERPRINTS, {})
    assert is_run(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.update(format=99), "has format 99, this version reads 1: install a newer"),
        (lambda values: values.pop("config"), "is not as it was written"),
        (
            lambda values: values["config"]["optimizer"].update(learning_rate=None),
            r"run.json: optimizer.learning_rate is None: expected float",
        ),
        (lambda values: values["config"].update(trian={}), r"run.json: unknown config field trian"),
        (lambda values: values["config"]["train"].update(stepz=3), "unknown config field train.stepz"),
    ],
)
def test_a_broken_run_file_is_named(tmp_path: Path, change: object, message: str) -> None:
    open_or_create(tmp_path, tiny_config())
    values = json.loads((tmp_path / "run.json").read_text())
    change(values)  # type: ignore[operator]
    (tmp_path / "run.json").write_text(json.dumps(values))
    with pytest.raises(BertJaxError, match=message):
        open_run(tmp_path)


@pytest.mark.parametrize("changed", [("1e-12", "1e-02"), ('"store": "bb', '"store": "bc'), ('"seed": 0', '"seed": 1')])
def test_a_changed_number_is_not_another_run(tmp_path: Path, changed: tuple[str, str]) -> None:
    open_or_create(tmp_path, tiny_config())
    text = (tmp_path / "run.json").read_text()
    assert changed[0] in text
    (tmp_path / "run.json").write_text(text.replace(*changed, 1))
    with pytest.raises(BertJaxError, match=r"run.json is not as it was written \(its checksum is another\)"):
        open_run(tmp_path)


def test_a_run_of_before_checksums_is_read(tmp_path: Path) -> None:
    created = open_or_create(tmp_path, tiny_config())
    values = json.loads((tmp_path / "run.json").read_text())
    del values["checksum"]
    (tmp_path / "run.json").write_text(json.dumps(values))
    assert open_run(tmp_path).config == created.config


def test_what_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(BertJaxError, match="is no run directory: it holds no run.json"):
        open_run(tmp_path)
    with pytest.raises(BertJaxError, match="it does not exist"):
        open_run(tmp_path / "missing")
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(BertJaxError, match="is not JSON"):
        open_run(tmp_path)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    run = open_or_create(tmp_path, tiny_config())
    with run.lock(), run.lock():  # the same run may hold it twice
        other = open_run(tmp_path)
        with pytest.raises(BertJaxError, match="is in use by another process"), other.lock():
            pass
    with open_run(tmp_path).lock():
        pass


def test_a_dead_writer_holds_no_lock(tmp_path: Path) -> None:
    open_or_create(tmp_path, tiny_config())
    code = (
        f"import os, sys; sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parent.parent)]!r}\n"
        "from bert_jax.train.run import open_run\n"
        f"open_run({str(tmp_path)!r}).lock().__enter__()\n"
        "os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    with open_run(tmp_path).lock():
        pass


def test_calibrated_minutes_are_remembered(tmp_path: Path) -> None:
    config = dataclasses.replace(tiny_config(), train=dataclasses.replace(tiny_config().train, steps=321))
    create_run(tmp_path, config, TinyTokenizer(), {"tokenizer": "t"}, {}, calibrated_minutes=5.0)
    again = open_run(tmp_path)
    assert (again.config.train.steps, again.config.train.minutes, again.calibrated_minutes) == (321, None, 5.0)
    assert json.loads((tmp_path / "history.jsonl").read_text().splitlines()[-1])["steps"] == 321
