"""The loop: killed anywhere it ends in the same bits, stopped it saves, and what it says is true."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny_training
from tiny_training import (
    BATCH,
    LENGTH,
    TinyFeed,
    TinyProgram,
    held_out,
    open_or_create,
    run_tiny,
    tiny_config,
    two_phases,
)

from bert_jax.config import Checkpoint, Config, Log
from bert_jax.errors import EXIT_STOPPED, BertJaxError
from bert_jax.train import chance, digests, loop
from bert_jax.train.checkpoint import Checkpoints, restore_params
from bert_jax.train.metrics import Counters, read_metrics
from bert_jax.train.signals import interrupt_if_asked

TIMES = ("time", "elapsed_seconds", "sequences_per_second", "real_tokens_per_second", "mfu")


def _curve(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what depends on the clock."""
    return [{k: v for k, v in line.items() if k not in TIMES} for line in read_metrics(run / "metrics.jsonl")]


def _end(run: Path) -> dict[str, Any]:
    """Digests of the whole state at the newest step."""
    newest = max((run / "checkpoints").iterdir(), key=lambda path: int(path.name))
    return json.loads((newest / "record" / "digests.json").read_text())["leaves"]


def _same_training(a: Path, b: Path) -> None:
    assert _curve(a) == _curve(b)
    assert _end(a) == _end(b)
    for x, y in zip(jax.tree.leaves(restore_params(a)[0]), jax.tree.leaves(restore_params(b)[0]), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run that was never interrupted."""
    path = tmp_path_factory.mktemp("whole") / "run"
    run_tiny(path, tiny_config())
    return path


# --- the story -------------------------------------------------------------------------------------------------------


def test_a_run_learns_logs_evaluates_and_saves(whole: Path) -> None:
    lines = read_metrics(whole / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == [1, 4, 8, 12, 16, 20, 24]
    assert [line["step"] for line in lines if "eval_mlm_loss" in line] == [12, 24]
    assert sorted(path.name for path in (whole / "checkpoints").iterdir()) == ["20", "24"]
    assert lines[0]["loss"] == pytest.approx(math.log(tiny_training.VOCABULARY), abs=0.2)
    assert lines[-2]["loss"] < 2.0
    assert [line["sequences_seen"] for line in lines if "loss" in line][-1] == 24 * BATCH
    assert lines[-2]["real_tokens_seen"] == 24 * BATCH * LENGTH
    assert lines[0]["sequences_per_second"] is None  # the step that compiles
    assert lines[1]["sequences_per_second"] > 0


def test_the_answer_is_the_last_of_each(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    feed = TinyFeed(tiny_config())
    found = run_tiny(tmp_path, tiny_config(), feed, on_metrics=seen.append)
    assert seen == read_metrics(tmp_path / "metrics.jsonl")
    assert (found["step"], found["total_steps"], found["stopped"]) == (24, 24, False)
    assert found["loss"] == seen[-2]["loss"]
    assert found["eval_mlm_loss"] == seen[-1]["eval_mlm_loss"]
    assert restore_params(tmp_path, "best")[1] == 24
    assert (feed.begun, feed.closed) == ([0], 1)
    again = run_tiny(tmp_path, tiny_config(), feed)  # nothing is left to do
    assert {k: v for k, v in again.items() if k not in TIMES} == {k: v for k, v in found.items() if k not in TIMES}
    assert feed.begun == [0]
    assert _curve(tmp_path) == [{k: v for k, v in line.items() if k not in TIMES} for line in seen]


def test_phases_carry_the_state_over_and_begin_their_feed_once(tmp_path: Path, whole: Path) -> None:
    config, programs = two_phases(12), []

    def program(phase: int) -> TinyProgram:
        programs.append(phase)
        return TinyProgram(phase)

    feed = TinyFeed(config)
    tiny_training.train(config, open_or_create(tmp_path, config), program, feed, {"": held_out()})
    assert feed.begun == [0, 12]
    assert feed.closed == 2
    assert programs == [0, 1]
    assert _end(tmp_path) == _end(whole)
    assert [config.span_at(step).phase for step in (0, 11, 12, 23, 24)] == [0, 0, 1, 1, 1]
    assert config.spans == ((0, 0, 12), (1, 12, 24))


def test_initial_parameters_are_used_once(tmp_path: Path, whole: Path) -> None:
    params, _ = restore_params(whole)
    found = run_tiny(tmp_path, tiny_config(4), init_params=jax.tree.map(np.asarray, params))
    first = read_metrics(tmp_path / "metrics.jsonl")[0]["loss"]
    assert first < 2.5  # not ln 32
    assert found["step"] == 4


def test_no_fetch_between_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two lines nothing waits for the newest step: a fetch there would be one per step."""
    fetched, device_get = [], jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda tree: fetched.append(tree) or device_get(tree))
    config = tiny_config(20, log=Log(every=10, tensorboard=False), checkpoint=Checkpoint(every=20))
    run_tiny(tmp_path, config, evaluations={})
    pending = [tree for tree in fetched if isinstance(tree, list) and tree and "loss" in tree[0]]
    assert [len(tree) for tree in pending] == [1, 9, 10]


