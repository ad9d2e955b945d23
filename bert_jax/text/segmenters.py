"""Where words begin in text that does not space them: word segmenters, for whole-word masking of Chinese."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bert_jax.errors import BertJaxError, UsageError

_FORMS = "jieba, rjieba, spaces or MODULE:FUNCTION"


@dataclass(frozen=True)
class Segmenter:
    """`segmenter(text) -> list[str]`: words that join to `text` without its whitespace. `name` has the version."""

    name: str
    cut: Callable[[str], Iterable[str]]

    def __call__(self, text: str) -> list[str]:
        """The words of `text`. Errors: `BertJaxError` when the segmenter fails, or changes the text."""
        try:
            words = [part for word in self.cut(text) for part in word.split()]
        except Exception as error:  # whatever the user's function does
            raise BertJaxError(
                f"segmenter {self.name} failed on {text[:40]!r} ({type(error).__name__}: {error}): "
                "expected a function from a text to its words"
            ) from error
        expected = "".join(text.split())
        if "".join(words) != expected:
            raise BertJaxError(
                f"segmenter {self.name} changes the text: its words of {text[:40]!r} do not join to it; use another "
                "segmenter, or one that only cuts"
            )
        return words


def load_segmenter(name: str) -> Segmenter:
    """`jieba`, `rjieba` (the same, in Rust), `spaces`, or a function text → words as `MODULE:FUNCTION`.

    Errors: `BertJaxError` when it is none of them, not installed, or there is no such function.
    """
    if name == "spaces":
        return Segmenter("spaces", str.split)
    if name == "jieba":
        jieba = _import("jieba")
        jieba.setLogLevel(logging.WARNING)
        return Segmenter(f"jieba {_version('jieba')}", jieba.lcut)
    if name == "rjieba":
        return Segmenter(f"rjieba {_version('rjieba')}", _import("rjieba").cut)
    module, colon, function = name.partition(":")
    if not colon or not module or not function:
        raise UsageError(f"segmenter {name!r}: expected {_FORMS}")
    cut = getattr(_import(module), function, None)
    if not callable(cut):
        raise BertJaxError(f"segmenter {name!r}: {module} has no function {function}")
    version = _version(module.partition(".")[0])
    return Segmenter(f"{name} {version}" if version else name, cut)


def word_starts(text: str, offsets: np.ndarray, segmenter: Segmenter) -> np.ndarray:
    """Whether each piece begins a word of `segmenter`, bool (n,).

    `offsets` (n, 2): the characters of `text` each piece came from. A piece that lies over the beginning of a word
    begins it; one of no characters goes with the piece after it; whatever a blank precedes begins a word.
    """
    offsets = np.asarray(offsets, np.int64).reshape(-1, 2)
    begins = np.zeros(len(text) + 1, np.int64)
    place = 0
    for word in segmenter(text):
        while text[place].isspace():
            place += 1
        begins[place] = 1
        for char in word:  # a word may reach over blanks of the text
            while text[place] != char:
                place += 1
            place += 1
    before = np.concatenate([[0], np.cumsum(begins)])  # words that begin before a character
    reached = before[np.maximum(offsets[:, 1], offsets[:, 0])]
    # A word begins with the first piece that reaches past its beginning.
    return np.diff(reached, prepend=0) > 0


def _import(module: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # jieba imports pkg_resources and has invalid escapes
            return importlib.import_module(module)
    except ImportError as error:
        hint = "pip install 'bert-jax[zh]'" if module in ("jieba", "rjieba") else "is it on PYTHONPATH?"
        raise BertJaxError(f"segmenter {module} cannot be imported ({error}): {hint}") from error


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(importlib.import_module(package), "__version__", ""))
