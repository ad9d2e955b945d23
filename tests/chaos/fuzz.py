"""Feed damaged files to every reader: each answers with a value or one clear error of ours, in bounded time and memory.

    python tests/chaos/fuzz.py --seconds 60 [--seed N] [--only squad,conll,models] [--keep DIR] [--list]

Real files (`BERT_JAX_TEST_DATA`) and ones this package writes are damaged (`mutations.py`) and fed to their readers
(`fuzz_targets.py`) in a child process, with a limit on the memory that a case may add and on the time it may take. One
JSON object ends stdout: per target cases, values, errors of ours and everything else, each with the folder that
reproduces it (`--again FOLDER`). Exit 0 when there is nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fuzz_targets import TARGETS, damageable, data_folder
from mutations import mutate

MEMORY_BYTES = 1 << 30
"""More than this for one case of some kilobytes is a huge allocation."""
CASE_SECONDS = 30.0
START_SECONDS = 180.0


# --- the child: case after case ---------------------------------------------------------------------------------------


def work(folder: Path) -> None:
    """Read lines of a target and a seed from stdin, damage, feed, and answer each with one line of JSON.

    Without a seed it is the undamaged case, which has to come first and has no limit.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for line in sys.stdin:
        name, _, seed = line.strip().partition(" ")
        target, whole, place = TARGETS[name], folder / name / "whole", folder / name / "case"
        if seed:
            done = prepare(name, whole, place, int(seed))
            with limited_memory():
                answer = {**outcome(target.feed, place), "damage": done}
        else:
            whole.mkdir(parents=True)
            target.build(whole, data_folder())
            shutil.copytree(whole, place / "input")
            answer = outcome(target.feed, place)
        answers.write(json.dumps(answer) + "\n")


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """An allocation beyond what this process has by now, and MEMORY_BYTES more, fails."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY_BYTES, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def prepare(name: str, whole: Path, place: Path, seed: int) -> str:
    """Make the case of `seed` at `place`, beside a file that nothing may touch; what was done to which file."""
    rng = random.Random(f"{name} {seed}")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    shutil.copytree(whole, place / "input")
    chosen = rng.choice(damageable(whole, TARGETS[name])).relative_to(whole)
    path = place / "input" / chosen
    if rng.random() < 0.03:
        path.unlink()
        way = rng.choice(("directory", "loop", "dangling", "elsewhere", "missing"))
        if way == "directory":
            path.mkdir()
        elif way != "missing":
            path.symlink_to({"loop": path.name, "dangling": "../nothing", "elsewhere": "/etc/hostname"}[way])
        return f"{chosen}: {way}"
    data, done = mutate(path.read_bytes(), path.name, rng)
    path.write_bytes(data)
    return f"{chosen}: {done}"


def outcome(feed: Any, place: Path) -> dict[str, str]:
    """`value`, `error` (one of ours), or what else came, with its traceback."""
    from bert_jax.errors import BertJaxError

    try:
        feed(place / "input")
    except BertJaxError as error:
        return {"outcome": "error", "detail": str(error)[:300]}
    except BaseException as error:
        steps = [step for step in traceback.extract_tb(error.__traceback__) if "/bert_jax/" in step.filename]
        where = f"{steps[-1].filename.rsplit('/bert_jax/')[-1]}:{steps[-1].lineno}" if steps else "?"
        detail = "".join(traceback.format_exception(error))[-3000:]
        return {"outcome": f"{type(error).__name__} in {where}", "detail": detail}
    if any(path.name not in ("input", "saved", "cache") for path in place.iterdir()):
        return {"outcome": "wrote outside", "detail": str(sorted(path.name for path in place.iterdir()))}
    return {"outcome": "value", "detail": ""}


# --- the parent -------------------------------------------------------------------------------------------------------


class Child:
    """A process that feeds targets; all that it writes lies in `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.ready: set[str] = set()
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "tmp").mkdir(parents=True)
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "TMPDIR": str(folder / "tmp"),
            "PYTHONWARNINGS": "ignore",
        }
        self.log = open(folder / "stderr", "wb")  # noqa: SIM115 - closed with the child
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--work", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=environment,
        )

    def ask(self, name: str, seed: int | None, seconds: float) -> dict[str, str]:
        """Its answer for one case; without one in time, or ever, what became of it."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{name} {'' if seed is None else seed}\n".encode())
        self.process.stdin.flush()
        waiting, _, _ = select.select([self.process.stdout], [], [], seconds)
        line = self.process.stdout.readline() if waiting else b""
        if line.endswith(b"\n"):
            return json.loads(line)
        if not waiting:
            self.end()
            return {"outcome": "hang", "detail": f"no answer in {seconds:.0f} s"}
        self.process.wait()
        self.end()
        said = (self.folder / "stderr").read_bytes()[-2000:].decode("utf-8", "replace")
        return {"outcome": f"died ({self.process.returncode})", "detail": said}

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def end(self) -> None:
        """Stop it, if it runs."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.log):
            if pipe is not None:
                pipe.close()


def fuzz(names: Sequence[str], seconds: float, seed: int, folder: Path, keep: Path) -> dict[str, Any]:
    """Feed targets, each for some seconds."""
    results: dict[str, Any] = {}
    child = Child(folder)
    for name in names:
        found = results[name] = {
            "cases": 0,
            "values": 0,
            "errors": 0,
            "others": {},
            "slowest_seconds": 0.0,
            "examples": [],
        }
        left = seconds
        while left > 0:
            if child.ended:
                child = Child(folder)
            if name not in child.ready:
                child.ready.add(name)
                answer, number = child.ask(name, None, START_SECONDS), None
                if answer["outcome"] == "value":
                    continue
                left = 0.0
            else:
                number, began = seed * 1_000_000 + found["cases"], time.monotonic()
                answer = child.ask(name, number, CASE_SECONDS)
                took = time.monotonic() - began
                left -= took
                if took > found["slowest_seconds"]:
                    found["slowest_seconds"], found["slowest"] = round(took, 2), f"{number} {answer.get('damage')}"
            _note(found, answer, child.folder / name / "case", keep / f"{name}-{number}")
        print(f"{name}: {found['cases']} cases, {found['others'] or 'nothing else'}", file=sys.stderr, flush=True)
    child.end()
    return results


def _note(found: dict[str, Any], answer: dict[str, str], case: Path, kept: Path) -> None:
    """Count one answer; of each kind that should not be, the first case is kept."""
    kind = answer["outcome"]
    found["cases"] += 1
    if kind in ("value", "error") and "damage" in answer:
        found[f"{kind}s"] += 1
        return
    found["others"][kind] = found["others"].get(kind, 0) + 1
    if found["others"][kind] == 1:
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(case, kept, symlinks=True)
        found["examples"].append({**answer, "folder": str(kept)})


def chosen(only: str | None) -> list[str]:
    """Names of targets, given those of targets and groups."""
    if only is None:
        return list(TARGETS)
    wanted = only.split(",")
    unknown = set(wanted) - {*TARGETS, *(target.group for target in TARGETS.values())}
    if unknown:
        raise SystemExit(f"no target or group {', '.join(sorted(unknown))}: see --list")
    return [name for name, target in TARGETS.items() if name in wanted or target.group in wanted]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together, their start not counted")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="names of targets or groups, with commas")
    parser.add_argument("--keep", type=Path, help="where reproducing cases go (default: a temporary folder)")
    parser.add_argument("--again", type=Path, help="feed one kept case, in this process, and show what comes")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work)
        return 0
    if given.list:
        for name, target in TARGETS.items():
            print(f"{target.group:<12}{name}")
        return 0
    if given.again:
        target = TARGETS[given.again.name.rsplit("-", 1)[0]]
        print(json.dumps(outcome(target.feed, given.again), indent=2))
        return 0
    names = chosen(given.only)
    keep = given.keep or Path(tempfile.mkdtemp(prefix="bert_jax_fuzz_"))
    with tempfile.TemporaryDirectory(prefix="bert_jax_fuzzing_") as scratch:
        results = fuzz(names, given.seconds / len(names), given.seed, Path(scratch) / "child", keep)
    totals = {key: sum(result[key] for result in results.values()) for key in ("cases", "values", "errors")}
    others = sum(sum(result["others"].values()) for result in results.values())
    print(json.dumps({"schema": 1, "seed": given.seed, **totals, "others": others, "targets": results}, indent=2))
    if given.keep is None and not others:
        shutil.rmtree(keep, ignore_errors=True)
    return int(others > 0)


if __name__ == "__main__":
    sys.exit(main())
