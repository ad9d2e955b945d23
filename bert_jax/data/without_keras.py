"""Importing TensorFlow without the Keras that it would import at the end of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


@contextmanager
def without_keras() -> Iterator[None]:
    """Keras cannot be imported inside the block, unless it already was.

    TensorFlow imports it at its end and passes over one that is not there: a hundred megabytes, a quarter of a
    BERT-base, and seconds, for what is never used here. Keras is found afterwards as always: by `tf.keras` too, which
    loads it when it is asked for.
    """
    if "keras" in sys.modules:
        yield
        return
    finder = _Refusing()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Refusing(MetaPathFinder, Loader):
    """Finds where Keras lies, which TensorFlow asks, and does not load it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path) if fullname == "keras" else None
        if spec is not None:
            spec.loader = self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        raise ImportError(f"{spec.name} is left for later", name=spec.name)

    def exec_module(self, module: ModuleType) -> None:
        raise ImportError(f"{module.__name__} is left for later", name=module.__name__)
