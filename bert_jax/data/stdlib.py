"""The documentation that ships with CPython, as documents: help topics, and the docstrings of each module.

A document is one help topic (`pydoc_data.topics`), or the docstrings of one module of the standard library in the order
of its source. Modules are parsed, never imported; tests and installed packages are left out. Lines of a paragraph are
joined and split into sentences; each line of code, of a grammar or of a table is a sentence of its own. Marks of
reStructuredText (``x``, :class:`x`, **x**, underlines, bullets) are taken off.
"""

from __future__ import annotations

import ast
import functools
import inspect
import os
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator

from bert_jax.errors import BertJaxError
from bert_jax.text.sentences import split_sentences

LEAST_BYTES = 1_000_000
"""Less documentation than this is a damaged or stripped installation, and an error."""

_SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
_UNDERLINE = re.compile(r"([=\-~^*+#_\"'`.])\1{2,}\s*$")
_BULLET = re.compile(r"(?:[*+\-•]|\(?(?:\d{1,2}|[a-z])[.)])\s+(?=\S)")
_CODE_LINE = re.compile(
    r">>>|\.\.\.(?!\w)|\$ |[A-Za-z_]\w*\s*(?:::=|=)\s|@\w|(?:def|class|import|from|return)\s+\w+.*[:)\w]$"
)
_ROLE = re.compile(r":[a-z:+]{2,20}:`([^`]+)`")
_TICKS = re.compile(r"``(.+?)``|`([^`\s][^`]*)`_?")
_STARS = re.compile(r"(?<![\w*])(\*{1,2})(?=[^\s*])([^*]+?)(?<=[^\s*])\1(?![\w*])")
_DIRECTIVE = re.compile(r"^\.\. +([a-z]+)(?:[:a-z]*)::\s*")


@functools.cache
def stdlib_documents() -> tuple[tuple[str, ...], ...]:
    """All documents of this Python's standard library, in a fixed order: topics by name, then modules by path.

    Errors: `BertJaxError` when less than `LEAST_BYTES` of text is there (no sources, a stripped installation).
    """
    found = [*_topics(), *_modules(sysconfig.get_path("stdlib"))]
    documents = [tuple(document) for text in found if (document := sentences_of(text))]
    size = sum(len(sentence) for document in documents for sentence in document)
    if size < LEAST_BYTES:
        raise BertJaxError(
            f"source stdlib: only {size / 1e6:.1f} MB of documentation in {sysconfig.get_path('stdlib')}, expected at "
            f"least {LEAST_BYTES / 1e6:.0f} MB; this Python lacks its library's sources: use another source or Python"
        )
    return tuple(documents)


def _topics() -> Iterator[list[str]]:
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions leave the help topics out
        return
    for _, text in sorted(topics.items()):
        yield [text]


def _modules(root: str) -> Iterator[list[str]]:
    """The docstrings of each module below `root`, in the order of the source."""
    paths = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS and "." not in name]
        paths += [os.path.join(folder, name) for name in names if name.endswith(".py")]
    for path in sorted(paths, key=lambda path: os.path.relpath(path, root).split(os.sep)):
        docstrings = _docstrings(path)
        if docstrings:
            yield docstrings


def _docstrings(path: str) -> list[str]:
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in old modules
            tree = ast.parse(file.read())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return []  # templates and deliberately broken files
    return list(_in_order(tree))


def _in_order(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node, clean=False)
        if text:
            yield text
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.ExceptHandler):
            yield from _in_order(child)


def sentences_of(texts: Iterable[str]) -> list[str]:
    """The sentences of some docstrings or topics, without the marks of reStructuredText."""
    return [
        sentence
        for text in texts
        for block in re.split(r"\n[ \t]*\n", inspect.cleandoc(text))
        for paragraph in _paragraphs(block)
        for sentence in split_sentences(paragraph)
        if any(map(str.isalnum, sentence))
    ]


def _paragraphs(block: str) -> Iterator[str]:
    """Pieces of text that stand between blank lines: lines that belong together, joined."""
    lines = [line.expandtabs() for line in block.split("\n") if not _UNDERLINE.match(line.strip())]
    if _is_code(lines):
        yield from (" ".join(line.split()) for line in lines)
        return
    piece = ""
    indent = 0
    item = False  # inside a bullet or a definition: what follows may be indented more
    for line in lines:
        text = line.strip()
        bullet = _BULLET.match(text)
        depth = len(line) - len(line.lstrip()) + (bullet.end() if bullet else 0)
        new = bullet or " -- " in text or text.startswith(":") or depth < indent or (depth > indent and not item)
        if new or _CODE_LINE.match(text):
            yield _unmarked(piece)
            piece, item = "", bool(bullet) or " -- " in text or text.startswith(":")
        indent = depth if not piece or not item else indent
        piece = _join(piece, text[bullet.end() :] if bullet else text)
        if item and not bullet and piece == text:
            indent = depth
    yield _unmarked(piece)


def _join(piece: str, text: str) -> str:
    if len(piece) > 1 and piece[-1] == "-" and piece[-2].isalpha() and text[:1].isalpha():
        return piece + text  # a word broken at its hyphen
    return f"{piece} {text}" if piece else text


def _is_code(lines: list[str]) -> bool:
    """Whether a block is code, a grammar or a table: lines that are not to be joined."""
    text = " ".join(line.strip() for line in lines)
    if not text or lines[0].lstrip().startswith((">>>", "$ ", "|", "+-")):
        return True
    marks = sum(map(text.count, "=()[]{}<>|_;:\\/#@+"))
    wide = sum("   " in line.strip() for line in lines)
    return marks > 0.09 * len(text) or 2 * wide > len(lines) > 1


def _unmarked(text: str) -> str:
    text = _DIRECTIVE.sub(r"\1: ", text)
    if "`" in text:
        text = _TICKS.sub(r"\1\2", _ROLE.sub(r"\1", text))
    if "*" in text:
        text = _STARS.sub(r"\2", text)
    return " ".join(text.removesuffix("::").split()) + (":" if text.endswith("::") else "")


if __name__ == "__main__":
    for _document in stdlib_documents():
        sys.stdout.write("\n".join(_document) + "\n\n")
