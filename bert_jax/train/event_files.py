"""TensorBoard event files of scalars: tensorboardX's records and messages, written as they come.

Not its `SummaryWriter`: that hands the records to a thread, which a full disk ends with a traceback, and the training
then waits for ever for room in its queue.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_VERSION = "brain.Event:2"


@contextlib.contextmanager
def _torch_hidden() -> Iterator[None]:
    """tensorboardX imports torch where it finds it, for what is not done here: it would take seconds and memory, and a
    broken one would end the training."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]  # "not installed", to an import statement
    try:
        yield
    finally:
        sys.modules.pop("torch", None)


class EventFile:
    """One event file under `folder`; what a start before this one wrote from `first_step` on no longer counts.

    After an `OSError` the file is closed, and the next `write` begins another one.
    """

    def __init__(self, folder: Path, first_step: int):
        self._folder, self._first_step = folder, first_step
        self._file: Any = None
        with _torch_hidden():
            from tensorboardX import RecordWriter
            from tensorboardX.proto import event_pb2, summary_pb2

        self._writer, self._event, self._summary = RecordWriter, event_pb2, summary_pb2
        self._open()

    def _open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        # Nanoseconds as well: a second start within one second shall not overwrite the first file.
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{time.time_ns()}"
        self._file = self._writer(str(self._folder / name))
        self._add(file_version=_VERSION)
        self._add(step=self._first_step, session_log=self._event.SessionLog(status=self._event.SessionLog.START))
        self._file.flush()

    def _add(self, **content: Any) -> None:
        self._file.write(self._event.Event(wall_time=time.time(), **content).SerializeToString())

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add scalars by tag. Errors: `OSError`."""
        try:
            if self._file is None:
                self._open()
            scalars = [self._summary.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
            self._add(step=step, summary=self._summary.Summary(value=scalars))
            self._file.flush()
        except OSError:
            self._first_step = step  # of a file begun later: what this one holds still counts
            self.close()
            raise

    def close(self) -> None:
        """Finish the file."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()
