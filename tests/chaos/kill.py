"""Kill a pre-training run again and again, at random moments of every kind, and compare it with one left alone.

    python tests/chaos/kill.py --kills 100
    python tests/chaos/kill.py --kills 5 --seed 3 --work scratch      (keeps what it makes there)

Each victim is `bert-jax pretrain` in a process of its own that ends itself by SIGKILL at its moment: nothing is flushed
and no handler runs. The moments go round: during start-up, while the step is compiled, in a step, while a checkpoint
is written in the background, inside the deletion of an old one (some of its files are gone), in the middle of writing
a program to jax's compilation cache (half of it is on disk), in an evaluation, where a phase begins. After every few
kills the run is let finish, and has to be, bit for bit, the run that was never killed; then the next one begins.

Ends with one JSON object on stdout: kills by moment, runs, the most steps that one kill cost, and `failures`, which are
to be none. Exit 1 with any.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from small_run import EVERY, STEPS, digests, newest, start, started_at, told, training_steps, write_work

MOMENTS = ("start", "compile", "step", "save", "deletion", "cache write", "evaluation", "phase switch")
KILLS_PER_RUN = 8


# --- the victim -------------------------------------------------------------------------------------------------------


def die() -> None:
    """What the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_within(seconds: float, draw: random.Random) -> None:
    """Die at a moment up to `seconds` from now, wherever the program is then."""
    timer = threading.Timer(draw.uniform(0, seconds), die)
    timer.daemon = True
    timer.start()


def before(owner: Any, name: str, act: Callable[..., Any]) -> None:
    """Call `act` with the arguments of every call of `owner.name`, and then the function itself."""
    function = getattr(owner, name)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        act(*arguments, **named)
        return function(*arguments, **named)

    setattr(owner, name, wrapped)


def arm(moment: str, draw: random.Random) -> None:
    """Let this process die at the `moment`, where it comes to one."""
    if moment == "start":
        die_within(4.0, draw)
    elif moment in ("compile", "step", "phase switch"):
        arm_steps(moment, draw)
    elif moment == "save":
        from bert_jax.train import checkpoint

        save = checkpoint.Checkpoints.save

        def saved(*arguments: Any, **named: Any) -> None:
            save(*arguments, **named)
            die_within(0.3, draw)

        checkpoint.Checkpoints.save = saved  # type: ignore[method-assign]
    elif moment == "deletion":
        arm_deletion(draw)
    elif moment == "cache write":
        arm_cache(draw)
    elif moment == "evaluation":
        from bert_jax.train import loop

        before(loop, "_evaluate", lambda *_: die_within(0.2, draw))


def arm_steps(moment: str, draw: random.Random) -> None:
    """Die in a step: the first of this process, which is compiled; the first of a later phase; or any."""
    from bert_jax.train import loop

    work, doomed = loop._work, draw.randrange(2, 12)

    def watched(*arguments: Any) -> Iterator[Any]:
        for number, item in enumerate(work(*arguments)):
            if moment == "compile" and number == 0:
                die_within(1.5, draw)
            elif (moment == "step" and number == doomed) or (moment == "phase switch" and item.fresh and number):
                die_within(0.2, draw)
            yield item

    loop._work = watched  # type: ignore[assignment]


def arm_deletion(draw: random.Random) -> None:
    """Die between the files of an old checkpoint that is deleted, or between its renaming and its first file."""
    from bert_jax.train import checkpoint

    left: list[int] = []
    before(checkpoint, "_delete", lambda *_: left or left.append(draw.randrange(12)))

    def unlinking(*_: Any, **__: Any) -> None:
        if left:
            left[0] -= 1
            if left[0] < 0:
                die()

    before(os, "unlink", unlinking)
    before(os, "rmdir", unlinking)


def arm_cache(draw: random.Random) -> None:
    """Die with a part of a compiled program on disk, as a plain write leaves it."""
    from jax._src import lru_cache

    put, doomed = lru_cache.LRUCache.put, [draw.randrange(3)]

    def torn(self: Any, key: str, value: bytes) -> None:
        doomed[0] -= 1
        if doomed[0] < 0:
            put(self, key, value[: draw.randrange(len(value))])
            die()
        put(self, key, value)

    lru_cache.LRUCache.put = torn  # type: ignore[method-assign]


# --- the tormentor ----------------------------------------------------------------------------------------------------


