"""Runs begun under one set of versions and continued under another: every Python given writes, every one reads.

    python tests/chaos/versions.py env311/bin/python env312/bin/python colab/bin/python

Each writes one run, all checkpoints kept. Each then continues a copy of each run from its middle; the first of all
restores the parameters and moments by their digests (see `bert_jax.train.digests`), so that only the very same bits
pass; what is trained on them after that has to agree with the writer's own second half to `--tolerance`, since other
versions of XLA sum in other orders.

Ends with one JSON object on stdout: the versions, the largest relative difference of a loss for each (writer, reader),
and `failures`, which are to be none. Exit 1 with any.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from small_run import STEPS, read, start, started_at, write_work

MIDDLE = STEPS // 2


def losses(run: Path) -> dict[int, float]:
    """The loss of every step."""
    return {line["step"]: line["loss"] for line in read(run / "metrics.jsonl") if "loss" in line}


def name_of(run: Path) -> str:
    """Python and jax that wrote a run."""
    versions = json.loads((run / "run.json").read_text())["versions"]
    return f"Python {versions['python']}, jax {versions['jax']}, orbax {versions['orbax-checkpoint']}"


def continue_copy(work: Path, written: Path, python: str, target: Path) -> str | None:
    """Continue a copy of a run from its middle under another Python; what went wrong, if anything."""
    shutil.copytree(written, target)
    for path in (target / "checkpoints").iterdir():
        if int(path.name) > MIDDLE:
            shutil.rmtree(path)
    done = start(work, target, [python, "-m", "bert_jax"], ["--checkpoint.keep", "1000"])
    if done.returncode:
        return f"exit {done.returncode}: {done.stderr[-500:]}"
    if started_at(target)[-1] != MIDDLE:
        return f"began at {started_at(target)[-1]}, not at {MIDDLE}"
    return None


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("pythons", nargs="+", help="interpreters that have this package's dependencies")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    given = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_work(work)
        runs = [work / f"written-{number}" for number in range(len(given.pythons))]
        for run, python in zip(runs, given.pythons, strict=True):
            done = start(work, run, [python, "-m", "bert_jax"], ["--checkpoint.keep", "1000"])
            if done.returncode:
                print(f"{python}: exit {done.returncode}: {done.stderr[-1000:]}", file=sys.stderr)
                return 1
        for number, run in enumerate(runs):
            for other, python in enumerate(given.pythons):
                target = work / f"read-{number}-{other}"
                problem = continue_copy(work, run, python, target)
                mine, theirs = losses(run), losses(target)
                furthest = max(abs(theirs.get(step, float("inf")) / loss - 1) for step, loss in mine.items())
                row = {"written": name_of(run), "read": name_of(runs[other]), "largest_difference": furthest}
                print(json.dumps(row), file=sys.stderr, flush=True)
                rows.append(row)
                if problem or furthest > given.tolerance or (number == other and furthest > 0):
                    failures.append(f"{row['written']} read by {row['read']}: {problem or furthest}")
    print(json.dumps({"schema": 1, "rows": rows, "failures": failures}))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
