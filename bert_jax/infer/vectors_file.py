"""Vectors in a `.npy` file, written as they come: memory stays bounded, and the file is whole or not there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from bert_jax.errors import BertJaxError
from bert_jax.files import atomic_writer


def write_embeddings(answers: Iterable[dict[str, Any]], path: Path) -> None:
    """The `embedding` of each answer as one float32 array (n, D); (0, 0) without answers."""
    with atomic_writer(path) as file:
        rows = _Rows(file, path)
        for answer in answers:
            rows.add(answer["embedding"][None])
        rows.end()


def write_features(answers: Iterable[dict[str, Any]], path: Path) -> Iterator[dict[str, Any]]:
    """All answers' `vectors`, one under another, as one float32 array (rows, width).

    Yields each answer with `rows`, its first and past-last row in the file, instead of `vectors`. The file is there
    once the last answer has been taken.
    """
    with atomic_writer(path) as file:
        rows = _Rows(file, path)
        for answer in answers:
            first = rows.count
            rows.add(answer["vectors"])
            yield {key: value for key, value in answer.items() if key != "vectors"} | {"rows": [first, rows.count]}
        rows.end()


class _Rows:
    """An array under way: its header is written twice, because it holds a number of rows that is known at the end."""

    def __init__(self, file: IO[bytes], path: Path):
        self.file, self.path = file, path
        self.count = self.width = self.header = 0

    def add(self, block: np.ndarray) -> None:
        if not self.header:
            self.width = block.shape[1]
            self._write_header()
            self.header = self.file.tell()
        self.file.write(np.ascontiguousarray(block, "<f4").tobytes())
        self.count += len(block)

    def end(self) -> None:
        self.file.seek(0)
        self._write_header()
        if self.header and self.file.tell() != self.header:  # numpy leaves room for the number to grow
            raise BertJaxError(f"cannot write {self.path}: this numpy's header of {self.count} rows is of another size")

    def _write_header(self) -> None:
        shape = (self.count, self.width)
        npy.write_array_header_1_0(self.file, {"descr": "<f4", "fortran_order": False, "shape": shape})
