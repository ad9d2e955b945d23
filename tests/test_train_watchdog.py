"""train.watchdog: a process in which nothing moves ends with stacks and 76, one that moves or was stopped does not."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from bert_jax.train.watchdog import PATIENCE, watchdog

REPOSITORY = Path(__file__).resolve().parent.parent
BEGIN = "import time; from bert_jax.train.watchdog import watchdog\nwith watchdog(0.4) as watch:\n"


def run(body: str, **options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BEGIN + "".join(f"    {line}\n" for line in body.splitlines())]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)


def test_a_hanging_step_ends_with_stacks_and_76() -> None:
    done = run("def all_reduce(): time.sleep(60)\nwatch.step(7)\nall_reduce()")
    assert done.returncode == 76
    assert "in all_reduce" in done.stderr and "most recent call first" in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: nothing moved for ") and "after step 7 (training)" in last
    assert "exit 76, nothing saved; start again (log.watchdog_seconds 0.4)" in last
    assert done.stdout == ""


def test_a_start_and_what_is_announced_have_more_time() -> None:
    began = time.monotonic()
    done = run("watch.step(1)\nwith watch.longer('saving'): time.sleep(60)")
    assert done.returncode == 76 and "after step 1 (saving)" in done.stderr
    assert time.monotonic() - began > 0.4 * PATIENCE
    assert "after step 0 (starting)" in run("time.sleep(60)").stderr


def test_one_that_moves_is_left_alone() -> None:
    steps = "for step in range(12):\n    watch.step(step)\n    time.sleep(0.1)"
    saves = "for _ in range(3):\n    with watch.longer('evaluating'): time.sleep(0.3)"
    done = run(f"{steps}\n{saves}\nwatch.step(13)\nprint('done')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_a_notebook_is_told_and_goes_on() -> None:
    done = run("import sys; sys.ps1 = '>>> '\nwatch.step(1)\ntime.sleep(1.5)\nprint('done')")
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert "interrupt it" in done.stderr


def test_a_process_that_was_stopped_itself_has_lost_nothing() -> None:
    body = "watch.step(1)\nprint('ready', flush=True)\ntime.sleep(0.25)\nwatch.step(2)\nprint('done')"
    code = BEGIN.replace("0.4", "1.0") + "".join(f"    {line}\n" for line in body.splitlines())
    process = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(2.5)
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=30)[0] == "done\n"
    assert process.returncode == 0


def test_none_watches_nothing() -> None:
    with watchdog(None) as watch, watch.longer("saving"):
        watch.step(3)