# --- interrupted -----------------------------------------------------------------------------------------------------


def _worker(run: Path, *options: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, tiny_training.__file__, str(run), *options]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def _finish(worker: subprocess.Popen[str]) -> str:
    _, errors = worker.communicate(timeout=240)
    assert worker.returncode == 0, errors
    return errors


def _wait_for_step(run: Path, step: int, worker: subprocess.Popen[str]) -> None:
    """Until the feed of a worker has been asked for `step` (in this life: the file is removed before)."""
    begun = time.monotonic()
    log = run.with_suffix(".steps")
    while time.monotonic() - begun < 240:
        if log.is_file() and any(int(line) >= step for line in log.read_text().split()[:-1]):
            return
        assert worker.poll() is None, worker.communicate()
        time.sleep(0.002)
    raise AssertionError("the worker did not get there")


def _kill_at(run: Path, steps: list[int], *options: str) -> None:
    """Start, kill -9 near each of `steps` in turn, and let the last start finish."""
    moment = random.Random(5)
    for step in steps:
        run.with_suffix(".steps").unlink(missing_ok=True)
        worker = _worker(run, *options, "--seconds-per-step", "0.02")
        _wait_for_step(run, step, worker)
        time.sleep(moment.uniform(0, 0.05))
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
        assert worker.returncode == -signal.SIGKILL
    _finish(_worker(run, *options))


def test_killed_and_started_again_ends_in_the_same_bits(tmp_path: Path, whole: Path) -> None:
    _kill_at(tmp_path / "killed", [13])
    _same_training(tmp_path / "killed", whole)
    events = [json.loads(line)["event"] for line in (tmp_path / "killed" / "history.jsonl").read_text().splitlines()]
    assert [event for event in events if event != "saved"] == ["created", "started", "started", "finished"]


def test_sigterm_saves_and_exits_with_75(tmp_path: Path, whole: Path) -> None:
    run = tmp_path / "run"
    worker = _worker(run, "--seconds-per-step", "0.05")
    _wait_for_step(run, 6, worker)
    worker.send_signal(signal.SIGTERM)
    _, errors = worker.communicate(timeout=120)
    assert worker.returncode == EXIT_STOPPED, errors
    newest = max(int(path.name) for path in (run / "checkpoints").iterdir())
    assert f"SIGTERM: stopping at step {newest} of 24, saving" in errors
    assert "Traceback" not in errors


def _signal_at(step: int, number: int = signal.SIGINT) -> Any:
    def on_metrics(line: dict[str, Any]) -> None:
        if line["step"] == step and "loss" in line:
            os.kill(os.getpid(), number)

    return on_metrics


