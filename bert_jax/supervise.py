"""A small process above a training: says in one line why it ended, and starts it again when that may help.

```
python -m bert_jax.supervise [--restart] -- bert-jax pretrain CONFIG --run DIR ...
```

When one of several processes is lost, jax aborts the others (exit 134), with pages of text and nothing that a launcher
could act on. Here that becomes exit 76 and one line; every other code passes, a signal as 128 + its number. With
`--restart` the command is started again on 75, 76, 137 and 143, after a pause that doubles, until several starts in a
row have saved no new checkpoint. SIGTERM and the like go on to the command, which is then not started again.

It imports neither jax nor anything else that is heavy: it has to outlive all of that.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from bert_jax.errors import EXIT_PEER_LOST, EXIT_STOPPED, EXIT_USAGE

SUPERVISED = "BERT_JAX_SUPERVISED"
"""Names the file into which a worker writes that it trains together with others (see `train.processes`)."""
START_AGAIN = (EXIT_STOPPED, EXIT_PEER_LOST, 128 + signal.SIGKILL, 128 + signal.SIGTERM)
ABORTED = 128 + signal.SIGABRT
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_PR_SET_PDEATHSIG = 1


class Supervisor:
    """Runs one command, once or again and again; `run()` returns the exit code to end with."""

    def __init__(self, command: Sequence[str], restart: bool, starts: int, delay: float, most_delay: float):
        self.command, self.restart, self.starts = list(command), restart, starts
        self.delay, self.most_delay = delay, most_delay
        self.run_directory = run_directory_of(command)
        self._worker: subprocess.Popen[bytes] | None = None
        self._asked: signal.Signals | None = None
        self._passed_on = False

    def run(self) -> int:
        """Run the command to its end, or to the end of all its starts."""
        for number in _FORWARDED:
            signal.signal(number, self._forward)
        reached = saved_steps(self.run_directory)
        fruitless = 0
        while True:
            code = self._run_once()
            if not self.restart or self._asked is not None or code not in START_AGAIN:
                return code
            now = saved_steps(self.run_directory)
            fruitless = 0 if any(step > reached.get(where, -1) for where, step in now.items()) else fruitless + 1
            reached = {where: max(step, reached.get(where, -1)) for where, step in {**reached, **now}.items()}
            if fruitless >= self.starts:
                say(f"given up with exit {code}: {fruitless} starts in a row saved no new checkpoint{self._where()}")
                return code
            pause = min(self.most_delay, self.delay * 2 ** max(0, fruitless - 1))
            say(f"ended with exit {code}; starting again in {pause:g} s{self._where()}")
            if not self._pause(pause):
                return code

    def _where(self) -> str:
        return "" if self.run_directory is None else f" ({self.run_directory})"

    def _run_once(self) -> int:
        """One start; what several processes end with when one of them is lost becomes 76."""
        with tempfile.TemporaryDirectory(prefix="bert_jax_supervised_") as folder:
            note = Path(folder) / "peers"
            try:
                # A session of its own: a terminal's interrupt comes to this process alone, and is passed on once.
                self._worker = subprocess.Popen(
                    self.command,
                    env={**os.environ, SUPERVISED: str(note)},
                    start_new_session=True,
                    preexec_fn=_end_with_parent,
                )
            except OSError as error:
                say(f"cannot run {self.command[0]}: {error.strerror}")
                return 127 if isinstance(error, FileNotFoundError) else 126
            if self._asked is not None and not self._passed_on:  # it came before there was anyone to pass it on to
                self._worker.send_signal(self._asked)
            code = self._worker.wait()
            several = note.is_file()
        code = 128 - code if code < 0 else code
        if code == ABORTED and several:
            code = EXIT_PEER_LOST
        if code == EXIT_PEER_LOST:
            newest = max(saved_steps(self.run_directory).values(), default=None)
            kept = "no checkpoint was saved yet" if newest is None else f"the newest checkpoint is step {newest}"
            what = "a peer process was lost or nothing moved" if several else "nothing moved any more"
            say(f"{what}: this one has ended, {kept}; start all processes again")
        return code

    def _forward(self, number: int, frame: FrameType | None) -> None:
        if number in _ENDING:
            self._asked = signal.Signals(number)
        if self._worker is not None and self._worker.returncode is None:
            self._passed_on = True
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._worker.pid, number)

    def _pause(self, seconds: float) -> bool:
        """Whether all of it passed without being asked to end."""
        until = time.monotonic() + seconds
        while self._asked is None and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
        return self._asked is None


def _end_with_parent() -> None:
    """In the worker, before it runs: when this supervisor is killed it is asked to save and stop (Linux only)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def say(line: str) -> None:
    """One line on stderr."""
    print(f"supervisor: {line}", file=sys.stderr, flush=True)


def run_directory_of(command: Sequence[str]) -> Path | None:
    """What a command line gives as `--run`, the last time it does; None when it does not."""
    found = None
    for word, following in zip(command, [*command[1:], ""], strict=True):
        if word == "--run" and following:
            found = following
        elif word.startswith("--run="):
            found = word.removeprefix("--run=")
    return None if found is None else Path(found)


def saved_steps(run: Path | None) -> Mapping[str, int]:
    """The newest saved step of a run, and of each group of a fine-tuning run, by directory."""
    found: dict[str, int] = {}
    for pattern in ("checkpoints", "groups/*/checkpoints") if run is not None else ():
        for folder in run.glob(pattern):  # type: ignore[union-attr]
            steps = [int(path.name) for path in folder.glob("*") if path.name.isdecimal()]
            if steps:
                found[str(folder)] = max(steps)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line above."""
    parser = argparse.ArgumentParser(
        prog="python -m bert_jax.supervise", description="Run a training; say why it ended; start it again."
    )
    parser.add_argument("--restart", action="store_true", help="start again on exit 75, 76, 137 and 143")
    parser.add_argument("--starts", type=int, default=3, help="give up after so many without a new checkpoint (3)")
    parser.add_argument("--delay", type=float, default=5.0, help="seconds before the next start; they double (5)")
    parser.add_argument("--most-delay", type=float, default=300.0, help="most seconds before the next start (300)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the command")
    found = parser.parse_args(arguments)
    command = found.command[1:] if found.command[:1] == ["--"] else found.command
    if not command:
        parser.error("give a command behind --, such as: -- bert-jax pretrain quickstart --run runs/quickstart")
    if found.starts < 1 or found.delay < 0 or found.most_delay < 0:
        print("error: --starts is at least 1, --delay and --most-delay at least 0", file=sys.stderr)
        return EXIT_USAGE
    return Supervisor(command, found.restart, found.starts, found.delay, found.most_delay).run()


if __name__ == "__main__":
    sys.exit(main())
