"""Sources whose library is too large for every worker: one process reads them, the workers read its copies.

TensorFlow takes 0.7 GB of memory. The owner of a pool has loaded it already, to list a `tfds:` source; just before a
worker gets such units, their documents are written to a temporary file of JSON lines, which goes with the answer. At
most one file per worker is there at a time.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from bert_jax.data.sources import read_unit
from bert_jax.data.streams import Unit
from bert_jax.files import clear_errors

Task = tuple[Any, ...]


def one_reader(
    folder: str | os.PathLike[str] | None = None,
) -> Callable[[Task], contextlib.AbstractContextManager[Task]]:
    """`readable(task)`, for `pool.map_unordered`: the task with its TFDS units replaced by copies under `folder`."""
    reading = threading.Lock()

    @contextlib.contextmanager
    def readable(task: Task) -> Iterator[Task]:
        copies: list[str] = []
        try:
            yield tuple(_copied(part, folder, reading, copies) for part in task)
        finally:
            for path in copies:
                with contextlib.suppress(OSError):
                    os.unlink(path)

    return readable


def _copied(part: Any, folder: str | os.PathLike[str] | None, reading: threading.Lock, copies: list[str]) -> Any:
    if not isinstance(part, list) or not any(isinstance(unit, Unit) and unit.kind == "tfds" for unit in part):
        return part
    with reading:
        return [_copy(unit, folder, copies) if unit.kind == "tfds" else unit for unit in part]


def _copy(unit: Unit, folder: str | os.PathLike[str] | None, copies: list[str]) -> Unit:
    with clear_errors("write", folder or tempfile.gettempdir()):
        handle, path = tempfile.mkstemp(prefix="bert_jax_unit_", suffix=".jsonl", dir=folder)
        copies.append(path)
        with open(handle, "w", encoding="utf-8") as file:
            for document in read_unit(unit):
                file.write(json.dumps(document) + "\n")
    copy = replace(unit, kind="json", path=path, start=0, end=os.path.getsize(path), dataset=None, field=None)
    return replace(copy, label=unit.name)