def test_in_one_process_interrupted_and_resumed(tmp_path: Path, whole: Path) -> None:
    """train, interrupt (in the middle of a log interval), train again: the bits of the uninterrupted run."""
    run, handlers = tmp_path / "run", (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    found = run_tiny(run, tiny_config(), on_metrics=_signal_at(4))
    assert found["stopped"]
    assert found["step"] == 5
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    found = run_tiny(run, tiny_config(), on_metrics=_signal_at(8, signal.SIGTERM))
    assert (found["stopped"], found["step"]) == (True, 9)
    feed = TinyFeed(tiny_config())
    assert run_tiny(run, tiny_config(), feed)["step"] == 24
    assert feed.begun == [9]
    _same_training(run, whole)


def test_an_evaluation_is_broken_off_by_a_signal_and_made_first_when_the_run_goes_on(
    tmp_path: Path, whole: Path
) -> None:
    """At step 12, where nothing else is saved, and at the last step, whose checkpoint holds the score."""
    run, seen = tmp_path / "run", []
    held, twelve = held_out(), [tiny_training.examples(1000 + index) for index in range(3)]

    def interrupted_at(*batches: int) -> Any:
        def feed() -> Any:
            for index, batch in enumerate(twelve):
                seen.append(index)
                if len(seen) in batches:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

        return tiny_training.make_evaluation(feed, 20, tiny_training.BATCH)

    found = run_tiny(run, tiny_config(), evaluations={"": interrupted_at(2)})
    assert (found["step"], found["stopped"], seen) == (12, True, [0, 1])
    assert not [line for line in read_metrics(run / "metrics.jsonl") if "eval_mlm_loss" in line]
    again = run_tiny(run, tiny_config(), evaluations={"": interrupted_at(3)})  # and once more
    assert (again["step"], again["stopped"], seen) == (12, True, [0, 1, 0])
    seen.clear()
    found = run_tiny(run, tiny_config(), evaluations={"": interrupted_at(5)})
    assert (found["step"], found["stopped"], seen) == (24, True, [0, 1, 2, 0, 1])
    feed = TinyFeed(tiny_config())
    found = run_tiny(run, tiny_config(), feed, evaluations={"": held})
    assert (found["step"], found["stopped"], feed.begun) == (24, False, [])
    _same_training(run, whole)
    records = [json.loads((path / "checkpoints/24/record/digests.json").read_text()) for path in (run, whole)]
    assert records[0]["score"] == records[1]["score"] is not None
    assert json.loads((run / "history.jsonl").read_text().splitlines()[-1])["event"] == "finished"
    assert not run_tiny(run, tiny_config(), evaluations={"": held})["stopped"]


def evaluations_of(run: Path) -> list[int]:
    return [line["step"] for line in read_metrics(run / "metrics.jsonl") if "eval_mlm_loss" in line]


@pytest.mark.parametrize("every", [5, 12])  # a checkpoint that only the stop made, and one that is there anyway
@pytest.mark.parametrize("killed", ["before", "after"])
def test_killed_around_an_evaluation_that_was_owed_it_is_made_once(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, killed: str, every: int
) -> None:
    """What a kill leaves just before, or just after, the record of the checkpoint is written anew."""

    class Killed(BaseException):
        pass

    config = dataclasses.replace(tiny_config(), checkpoint=Checkpoint(every=every, keep=1))
    amend = Checkpoints.amend

    def interrupting() -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        yield tiny_training.examples(1000)

    def dying(self: Checkpoints, *arguments: Any) -> None:
        if killed == "after":
            amend(self, *arguments)
        raise Killed

    broken = tiny_training.make_evaluation(interrupting, 20, tiny_training.BATCH)
    assert run_tiny(tmp_path, config, evaluations={"": broken})["step"] == 12
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "amend", dying)
        with pytest.raises(Killed):
            run_tiny(tmp_path, config)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["12"]
    assert evaluations_of(tmp_path) == [12]
    feed = TinyFeed(config)
    assert not run_tiny(tmp_path, config, feed)["stopped"]
    assert feed.begun == [12]
    assert evaluations_of(tmp_path) == evaluations_of(whole) == [12, 24]


