"""A pool of worker processes that dies with its owner and never hangs on a worker that was killed.

Workers are plain `python -c` children that talk over pipes. Unlike `multiprocessing`, they never import the caller's
`__main__` again, so a script needs no `if __name__ == "__main__":`, and a notebook works.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Sequence
from typing import IO, Any

from bert_jax.errors import BertJaxError

Task = tuple[Any, ...]
_PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from bert_jax.data.pool import serve; serve()"


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_unordered(
    initialise: Callable[..., None],
    arguments: Task,
    function: Callable[..., Any],
    tasks: Sequence[Task],
    workers: int,
    readable: Callable[[Task], contextlib.AbstractContextManager[Task]] = contextlib.nullcontext,
) -> Generator[tuple[int, Any], None, None]:
    """Yield `(index of the task, function(*task))` as they finish, on `workers` processes.

    Every worker first calls `initialise(*arguments)`. Both functions live at the top of an importable module. One
    worker or one task needs no process: all happens here. `readable(task)` gives, here and for as long as it is worked
    on, the task as a worker process can do it. Closing the iterator ends the workers (`contextlib.closing`).

    Errors: a `BertJaxError` of a worker as it is, any other with its traceback as text, and a `BertJaxError` when a
    worker is killed.
    """
    workers = min(workers, len(tasks))
    if workers <= 1:
        if tasks:
            initialise(*arguments)
        for index, task in enumerate(tasks):
            yield index, function(*task)
        return
    waiting: queue.SimpleQueue[tuple[int, Task]] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Any, BaseException | None]] = queue.SimpleQueue()
    for item in enumerate(tasks):
        waiting.put(item)
    pool: list[_Worker] = []
    try:
        for _ in range(workers):
            pool.append(_Worker())
        for worker in pool:
            threading.Thread(
                target=_drive, args=(worker, (initialise, arguments, function), waiting, done, readable), daemon=True
            ).start()
        for _ in tasks:
            index, result, error = done.get()
            if error is not None:
                raise error
            yield index, result
    finally:
        for worker in pool:
            worker.end()


class _Worker:
    """One child process: pickles go in through its stdin and come back through its stdout."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", _PROGRAM, json.dumps(sys.path)]
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except OSError as error:
            raise BertJaxError(
                f"cannot start a worker process: {error.strerror or error}; use fewer workers"
            ) from error

    def send(self, value: Any) -> None:
        assert self._process.stdin is not None
        pickle.dump(value, self._process.stdin)
        self._process.stdin.flush()

    def receive(self) -> Any:
        assert self._process.stdout is not None
        return pickle.load(self._process.stdout)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()

    def epitaph(self) -> str:
        code = self._process.wait()
        if code >= 0:
            return f"exited with code {code}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        return f"was killed by {name}{hint}"


def _drive(
    worker: _Worker,
    job: tuple[Callable[..., None], Task, Callable[..., Any]],
    waiting: queue.SimpleQueue[tuple[int, Task]],
    done: queue.SimpleQueue[tuple[int, Any, BaseException | None]],
    readable: Callable[[Task], contextlib.AbstractContextManager[Task]],
) -> None:
    """Feed one worker until no task waits (in a thread of the owner)."""
    try:
        worker.send(job)
        while True:
            try:
                index, task = waiting.get_nowait()
            except queue.Empty:
                return
            with readable(task) as own:
                worker.send(own)
                answer = worker.receive()
            done.put((index, *answer))
    except (EOFError, OSError, pickle.UnpicklingError):
        message = f"a worker process {worker.epitaph()}: use fewer workers, or run again to continue"
        done.put((-1, None, BertJaxError(message)))
    except BaseException as error:  # whatever it is, the owner must not wait for ever
        done.put((-1, None, error))


def serve() -> None:
    """The life of a worker: read tasks from stdin, answer on stdout, end when the owner's end of stdin closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the owner ends its workers
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, tasks), daemon=True).start()
    initialise, arguments, function = tasks.get()
    ready = False
    while True:
        task = tasks.get()
        try:
            if not ready:
                initialise(*arguments)
                ready = True
            answer: tuple[Any, BaseException | None] = (function(*task), None)
        except BertJaxError as error:
            answer = (None, error)
        except MemoryError:
            answer = (None, BertJaxError("a worker process ran out of memory: use fewer workers"))
        except BaseException:
            answer = (None, RuntimeError(f"in a worker process:\n{traceback.format_exc()}"))
        pickle.dump(answer, answers)
        answers.flush()


def _listen(pipe: IO[bytes], tasks: queue.SimpleQueue[Any]) -> None:
    """Pass tasks on; the end of the pipe means that the owner is gone, however it went: no reason to work on."""
    while True:
        try:
            tasks.put(pickle.load(pipe))
        except BaseException:
            os._exit(1)
