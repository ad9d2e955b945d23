"""What `doctor` finds out about a machine without touching a device: packages, limits, folders."""

from __future__ import annotations

import getpass
import importlib.metadata
import importlib.util
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from packaging.requirements import Requirement

from bert_jax.errors import BertJaxError
from bert_jax.files import clear_errors

OWN = "bert-jax"
_FILES_WANTED = 4096
"""Open files: a store maps up to four for each of some hundred shards, a checkpoint opens one for every array."""
_MEMORY_WANTED = 4e9
_FREE_WANTED = 5e9
"""Bytes of disk: three checkpoints of BERT-base, parameters and two moments each, are 3.9 GB."""
_PROBE_BYTES = 32 << 20
_EXTRAS = {
    "tensorflow": ("tf", "tfds: sources, TF1 checkpoints, records of google-research/bert and the tf.data driver"),
    "jieba": ("zh", "Chinese whole words by jieba"),
    "huggingface_hub": ("hub", "models named hf:ORG/NAME"),
    "pyarrow": ("formats", "Parquet files as text sources"),
    "matplotlib": ("plot", "PNG pictures"),
    "libtpu": ("plan", "plans for TPUs (bert-jax plan --topology v5e:16x16)"),
}


class Finding(NamedTuple):
    """One line: `check` names what was looked at, `fix` says what to do where `status` is not `good`.

    `note`: something is missing or slow, and whoever needs it should know; `failing`: a run here will fail.
    """

    check: str
    status: Literal["good", "note", "failing"]
    found: str
    fix: str = ""

    def line(self) -> str:
        """For a person to read."""
        mark = {"good": "ok  ", "note": "note", "failing": "FAIL"}[self.status]
        return f"{mark}  {self.check:<12} {self.found}" + (f"\n      {'':<12} → {self.fix}" if self.fix else "")


def packages(own: str = OWN) -> Iterator[Finding]:
    """Whether what is installed fits together: every requirement of what this package requires, and so on."""
    wanted, seen, wrong = _requirements(own), set[str](), 0
    if wanted is None:
        yield Finding(
            "packages", "note", f"{own} runs from a checkout: its requirements are not known", "pip install -e ."
        )
        return
    waiting = [(own, requirement) for requirement in wanted]
    while waiting:
        by, requirement = waiting.pop()
        name = requirement.name.lower().replace("_", "-")
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            wrong += 1
            yield Finding("packages", "failing", f"{by} needs {requirement}, which is missing", _pip(requirement))
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong += 1
            yield Finding("packages", "failing", f"{name} {version}, and {by} needs {requirement}", _pip(requirement))
        if name not in seen:
            seen.add(name)
            waiting += [(name, further) for further in _requirements(name) or ()]
    if not wrong:
        main = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "jaxlib", "flax", "optax"))
        python = f"Python {sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
        yield Finding("packages", "good", f"{python}, {main}; {len(seen)} packages fit each other")


def _requirements(name: str) -> list[Requirement] | None:
    """What a package needs here without extras; None when it is not installed."""
    try:
        listed = importlib.metadata.requires(name) or ()
    except importlib.metadata.PackageNotFoundError:
        return None
    found = map(Requirement, listed)
    return [one for one in found if one.marker is None or one.marker.evaluate({"extra": ""})]


def _pip(requirement: Requirement) -> str:
    return f'pip install "{requirement.name}{requirement.specifier}"'


def extras() -> Iterator[Finding]:
    """What cannot be done because an optional package is not here."""
    for module, (extra, what) in _EXTRAS.items():
        if importlib.util.find_spec(module) is None:
            yield Finding("extras", "note", f"without {module} there is no: {what}", f'pip install "{OWN}[{extra}]"')


def limits() -> Iterator[Finding]:
    """Open files, file size, memory and shared memory of this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= _FILES_WANTED:
        yield Finding("limits", "good", f"{'any number of' if soft == resource.RLIM_INFINITY else soft} open files")
    else:
        most = "more" if hard == resource.RLIM_INFINITY else min(hard, 65536)
        yield Finding("limits", "note", f"only {soft} open files", f"ulimit -n {most if most != 'more' else 65536}")
    size = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if size != resource.RLIM_INFINITY:
        yield Finding(
            "limits", "failing", f"files of at most {size:,} bytes: checkpoints end there", "ulimit -f unlimited"
        )
    memory = memory_bytes()
    if memory is not None:
        status: Literal["good", "note"] = "good" if memory >= _MEMORY_WANTED else "note"
        fix = "" if status == "good" else "BERT-base takes 1.3 GB of parameters and moments, and as much again to begin"
        yield Finding("memory", status, f"{memory / 1e9:.1f} GB can be used", fix)


def memory_bytes() -> int | None:
    """Memory that this process may use: the machine's, or its control group's where that is less; None if unknown."""
    machine = Path("/proc/meminfo")
    lines = machine.read_text().splitlines() if machine.is_file() else []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = Path(path).read_text().strip() if Path(path).is_file() else "max"
        if text.isdecimal():
            found.append(int(text))
    return min(found, default=None)


def folders(paths: Sequence[str]) -> Iterator[Finding]:
    """Whether files can be written to each folder and read back, how fast, and how much room there is."""
    user = _user()
    for path in paths:
        try:
            rate = write_rate(Path(path))
        except BertJaxError as error:
            yield Finding(
                "folder", "failing", f"{error} (as {user})", "give another folder, or the right to write there"
            )
            continue
        free = shutil.disk_usage(path).free
        text = f"{path}: written and read back at {rate / 1e6:.0f} MB/s as {user}, {free / 1e9:.1f} GB free"
        if free < _FREE_WANTED:
            yield Finding(
                "folder", "note", text, "three checkpoints of BERT-base take 3.9 GB: free some, or keep fewer"
            )
        else:
            yield Finding("folder", "good", text)


def write_rate(folder: Path) -> float:
    """Bytes per second of writing 32 MiB through to the disk. Errors: `BertJaxError` when it is refused or altered."""
    data = os.urandom(1 << 20)
    with clear_errors("write", folder), tempfile.TemporaryFile(dir=folder) as file:
        begun = time.perf_counter()
        for _ in range(_PROBE_BYTES // len(data)):
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
        seconds = time.perf_counter() - begun
        file.seek(0)
        if any(file.read(len(data)) != data for _ in range(_PROBE_BYTES // len(data))):
            raise BertJaxError(f"{folder}: what was written is not what is read back")
    return _PROBE_BYTES / seconds


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as in some containers
        return f"uid {os.getuid()}"