def test_a_record_that_cannot_be_written_anew_costs_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run_tiny(tmp_path, tiny_config(12))
    directory = tmp_path / "checkpoints" / "12"
    before = (directory / "record" / "digests.json").read_bytes()

    def full(*_: Any) -> None:
        raise BertJaxError("cannot write digests.json: No space left on device")

    monkeypatch.setattr(digests.files, "write_json", full)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.amend(12, {}, 0.5, 0)
    assert (directory / "record" / "digests.json").read_bytes() == before
    assert any("cannot note the evaluation of checkpoint 12: cannot write" in line for line in caplog.messages)


def test_an_owed_evaluation_is_of_the_phase_that_its_step_ended(tmp_path: Path) -> None:
    phases: list[int] = []

    def noting(program: Any, params: Any) -> dict[str, Any]:
        phases.append(program.phase_index)
        return held_out()(program, params)

    def broken(program: Any, params: Any) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGTERM)
        interrupt_if_asked()
        raise AssertionError("it was asked to stop")

    run_tiny(tmp_path / "whole", two_phases(12), evaluations={"": noting})
    assert phases == [0, 1]
    phases.clear()
    assert run_tiny(tmp_path / "run", two_phases(12), evaluations={"": broken})["step"] == 12
    run_tiny(tmp_path / "run", two_phases(12), evaluations={"": noting})
    assert phases == [0, 1]


def test_an_evaluation_that_is_no_longer_wanted_is_not_owed(tmp_path: Path) -> None:
    def interrupting() -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        yield tiny_training.examples(1000)

    broken = tiny_training.make_evaluation(interrupting, 16, tiny_training.BATCH)
    found = run_tiny(tmp_path, tiny_config(12), evaluations={"": broken})
    assert (found["step"], found["stopped"]) == (12, True)
    assert not run_tiny(tmp_path, tiny_config(12), evaluations={})["stopped"]


def test_a_second_interrupt_is_not_waited_for(tmp_path: Path) -> None:
    def twice(line: dict[str, Any]) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_tiny(tmp_path, tiny_config(), on_metrics=twice)
    assert run_tiny(tmp_path, tiny_config())["step"] == 24  # lock, handlers and threads are gone


def test_trains_in_another_thread_too(tmp_path: Path) -> None:
    thread = threading.Thread(target=run_tiny, args=(tmp_path, tiny_config(4)))
    thread.start()
    thread.join()
    assert restore_params(tmp_path)[1] == 4


def test_two_writers_are_refused(tmp_path: Path) -> None:
    with open_or_create(tmp_path, tiny_config()).lock(), pytest.raises(BertJaxError, match="in use by another process"):
        run_tiny(tmp_path, tiny_config())


# --- damage, and what is not finite ----------------------------------------------------------------------------------


