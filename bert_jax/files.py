"""Paths, atomic writes, checksums and locks: whatever is written is either whole or not there."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any

from bert_jax.errors import BertJaxError

PARTIAL_SUFFIX = ".partial"


def as_error(what: str, path: object, error: OSError) -> BertJaxError:
    """An operating-system error as one clear line: what was being done, to which path, why it failed."""
    reason = error.strerror or str(error)
    return BertJaxError(f"cannot {what} {path}: {reason}")


@contextlib.contextmanager
def clear_errors(what: str, path: object) -> Iterator[None]:
    """Turn an `OSError` inside the block into a one-line `BertJaxError` (disk full, no permission, missing)."""
    try:
        yield
    except OSError as error:
        raise as_error(what, path, error) from error


def finite(value: Any) -> Any:
    """`value` with every non-finite float replaced by None, so that JSON never holds NaN or Infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # numpy and jax scalars
        return finite(value.item())
    if hasattr(value, "tolist"):
        return finite(value.tolist())
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


def to_json(value: Any, indent: int | None = None) -> str:
    """Strict JSON text of `value`; non-finite numbers become null, non-ASCII text stays readable.

    Half a surrogate pair, which JSON may hold and UTF-8 may not, is written as the escape that it is in JSON.
    """
    text = json.dumps(finite(value), indent=indent, ensure_ascii=False, allow_nan=False)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


JSON_DEPTH = 100
"""Lists and objects inside each other; whatever walks over a value then stays far from Python's own limit."""


def parse_json(text: str, begin: int | None = None) -> Any:
    """The value of a JSON text; with `begin`, of the one that begins there, and where it ends.

    Errors: `ValueError` for everything that cannot be read, which `json.loads` alone has two other classes for: a
    number of thousands of digits, and values more than `JSON_DEPTH` deep inside each other.
    """
    try:
        value, end = (json.loads(text), len(text)) if begin is None else _DECODER.raw_decode(text, begin)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except ValueError:  # Python's own words advise to lift its limit
        raise ValueError(f"a number has more than {sys.get_int_max_str_digits():,} digits") from None
    brackets = sum(text.count(bracket, begin or 0, end) for bracket in "[{")
    if brackets > JSON_DEPTH and _is_deep(value):
        raise ValueError(_TOO_DEEP)
    return value if begin is None else (value, end)


_DECODER = json.JSONDecoder()
_TOO_DEEP = f"lists and objects lie more than {JSON_DEPTH} deep inside each other"


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(JSON_DEPTH):
        insides = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)]
        level = [item for inside in insides for item in inside]
    return any(isinstance(item, dict | list) for item in level)


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read one JSON file; a missing or broken file is a one-line error that names it."""
    with clear_errors("read", path):
        text = Path(path).read_bytes()
    try:
        return parse_json(text.decode("utf-8"))
    except ValueError as error:
        raise BertJaxError(f"{path} is not JSON: {error}; restore the file or make it anew") from error


def is_inside(name: object) -> bool:
    """Whether a file name that somebody else wrote stays in the folder that it is put behind."""
    path = PurePosixPath(name) if isinstance(name, str) else None
    return path is not None and bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def append_line(path: str | os.PathLike[str], line: str) -> None:
    """Add a line to a text file, made where it is missing; half a line that a full disk left there is ended first.

    Never what a symbolic link points to, so that a directory from elsewhere cannot lead what is written out of it.
    Errors: `OSError`.
    """
    with open(path, "a+b", opener=_no_link) as file:
        torn = file.seek(0, os.SEEK_END) and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
        file.write(("\n" if torn else "").encode() + line.encode() + b"\n")


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


@contextlib.contextmanager
def atomic_writer(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` that replaces it only when the block ends without an error."""
    target = Path(path)
    with clear_errors("write", target):
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=PARTIAL_SUFFIX, dir=target.parent)
    try:
        with clear_errors("write", target):
            os.fchmod(descriptor, 0o666 & ~_umask())
            with os.fdopen(descriptor, mode, encoding=None if "b" in mode else "utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_writer(path, "w") as file:
        file.write(text)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented strict JSON, atomically."""
    write_text(path, to_json(value, indent=2) + "\n")


def make_directory(path: str | os.PathLike[str], build: Callable[[Path], None]) -> Path:
    """Create directory `path` by letting `build` fill a partial one beside it, renamed into place when whole.

    Errors: `BertJaxError` when `path` exists and is not an empty directory.
    """
    target = Path(path)
    require_absent(target)
    partial = target.with_name(f".{target.name}{PARTIAL_SUFFIX}")
    with clear_errors("write", target):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
    try:
        build(partial)
        with clear_errors("write", target):
            if target.is_dir():
                target.rmdir()
            os.replace(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return target


def require_absent(path: str | os.PathLike[str]) -> None:
    """Error unless `path` does not exist or is an empty directory: nothing of the user's is ever overwritten."""
    target = Path(path)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise BertJaxError(f"{target} exists and is not empty: give another path, or remove it first")


def require_writable(path: str | os.PathLike[str]) -> None:
    """Error unless a file or directory `path` can be made: said before long work, not after it.

    Nothing is left behind: folders above it that are missing are made when it is written.
    """
    target = Path(os.path.abspath(path))
    above = next(folder for folder in target.parents if folder.exists())
    with clear_errors("write", target), tempfile.TemporaryFile(dir=above):
        pass


def sha256(path: str | os.PathLike[str]) -> str:
    """Hex SHA-256 of a file's bytes."""
    with clear_errors("read", path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Hex SHA-256 of a JSON-able value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(finite(value), sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def lock(path: str | os.PathLike[str], wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on `path` (created if need be); the system frees it when its holder dies.

    The file says who holds it. Errors: `BertJaxError` naming that process when `wait` is false and another one does.
    """
    target = Path(path)
    with clear_errors("lock", target):
        target.parent.mkdir(parents=True, exist_ok=True)
        file = open(target, "a+b", buffering=0, opener=_no_link)  # noqa: SIM115 - closed below, after the lock is released
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            file.seek(0)
            who = file.read(200).decode("utf-8", "replace").strip()
            raise BertJaxError(
                f"{target.parent} is in use by another process{f' ({who})' if who else ''}: wait for it, or stop it"
            ) from error
        _say_who(file)
        yield
        with contextlib.suppress(OSError):
            file.truncate(0)
    finally:
        file.close()


def _say_who(file: IO[bytes]) -> None:
    """Write into a lock file whose it is; a full disk is no reason not to hold it."""
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    with contextlib.suppress(OSError):
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {since}".encode())


def allow_reading(path: str | os.PathLike[str]) -> None:
    """Give a file that a library made for its owner alone the permissions that new files have here."""
    os.chmod(path, 0o666 & ~_umask())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def lines_of_stdin(encoding_errors: str = "strict") -> Iterator[str]:
    """The lines of standard input as they come, without their ends, read as UTF-8 whatever the machine's locale.

    Errors: `BertJaxError` naming the line that is not UTF-8, unless `encoding_errors` is "replace".
    """
    for number, line in enumerate(getattr(sys.stdin, "buffer", sys.stdin), start=1):
        try:
            text = line.decode("utf-8", encoding_errors) if isinstance(line, bytes) else line
        except UnicodeDecodeError as error:
            raise BertJaxError(
                f"stdin is not UTF-8 in line {number}, byte {error.start}: convert it, or give "
                "--encoding-errors replace"
            ) from error
        yield text.rstrip("\n")
