"""Whether the files of a token store are still those that were opened, asked again and again while they are read.

A store's checksums are compared before training. While it runs its files are memory-mapped, so what happens to them
happens to the training: a file that is written to in place changes under it. `Watch` compares size and times of the
files with those noted when the store was opened, each file about once a minute however many there are; where one
differs, the mapped memory itself, which is what is trained on, is read and its checksum compared.

* written to in place, same size: an error that names the file, unless the checksum is still right (`touch`);
* cut short or grown in place: an error that names the file;
* replaced by another file or removed, as when a store is made anew at the same path: the mapping keeps the file that
  was opened, so training goes on with it, with one warning; starting again will refuse the other store.

What this does not see: a change that leaves size and both times (a disk or memory that loses bits, a writer through its
own memory mapping before the system notes the time); what was read between a change and the next look, for which the
error says from when on checkpoints may have learned of it. A file that is cut short in place ends the process with a
bus error when it is read before the next look. Network file systems may lose a file that was replaced.
"""

from __future__ import annotations

import datetime
import hashlib
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bert_jax.console import warn
from bert_jax.data.manifest import REMEDY
from bert_jax.errors import BertJaxError
from bert_jax.files import clear_errors, sha256

_ROUND_SECONDS = 60.0  # within which every file is looked at once; a look costs about two microseconds


class Identity(NamedTuple):
    """What tells whether a file was written to or replaced, without reading it."""

    inode: int
    size: int
    modified: int
    changed: int

    def same(self, other: Identity) -> bool:
        """Whether it is the same state of a file. Not by inode: some network file systems number anew."""
        return self[1:] == other[1:]


def identity_of(state: os.stat_result) -> Identity:
    """Of one file, from its `stat`."""
    return Identity(state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


class Watched(NamedTuple):
    """One file: its path, the checksum of the manifest, and its mapped bytes, None before it is mapped."""

    path: Path
    sha256: str
    mapped: Callable[[], np.ndarray | None]


class Watch:
    """Looks after `files`; `seen`: their identities when the store was opened. Safe to call from several threads."""

    def __init__(self, files: Sequence[Watched], seen: Sequence[Identity]):
        self._files, self._seen = list(files), list(seen)
        self._next, self._looked = 0, time.monotonic()
        self._lock = threading.Lock()
        self._warned = False

    def look(self) -> None:
        """Compare the files that are due. Errors: `BertJaxError` naming the first that is not what was opened."""
        if not self._files or not self._lock.acquire(blocking=False):
            return
        try:
            now = time.monotonic()
            share = (now - self._looked) / _ROUND_SECONDS if _ROUND_SECONDS else 1.0
            self._looked = now
            for _ in range(min(len(self._files), max(1, math.ceil(share * len(self._files))))):
                self._look_at(self._next)
                self._next = (self._next + 1) % len(self._files)
        finally:
            self._lock.release()

    def look_at_all(self) -> None:
        """Compare all files at once. Errors: as of `look`."""
        with self._lock:
            for index in range(len(self._files)):
                self._look_at(index)

    def _look_at(self, index: int) -> None:
        file, before = self._files[index], self._seen[index]
        try:
            with clear_errors("read", file.path):
                found = identity_of(os.stat(file.path))
        except BertJaxError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            found = Identity(0, 0, 0, 0)
        if found.same(before):
            return
        replaced = found.inode != before.inode
        memory = file.mapped()
        if memory is None and not found.inode:
            raise BertJaxError(f"{file.path} was removed while its store is in use; {REMEDY}")
        if not replaced and found.size != before.size:
            raise BertJaxError(self._altered(file, found, f"it has {found.size:,} bytes, not {before.size:,}"))
        checksum = sha256(file.path) if memory is None else hashlib.sha256(memory.data).hexdigest()
        if checksum != file.sha256:
            raise BertJaxError(self._altered(file, found, "its checksum is not the manifest's"))
        self._seen[index] = found
        if replaced and memory is not None and not self._warned:
            self._warned = True
            warn(
                f"{file.path} was replaced or removed while its store is in use: going on with the store that was "
                "opened, of which this process keeps the contents; it can only be started again with that store"
            )

    def _altered(self, file: Watched, found: Identity, how: str) -> str:
        when = datetime.datetime.fromtimestamp(found.changed / 1e9, datetime.UTC).isoformat(timespec="seconds")
        return (
            f"{file.path} was altered while its store is in use, at {when}: {how}; {REMEDY}, and remove checkpoints "
            "that were saved after that time: they may have learned from it"
        )