class Torment:
    """Runs under `work`: the one that is left alone, and those that are killed."""

    def __init__(self, work: Path, seed: int, moments: Sequence[str] = MOMENTS):
        self.work, self.draw, self.moments = work, random.Random(seed), moments
        self.kills: collections.Counter[str] = collections.Counter()
        self.escaped = self.most_repeated = self.runs = 0
        self.failures: list[str] = []
        write_work(work)
        self.whole = work / "whole"
        self.finish(self.whole)

    def process(self, run: Path, moment: str | None) -> subprocess.CompletedProcess[str]:
        """One start of `bert-jax pretrain` on `run`, killed at `moment` if there is one and it comes there."""
        seed = str(self.draw.randrange(2**31))
        return start(self.work, run, [sys.executable, __file__, "--victim", moment or "none", "--seed", seed, "--"])

    def finish(self, run: Path) -> str:
        """Let a run come to its end. Returns what it said."""
        done = self.process(run, None)
        if done.returncode:
            self.failures.append(f"{run.name} did not finish: exit {done.returncode}: {done.stderr[-500:]}")
        return done.stderr

    def kill(self, run: Path, moment: str) -> None:
        """One kill, and what must hold right after it."""
        if moment == "cache write":  # programs that are there already are not written
            for file in (self.work / "compiled").glob("*"):
                file.unlink()
        begun, starts = newest(run), len(started_at(run))
        done = self.process(run, moment)
        if done.returncode == -signal.SIGKILL:
            self.kills[moment] += 1
        elif done.returncode == 0:
            self.escaped += 1
        else:
            self.failures.append(f"{run.name}, {moment}: exit {done.returncode}: {done.stderr[-500:]}")
        reached, kept = max(training_steps(run), default=0), newest(run)
        if kept < begun:
            self.failures.append(f"{run.name}, {moment}: checkpoint {begun} is gone, {kept} is the newest")
        if any(step < begun for step in started_at(run)[starts:]):
            self.failures.append(f"{run.name}, {moment}: began at {started_at(run)[-1]}, not at checkpoint {begun}")
        # One interval is lost at most, and what is done while a checkpoint is on its way: the next one waits for it.
        self.most_repeated = max(self.most_repeated, reached - kept)
        if reached - kept > 2 * EVERY:
            self.failures.append(f"{run.name}, {moment}: {reached} steps were done and {kept} are kept")

    def compare(self, run: Path) -> None:
        """A run that was killed and finished against the one left alone."""
        steps = training_steps(run)
        if steps != list(range(1, STEPS + 1)):
            self.failures.append(f"{run.name}: its metrics have the steps {steps}")
        if told(run) != told(self.whole):
            self.failures.append(f"{run.name}: its metrics differ")
        if digests(run) != digests(self.whole):
            self.failures.append(f"{run.name}: its last state differs")
        strange = [path.name for path in (run / "checkpoints").iterdir() if not path.name.isdecimal()]
        if strange:
            self.failures.append(f"{run.name}: left over in checkpoints: {strange}")

    def go(self, kills: int, told_at: Callable[[str], None]) -> dict[str, Any]:
        """`kills` kills over as many runs as it takes; the result."""
        begun, run = time.monotonic(), self.work / "killed-0"
        while sum(self.kills.values()) < kills and not self.failures:
            count = sum(self.kills.values())
            self.kill(run, self.moments[count % len(self.moments)])
            told_at(f"{sum(self.kills.values())} kills, step {newest(run)}")
            if newest(run) >= STEPS or sum(self.kills.values()) % KILLS_PER_RUN == 0:
                run = self._next(run)
        if run.exists():
            self._next(run)
        return {
            "schema": 1,
            "kills": sum(self.kills.values()),
            "by_moment": dict(self.kills),
            "ended_before_their_moment": self.escaped,
            "runs": self.runs,
            "checkpoint_every": EVERY,
            "most_steps_repeated": self.most_repeated,
            "seconds": round(time.monotonic() - begun, 1),
            "failures": self.failures,
        }

    def _next(self, run: Path) -> Path:
        self.finish(run)
        if not self.failures:
            self.compare(run)
        self.runs += 1
        return self.work / f"killed-{self.runs}"


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="keep everything there (default: a folder that is removed)")
    parser.add_argument("--moments", nargs="+", choices=MOMENTS, default=MOMENTS, help="only these")
    parser.add_argument("--victim", help=argparse.SUPPRESS)
    parser.add_argument("command", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.victim is not None:
        from bert_jax import cli

        arm(given.victim, random.Random(given.seed))
        return cli.main(given.command)
    with tempfile.TemporaryDirectory() as folder:
        torment = Torment((given.work or Path(folder)).absolute(), given.seed, given.moments)
        found = torment.go(given.kills, lambda text: print(text, file=sys.stderr, flush=True))
    print(json.dumps(found))
    return 1 if found["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
