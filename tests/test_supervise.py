"""supervise: exit codes, signals and starting again, with commands of the shell in the worker's place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bert_jax import supervise
from bert_jax.supervise import run_directory_of, saved_steps

REPOSITORY = Path(__file__).resolve().parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
SUPERVISOR = [sys.executable, "-m", "bert_jax.supervise"]
QUICK = ("--restart", "--delay", "0.01")


def supervised(script: str, *options: str, more: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*SUPERVISOR, *options, "--", "bash", "-c", script, "worker", *more]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)


def counting(folder: Path, script: str) -> str:
    """`script` with the number of this start in $start."""
    return f"echo >>{folder}/starts; start=$(wc -l <{folder}/starts); {script}"


def starts(folder: Path) -> int:
    return len((folder / "starts").read_text())


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 0", 0),
        ("exit 1", 1),
        ("exit 75", 75),
        ("kill -KILL $$", 137),
        ("kill -TERM $$", 143),
        ("kill -ABRT $$", 134),  # of a single process: no peer was lost
    ],
)
def test_other_codes_pass_and_nothing_is_said(script: str, code: int) -> None:
    done = supervised(script)
    assert (done.returncode, done.stderr) == (code, "")


def test_an_abort_among_several_processes_means_a_lost_peer(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "40").mkdir(parents=True)
    done = supervised("touch $BERT_JAX_SUPERVISED; kill -ABRT $$", more=("--run", str(tmp_path)))
    assert done.returncode == 76
    assert done.stderr == (
        "supervisor: a peer process was lost or nothing moved: this one has ended, the newest checkpoint is step 40; "
        "start all processes again\n"
    )


def test_nothing_moving_is_said_of_a_single_process() -> None:
    done = supervised("exit 76")
    assert done.returncode == 76
    assert done.stderr.startswith("supervisor: nothing moved any more: this one has ended, no checkpoint was saved yet")


@pytest.mark.parametrize("code", [75, 76, 137, 143])
def test_started_again_until_it_is_done(tmp_path: Path, code: int) -> None:
    done = supervised(counting(tmp_path, f"[ $start = 3 ] || exit {code}"), *QUICK)
    assert (done.returncode, starts(tmp_path)) == (0, 3)
    assert f"supervisor: ended with exit {code}; starting again in 0.01 s" in done.stderr


@pytest.mark.parametrize("code", [0, 1, 2, 130, 134])
def test_other_codes_start_nothing_again(tmp_path: Path, code: int) -> None:
    done = supervised(counting(tmp_path, f"exit {code}"), *QUICK)
    assert (done.returncode, starts(tmp_path)) == (code, 1)


def test_it_gives_up_after_three_starts_without_a_new_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    script = counting(tmp_path, f"[ $start -gt 4 ] || mkdir -p {run}/checkpoints/$start; exit 76")
    done = supervised(script, *QUICK, "--starts", "3", more=("--run", str(run)))
    assert (done.returncode, starts(tmp_path)) == (76, 4 + 3)
    assert f"given up with exit 76: 3 starts in a row saved no new checkpoint ({run})" in done.stderr
    # An older step that comes back, or a damaged one that went, is no new one.
    script = counting(tmp_path, f"rm -rf {run}/checkpoints/$((12 - start)); exit 75")
    done = supervised(script, *QUICK, more=(f"--run={run}",))
    assert (done.returncode, starts(tmp_path)) == (75, 7 + 3)


def test_pauses_double_up_to_a_limit(tmp_path: Path) -> None:
    done = supervised("exit 75", "--restart", "--starts", "5", "--delay", "0.02", "--most-delay", "0.05")
    pauses = [line.split(" in ")[1].split()[0] for line in done.stderr.splitlines() if "again in" in line]
    assert pauses == ["0.02", "0.04", "0.05", "0.05"]


def test_a_signal_goes_on_to_the_worker_which_is_not_started_again(tmp_path: Path) -> None:
    script = counting(tmp_path, "trap 'echo saved; exit 75' TERM; touch $1; while :; do sleep 0.05; done")
    command = [*SUPERVISOR, *QUICK, "--", "bash", "-c", script, "worker", str(tmp_path / "ready")]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    _wait_for(tmp_path / "ready")
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30) == ("saved\n", "")
    assert (process.returncode, starts(tmp_path)) == (75, 1)


def test_a_signal_in_a_pause_ends_it_with_the_last_code(tmp_path: Path) -> None:
    command = [*SUPERVISOR, "--restart", "--delay", "60", "--", "bash", "-c", "exit 76"]
    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while "starting again" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 76


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_a_killed_supervisor_asks_its_worker_to_save(tmp_path: Path) -> None:
    script = f"trap 'touch {tmp_path}/saved; exit 75' TERM; touch {tmp_path}/ready; while :; do sleep 0.05; done"
    process = subprocess.Popen([*SUPERVISOR, "--", "bash", "-c", script], env=ENVIRONMENT)
    _wait_for(tmp_path / "ready")
    process.kill()
    assert process.wait() == -signal.SIGKILL
    _wait_for(tmp_path / "saved")  # fails when it does not come


def test_what_cannot_be_run_is_named() -> None:
    command = [*SUPERVISOR, "--restart", "--", "/no/such/program"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (
        127,
        "supervisor: cannot run /no/such/program: No such file or directory\n",
    )
    done = subprocess.run(SUPERVISOR, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "give a command behind --" in done.stderr
    assert supervise.main(["--starts", "0", "--", "true"]) == 2


def test_the_run_is_found_in_the_command() -> None:
    assert run_directory_of(["bert-jax", "pretrain", "c", "--run", "a", "--run=b"]) == Path("b")
    assert run_directory_of(["bert-jax", "pretrain", "c", "--run"]) is None
    assert saved_steps(None) == {}


def test_groups_of_a_fine_tuning_run_count(tmp_path: Path) -> None:
    for name in ("checkpoints/5.damaged", "groups/a/checkpoints/3", "groups/b/checkpoints/7", "groups/b/checkpoints/2"):
        (tmp_path / name).mkdir(parents=True)
    assert sorted(saved_steps(tmp_path).values()) == [3, 7]


def test_it_imports_nothing_heavy() -> None:
    code = "import sys, bert_jax.supervise; print([m for m in ('jax', 'tensorflow', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def _wait_for(path: Path) -> None:
    begun = time.monotonic()
    while not path.exists():
        assert time.monotonic() - begun < 30, path
        time.sleep(0.01)