def test_a_damaged_newest_checkpoint_costs_its_steps_only(
    tmp_path: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    record = run / "checkpoints" / "24" / "record" / "digests.json"
    record.write_text(record.read_text().replace("a", "b", 1))
    feed = TinyFeed(tiny_config())
    assert run_tiny(run, tiny_config(), feed)["step"] == 24
    assert feed.begun == [20]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["20", "24", "24.damaged"]
    shutil.rmtree(run / "checkpoints" / "24.damaged")
    _same_training(run, whole)


def test_nothing_starts_silently_at_step_0(tmp_path: Path, whole: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for path in (run / "checkpoints").iterdir():
        (path / "record" / "digests.json").unlink()
    before = (run / "metrics.jsonl").read_text()
    with pytest.raises(BertJaxError, match="holds no good checkpoint"):
        run_tiny(run, tiny_config())
    assert (run / "metrics.jsonl").read_text() == before


def test_a_run_whose_checkpoints_are_gone_does_not_begin_anew(tmp_path: Path, whole: Path) -> None:
    """Removed, or on a disk that is not mounted: its metrics stay."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "checkpoints")
    before = (run / "metrics.jsonl").read_text()
    with pytest.raises(BertJaxError, match=r"has had checkpoints, up to step 24 at least .*put them back"):
        run_tiny(run, tiny_config())
    assert (run / "metrics.jsonl").read_text() == before


def test_the_first_save_is_in_the_history(tmp_path: Path) -> None:
    """So that it is known to be missing also where nothing else was noted before a kill."""

    def killed(line: dict[str, Any]) -> None:
        if line["step"] > 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tiny(tmp_path, tiny_config(), on_metrics=killed)
    events = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "saved"] in ([5], [10])
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(BertJaxError, match=r"has had checkpoints"):
        run_tiny(tmp_path, tiny_config())


def test_nan_stops_with_the_steps_named(tmp_path: Path) -> None:
    feed = TinyFeed(tiny_config(), poisoned=(13, 14, 15, 16))
    with pytest.raises(
        BertJaxError,
        match=r"3 update\(s\) in a row were not finite \(steps 13 to 15\) .* largest tensors: masked_lm/bias [\d.]+, "
        r"embeddings/word_embeddings [\d.]+; newest good checkpoint: .*@1[05];",
    ):
        run_tiny(tmp_path, tiny_config(), feed)
    assert feed.closed == 1
    assert restore_params(tmp_path)[1] in (10, 15)


def test_a_row_that_spans_a_resume_is_one_row(tmp_path: Path) -> None:
    feed = TinyFeed(tiny_config(), poisoned=(3, 4, 5))
    assert run_tiny(tmp_path, tiny_config(), feed, on_metrics=_signal_at(4))["step"] == 5
    with pytest.raises(BertJaxError, match=r"steps 3 to 5\)"):
        run_tiny(tmp_path, tiny_config(), feed)


def test_single_nans_are_skipped_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = run_tiny(tmp_path, tiny_config(), TinyFeed(tiny_config(), poisoned=(5, 6, 9)))
    assert (found["step"], found["skipped"]) == (24, 3)
    warnings = [line for line in caplog.messages if "not finite" in line]
    assert len(warnings) == 2
    assert "steps 5 to 6" in warnings[0]
    assert "step 9" in warnings[1]
    assert all(line["loss"] is not None for line in read_metrics(tmp_path / "metrics.jsonl") if "loss" in line)


# --- what it says ----------------------------------------------------------------------------------------------------


def test_chance_is_stated_and_a_stuck_model_warned_about_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", "bert_jax")
    run_tiny(tmp_path / "short", tiny_config(), chance={"chance_mlm_loss": 0.5})
    assert not [line for line in caplog.messages if "warning" in line]  # 24 steps say nothing
    caplog.clear()
    monkeypatch.setattr(chance, "_FEWEST_STEPS", 4)
    monkeypatch.setattr(chance, "_IMPROVING", 1.0)
    run_tiny(tmp_path / "stuck", tiny_config(), chance={"chance_mlm_loss": 0.5}, on_metrics=_signal_at(12))
    run_tiny(tmp_path / "stuck", tiny_config(), chance={"chance_mlm_loss": 0.5})
    assert sum("no better than guessing" in line for line in caplog.messages) == 1
    assert any("guessing tokens by frequency gives mlm_loss 0.500" in line for line in caplog.messages)
    caplog.clear()
    run_tiny(tmp_path / "learns", tiny_config(), chance={"chance_mlm_loss": 3.4})
    assert not [line for line in caplog.messages if "warning" in line]


def _judged(losses: dict[int, float], caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings about these losses, by step, of a run of 10,000 steps without warm-up, where chance costs 7."""
    config, counters = tiny_config(10_000), Counters()
    for step, loss in losses.items():
        counters = Counters.from_dict(json.loads(json.dumps(counters.to_dict())))  # each line after a resume
        line = {"step": step, "loss": loss, "mlm_loss": loss}
        loop._warn_if_no_better_than_chance(line, config, counters, {"chance_mlm_loss": 7.0}, True)
    found = list(caplog.messages)
    caplog.clear()
    return found


def test_a_run_that_still_improves_is_not_called_stuck(caplog: pytest.LogCaptureFixture) -> None:
    patience = chance.patience_steps(loop.stretches(tiny_config(10_000))[0].warmup_steps, 10_000)
    half = patience // 2
    assert not _judged({half: 9.0, patience: 7.5, 2 * patience: 6.5}, caplog)
    assert not _judged({half: 9.0, patience: 6.9, 2 * patience: 7.5}, caplog)  # judged once
    (text,) = _judged({half: 7.11, patience: 7.1, 2 * patience: 7.1}, caplog)
    assert f"at step {patience} mlm_loss is 7.100, no better" in text
    (text,) = _judged({half: 9.0, patience: 7.5, patience + 50: 7.5, 2 * patience: 7.45, 3 * patience: 7.4}, caplog)
    assert f"at step {2 * patience} mlm_loss is 7.450, no better" in text  # it had as long again


def test_a_first_loss_that_cannot_be_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = tiny_config(4)
    wrong = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=400))
    run_tiny(tmp_path, wrong)
    assert sum("the loss of step 0 is 3.4" in line and "5.991" in line for line in caplog.messages) == 1


