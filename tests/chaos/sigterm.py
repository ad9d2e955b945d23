"""A training that is asked to stop at random moments, again and again, beside the same training left alone.

    python tests/chaos/sigterm.py [--count 20] [--seed 0] [--processes 1] [--folder DIR]

The moments: while it starts, in the first step (compilation), in a step, in a save, in an evaluation. Each stop has to
end with exit 75 (or 143 before there is a run to save), 10 s and one save after the signal at most; the last start ends
the run, whose final arrays and losses have to be those of the run that was left alone. Prints one JSON object; exit 1
when something does not hold.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))  # what the tests share

import tiny_training
from small_run import told
from small_runs import ended, environment, final_digests, losses, make_store, pretrain_command, saved_steps, together

LIMIT = 10.0
"""Seconds beside the save itself, which takes milliseconds here."""
MOMENTS = ("start", "compile", "step", "save", "evaluation")
SECONDS_PER_STEP = 0.02


class Training:
    """How a training is started, alone or as two processes, and how its moments are recognised on disk."""

    def __init__(self, folder: Path, processes: int, steps: int) -> None:
        self.folder, self.processes, self.steps = folder, processes, steps
        if processes > 1:
            make_store(folder)

    def start(self, run: Path, *, slowly: bool) -> list[subprocess.Popen[str]]:
        if self.processes > 1:
            settings = ("--checkpoint.every", "5", "--evaluate.every", "12")
            settings += ("--model.num-hidden-layers", "1", "--train.steps", str(self.steps))
            command = pretrain_command(self.folder, self.folder / "store", run, self.steps, *settings)
            return together(command, 1, self.processes)
        command = [sys.executable, tiny_training.__file__, str(run), "--steps", str(self.steps)]
        command += ["--seconds-per-step", str(SECONDS_PER_STEP)] if slowly else []
        errors, out = subprocess.PIPE, subprocess.PIPE
        return [subprocess.Popen(command, env=environment(1), stdout=out, stderr=errors, text=True)]


def moment(name: str, run: Path, chance: random.Random) -> tuple[Callable[[], bool], float]:
    """What to wait for, and how many seconds more."""
    starts, lines, saved = _starts(run), len(losses(run)), set(saved_steps(run))
    newest = max(saved, default=0)
    after = max(losses(run), default=0)
    if name == "start":
        return lambda: True, chance.uniform(0.0, 3.0)
    if name == "compile":
        return lambda: _starts(run) > starts, chance.uniform(0.0, 0.5)
    if name == "save":
        folder = run / "checkpoints"
        return lambda: any(_begun(path.name, newest) for path in folder.glob("*")), chance.uniform(0.0, 0.005)
    if name == "evaluation":
        return lambda: _evaluable(run, after), chance.uniform(0.0, 0.01)
    wanted = chance.randint(1, 12)
    return lambda: len(losses(run)) > lines and max(losses(run)) >= after + wanted, chance.uniform(0.0, 0.05)


def _starts(run: Path) -> int:
    history = run / "history.jsonl"
    return history.read_text().count('"started"') if history.is_file() else 0


def _begun(name: str, newest: int) -> bool:
    number = name.split(".")[0]
    return number.isdecimal() and int(number) > newest


def _evaluable(run: Path, after: int) -> bool:
    """The line before an evaluation was just written: log.every and evaluate.every meet at every twelfth step."""
    return any(step > after and step % 12 == 0 for step in losses(run))


def stop_once(training: Training, run: Path, name: str, chance: random.Random) -> dict[str, Any]:
    """Start, wait for the moment, signal all processes; what came of it."""
    processes = training.start(run, slowly=True)
    reached, more = moment(name, run, chance)
    while not reached() and all(process.poll() is None for process in processes):
        time.sleep(0.002)
    time.sleep(more)
    began = time.monotonic()
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    outcomes = [ended(process) for process in processes]
    codes = [code if code >= 0 else 128 - code for code, _, _ in outcomes]
    traced = any("Traceback" in errors for _, _, errors in outcomes)
    found = {"moment": name, "codes": codes, "seconds": round(time.monotonic() - began, 2), "traceback": traced}
    return {**found, "step": max(saved_steps(run), default=0)}


def repeat(folder: Path, count: int, seed: int, processes: int = 1) -> dict[str, Any]:
    """What the module prints."""
    chance, steps = random.Random(seed), 24 * max(1, count)
    training = Training(folder, processes, steps)
    whole, run = folder / "whole", folder / "stopped"
    for process in training.start(whole, slowly=False):
        assert ended(process, 1200)[0] == 0
    order = [MOMENTS[index % len(MOMENTS)] for index in range(count)]
    chance.shuffle(order)
    stops = [stop_once(training, run, name, chance) for name in order]
    for process in training.start(run, slowly=False):
        code, _, errors = ended(process, 1200)
        assert code == 0, errors[-3000:]
    late = [stop for stop in stops if stop["seconds"] > LIMIT]
    # 143: before the handler stands; 0: the signal came when the run had ended.
    wrong = [stop for stop in stops if not set(stop["codes"]) <= {75, 143, 0} or stop["traceback"]]
    result: dict[str, Any] = {
        "count": count,
        "processes": processes,
        "steps": steps,
        "by_moment": {name: sum(stop["moment"] == name for stop in stops) for name in MOMENTS},
        "exit_codes": {str(code): sum(stop["codes"][0] == code for stop in stops) for code in (75, 143, 0)},
        "longest_seconds": max(stop["seconds"] for stop in stops),
        "late": late,
        "wrong": wrong,
        "final_state_equal": final_digests(run) == final_digests(whole),
        "lines_equal": told(run) == told(whole),  # of training and of evaluations, each once and in order
    }
    result["holds"] = bool(result["final_state_equal"] and result["lines_equal"] and not late and not wrong)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1, choices=(1, 2))
    parser.add_argument("--folder", type=Path, help="where to work, kept (default: a temporary one)")
    found = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bert_jax_sigterm_") as temporary:
        folder = found.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        result = repeat(folder, found.count, found.seed, found.processes)
    print(json.dumps(result, indent=1))
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
