"""Sources given as Python values: which of them are names, and documents of an iterable as JSON lines."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from typing import IO, Any

from bert_jax.errors import BertJaxError

SourceSpec = str | os.PathLike[str] | Iterable[str] | Iterable[list[str]]
Sources = SourceSpec | Sequence[SourceSpec]
"""What a Python caller may give as `source`: see `as_sources`."""

PASS_DOCUMENTS = "give documents as an iterator, iter([...]), or each as a list of sentences"


def as_sources(given: Sources) -> list[SourceSpec]:
    """The sources that a Python caller means.

    * a string or a path: the name of one source;
    * a list (or tuple) of names: several sources, as on the command line. Its strings are never documents;
    * a list of lists of strings: one source, each inner list a document of sentences;
    * any other list: several sources, each a name or an iterable of documents;
    * whatever else can be iterated, such as a generator: one source of documents.

    Errors: `BertJaxError` for a text of several lines where a name is expected.
    """
    members: list[Any] = [given]
    if isinstance(given, list | tuple) and not (given and all(_is_document(member) for member in given)):
        members = list(given)
    for member in members:
        if isinstance(member, str) and "\n" in member:
            raise BertJaxError(f"source {member[:40]!r}… is a text, not a name: {PASS_DOCUMENTS}")
    return members


def _is_document(member: Any) -> bool:
    return isinstance(member, list | tuple) and all(isinstance(sentence, str) for sentence in member)


def write_documents(documents: Iterable[Any], file: IO[bytes]) -> None:
    """Documents of an iterable as JSON lines."""
    try:
        iterator = iter(documents)
    except TypeError:
        raise BertJaxError(f"a source is a name or an iterable of documents, not {type(documents).__name__}") from None
    for index, document in enumerate(iterator):
        sentences = list(document) if isinstance(document, list | tuple) else None
        if not isinstance(document, str) and (
            sentences is None or not all(isinstance(sentence, str) for sentence in sentences)
        ):
            raise BertJaxError(
                f"<iterable>, document {index}: {type(document).__name__}, expected a string or a list of sentences"
            )
        if index == 0 and isinstance(document, str) and _is_file_name(document):
            raise BertJaxError(
                f"<iterable>, document 0 is the name of a file ({document}): give names as a list, not as an iterator"
            )
        file.write(json.dumps(document if sentences is None else sentences).encode() + b"\n")


def _is_file_name(text: str) -> bool:
    return (
        re.fullmatch(r"\S{1,4096}", text) is not None
        and re.search(r"\w[./]\w", text) is not None
        and os.path.exists(text)
    )
