"""Many `.npy` files seen as one flat read-only array, without reading or copying them.

The files are memory-mapped one after another into one reserved range of addresses, so that a gather over thousands of
files is one numpy indexing operation, and no file stays open (Python's own `mmap` keeps a descriptor for each).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax.errors import BertJaxError
from bert_jax.files import clear_errors

_FAILED = ctypes.c_void_p(-1).value
_MAP_FIXED = 0x10
_PROT_NONE = 0
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_ssize_t]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def map_files(
    files: Sequence[tuple[Path, int]], dtype: np.dtype[Any], header_bytes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Map `.npy` files of one dtype: `files` holds (path, bytes), each with a header of `header_bytes` bytes.

    Returns `(memory, bases)`: a read-only one-dimensional array of `dtype` over all of them, and int64 (files,), where
    in it each file's element 0 lies. What lies between the files' elements (headers, page ends) means nothing.
    Errors: `BertJaxError` when a file cannot be mapped or its size is not the one given.
    """
    assert header_bytes % dtype.itemsize == 0, (header_bytes, dtype)
    pages = [-(-size // mmap.PAGESIZE) * mmap.PAGESIZE for _, size in files]
    offsets = np.concatenate([[0], np.cumsum(pages, dtype=np.int64)])
    if not files:
        return np.zeros(0, dtype), np.zeros(0, np.int64)
    reserved = _Reserved(int(offsets[-1]))
    for (path, size), offset in zip(files, offsets[:-1], strict=True):
        reserved.place(path, size, int(offset))
    memory: np.ndarray = np.frombuffer(memoryview(reserved.buffer), dtype)
    memory.flags.writeable = False
    return memory, (offsets[:-1] + header_bytes) // dtype.itemsize


class _Reserved:
    """A range of addresses that takes no memory until files are placed in it; given back when nothing refers to it."""

    def __init__(self, size: int):
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
        self._address = _map(None, size, _PROT_NONE, flags, -1, "reserve addresses for", "a token store")
        self.buffer = (ctypes.c_char * size).from_address(self._address)
        # Not at exit: threads that still read would crash, and the system takes the range back anyway.
        weakref.finalize(self.buffer, _LIBC.munmap, self._address, size).atexit = False

    def place(self, path: Path, size: int, offset: int) -> None:
        with clear_errors("read", path):
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        try:
            found = os.fstat(descriptor).st_size
            if found != size:  # a shorter file would be a bus error later
                raise BertJaxError(
                    f"{path} has {found:,} bytes: expected {size:,}; restore it or prepare the store anew"
                )
            address = self._address + offset
            _map(address, size, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED, descriptor, "map", path)
        finally:
            os.close(descriptor)


def _map(address: int | None, size: int, protection: int, flags: int, descriptor: int, what: str, path: object) -> int:
    result = _LIBC.mmap(address, size, protection, flags, descriptor, 0)
    if result is None or result == _FAILED:
        error = ctypes.get_errno()
        hint = "; raise vm.max_map_count" if sys.platform == "linux" and error == 12 else ""
        raise BertJaxError(f"cannot {what} {path}: {os.strerror(error)}{hint}")
    return int(result)


def aligned(shape: tuple[int, int], dtype: np.dtype[Any]) -> np.ndarray:
    """An empty array whose memory begins at a multiple of 64 bytes: tf.data and XLA take such as it is, uncopied."""
    size = shape[0] * shape[1] * dtype.itemsize
    memory = np.empty(size + 64, np.uint8)
    first = -memory.ctypes.data % 64
    return memory[first : first + size].view(dtype).reshape(shape)