def test_named_evaluations_carry_their_name(tmp_path: Path) -> None:
    run_tiny(tmp_path, tiny_config(4), evaluations={"": held_out(8), "news": held_out(16)})
    line = read_metrics(tmp_path / "metrics.jsonl")[-1]
    assert (line["eval_sequences"], line["eval_news_sequences"]) == (8, 16)


def test_a_feed_that_ends_early_is_named(tmp_path: Path) -> None:
    short = TinyFeed(tiny_config(10))
    with pytest.raises(BertJaxError, match="the feed ended before step 10: it must reach step 24"):
        run_tiny(tmp_path, tiny_config(24), short)


def test_a_trace_is_written(tmp_path: Path) -> None:
    run_tiny(tmp_path, tiny_config(6, log=Log(every=4, tensorboard=True, profile="2:4")))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


def test_failed_saves_do_not_stop_training_but_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import orbax.checkpoint as ocp

    save, calls = ocp.CheckpointManager.save, []

    def sometimes(manager: Any, step: int, **arguments: Any) -> Any:
        calls.append(step)
        if step in (5, 10):
            raise OSError(28, "No space left on device")
        return save(manager, step, **arguments)

    monkeypatch.setattr(ocp.CheckpointManager, "save", sometimes)
    found = run_tiny(tmp_path / "run", tiny_config())
    assert found["save_failures"] == 2
    assert sum("cannot save checkpoint" in line and "No space left" in line for line in caplog.messages) == 2
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["20", "24"]

    monkeypatch.setattr(
        ocp.CheckpointManager, "save", lambda *a, **k: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    with pytest.raises(BertJaxError, match="cannot save checkpoint 24: No space left"):
        run_tiny(tmp_path / "full", tiny_config())


# --- with the real model ---------------------------------------------------------------------------------------------


def _bert_config(steps: int) -> Config:
    return tiny_config(steps, log=Log(every=2, tensorboard=False), checkpoint=Checkpoint(every=3))


@pytest.mark.ci
def test_with_the_real_program(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = _bert_config(6)
    program = tiny_training.bert_program(config)
    options: dict[str, Any] = {"evaluations": {"": held_out(12)}}
    for name, stop_at in (("whole", None), ("parts", 2)):
        run = open_or_create(tmp_path / name, config)
        if stop_at is not None:
            stop = _signal_at(stop_at)
            first = tiny_training.train(config, run, program, TinyFeed(config), on_metrics=stop, **options)
            assert (first["step"], first["stopped"]) == (3, True)
        found = tiny_training.train(config, run, program, TinyFeed(config), **options)
        assert (found["step"], found["eval_sequences"]) == (6, 12)
    _same_training(tmp_path / "parts", tmp_path / "whole")
    assert not [line for line in caplog.messages if "step 0" in line]
