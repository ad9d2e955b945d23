"""From lines and records to documents: a document is a list of sentences, each a non-empty string.

How a file of lines is read is decided once, from its first megabyte, and stored in its units:

* WikiExtractor, when its first line that is not blank begins with `<doc `: each element is a document, each line in it
  a paragraph. The title line is dropped, entities are unescaped, left-over tags removed, empty elements skipped.
* JSON lines, when its name says so (`.jsonl .json .ndjson`) or its first line is a JSON object.
* Plain text otherwise, a blank line between documents. A line is *one sentence* when at most a quarter of the lines in
  that first megabyte hold several sentences by the sentence splitter; else lines are paragraphs and are split.

A record's value is a string (its lines are paragraphs, split), or a list of strings (sentences, kept as they are).
"""

from __future__ import annotations

import functools
import html
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from bert_jax.data.streams import (
    DOCUMENT_LIMIT,
    EncodingErrors,
    Layout,
    Unit,
    UnitKind,
    decode,
    line_place,
    read_lines,
)
from bert_jax.errors import BertJaxError
from bert_jax.files import parse_json
from bert_jax.text.sentences import split_sentences

Document = list[str]

HEAD_BYTES = 1 << 20
_JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
_COMPRESSED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
_TAG = re.compile(
    r"</?(?:br|hr|p|b|i|u|s|dl|dt|dd|ul|ol|li|ref|poem|onlyinclude|noinclude|includeonly|div|span|table|tr|td|th|small|"
    r"big|sub|sup|center|blockquote|code|pre|nowiki|gallery|references|section|templatestyles)\b[^<>]*>",
    re.IGNORECASE,
)
_HUGE_REFERENCE = re.compile(r"&#[0-9]{100,};?")
_TITLE = re.compile(r'\btitle="(.*)"')


def recognise(path: str, compression: str | None, encoding_errors: EncodingErrors) -> tuple[UnitKind, Layout] | None:
    """What a file of lines holds and how its lines are read; None when it has no text at all."""
    probe = Unit("text", path, compression=compression, encoding_errors=encoding_errors)
    lines: list[str] = []
    size = 0
    for offset, line in read_lines(probe):
        text = decode(line, offset, probe).strip()
        size += len(line)
        if text:
            lines.append(text)
            if len(lines) == 1 and (kind := _marked(path, text)):
                return kind, "paragraphs"
        if size >= HEAD_BYTES:
            break
    if not lines:
        return None
    return "text", layout_of(lines)


def _marked(path: str, first: str) -> UnitKind | None:
    if first.startswith("<doc ") and first.endswith(">"):
        return "wiki"
    name = path.lower()
    for suffix in _COMPRESSED_SUFFIXES:
        name = name.removesuffix(suffix)
    if name.endswith(_JSON_SUFFIXES):
        return "json"
    if first.startswith("{"):
        try:
            return "json" if isinstance(parse_json(first), dict) else None
        except ValueError:
            return None
    return None


def layout_of(lines: Iterable[str]) -> Layout:
    """`sentences` when at most a quarter of these lines hold several sentences, else `paragraphs`."""
    several = [len(split_sentences(line)) > 1 for line in lines]
    return "sentences" if 4 * sum(several) <= len(several) else "paragraphs"


def read_line_unit(unit: Unit) -> Iterator[Document]:
    """The documents of a unit of kind text, wiki or json, in order; none of them empty."""
    readers = {"text": text_documents, "wiki": wiki_documents, "json": json_documents}
    return readers[unit.kind](unit)


def sentences_or_lines(text: str, layout: Layout) -> Document:
    """Paragraphs split into sentences; or, where a line is a sentence, the lines."""
    if layout == "paragraphs":
        return split_sentences(text)
    return [line for line in map(str.strip, text.split("\n")) if line]


def text_documents(unit: Unit) -> Iterator[Document]:
    """Plain text: a blank line ends a document; one longer than `DOCUMENT_LIMIT` bytes is cut at a line end."""
    document: Document = []
    size = 0
    for offset, line in read_lines(unit):
        text = decode(line, offset, unit).strip()
        if document and (not text or size >= DOCUMENT_LIMIT):
            yield document
            document, size = [], 0
        if text:
            document += sentences_or_lines(text, unit.layout)
            size += len(line)
    if document:
        yield document


def wiki_documents(unit: Unit) -> Iterator[Document]:
    """WikiExtractor's `<doc ... title="...">` elements; one longer than `DOCUMENT_LIMIT` bytes is cut at a line end."""
    document: Document = []
    size = 0
    title: str | None = None
    for offset, line in read_lines(unit):
        text = decode(line, offset, unit).strip()
        if text.startswith("<doc ") and text.endswith(">"):
            if document:
                yield document
            document, size = [], 0
            match = _TITLE.search(text)
            title = _unescaped(match.group(1)) if match else None
        elif text == "</doc>":
            if document:
                yield document
            document, size, title = [], 0, None
        elif text:
            text = _plain(text)
            if title is not None and text == title:
                title = None
                continue
            title = None
            document += sentences_or_lines(text, unit.layout)
            size += len(line)
            if size >= DOCUMENT_LIMIT:
                yield document
                document, size = [], 0
    if document:
        yield document


def _plain(text: str) -> str:
    """A line without left-over tags and with entities unescaped."""
    if "<" in text:
        text = _TAG.sub(" ", text)
    return _unescaped(text).strip() if "&" in text else text


def _unescaped(text: str) -> str:
    """Entities as characters; a number of thousands of digits, which Python refuses, as one outside of Unicode."""
    return html.unescape(_HUGE_REFERENCE.sub("\ufffd", text))


def json_documents(unit: Unit) -> Iterator[Document]:
    """JSON lines: the field of each object (default `text`), or a bare string or list of sentences per line."""
    for offset, line in read_lines(unit):
        text = decode(line, offset, unit).strip()
        if not text:
            continue
        try:
            record = parse_json(text)
        except ValueError as error:
            raise BertJaxError(f"{line_place(unit, offset)}: not a JSON line: {error}") from error
        if "\\ud" in text or "\\uD" in text:
            record = _without_surrogates(record)
        document = record_document(record, unit, functools.partial(line_place, unit, offset))
        if document:
            yield document


def _without_surrogates(value: Any) -> Any:
    """Half of a surrogate pair, which JSON can spell and UTF-8 cannot, as U+FFFD."""
    return json.loads(
        json.dumps(value, ensure_ascii=False).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )


def record_document(record: Any, unit: Unit, place: Callable[[], str]) -> Document:
    """The document in a record: a string, a list of sentences, or a mapping that holds one under the unit's field.

    The field may name a nested value (`a.b`) and several values to be joined as paragraphs (`title+abstract`). Without
    one it is `text`, less a first line that repeats the record's `title` (WikiExtractor).
    `place()` says where the record lies, for messages. Errors: no such field, or a value of another type.
    """
    if not isinstance(record, dict):
        return _value_document(record, "the record", unit, place)
    if unit.field is None:
        value, title = _lookup(record, "text", place), record.get("title")
        if isinstance(value, str) and isinstance(title, str):
            first, _, rest = value.lstrip().partition("\n")
            value = rest if first.strip() == title.strip() else value
        return _value_document(value, "text", unit, place)
    return [
        sentence
        for name in unit.field.split("+")
        for sentence in _value_document(_lookup(record, name, place), name, unit, place)
    ]


def _lookup(record: dict[str, Any], name: str, place: Callable[[], str]) -> Any:
    value: Any = record
    if name in record:
        return record[name]
    for part in name.split("."):
        if value is None:
            return None
        if not isinstance(value, dict) or part not in value:
            raise BertJaxError(f"{place()}: no field {name!r}; it has {', '.join(sorted(map(str, record))) or 'none'}")
        value = value[part]
    return value


def _value_document(value: Any, name: str, unit: Unit, place: Callable[[], str]) -> Document:
    if value is None:
        return []
    texts = value if isinstance(value, list | tuple) else [value]
    try:
        texts = [text.decode("utf-8", unit.encoding_errors) if isinstance(text, bytes) else text for text in texts]
    except UnicodeDecodeError as error:
        raise BertJaxError(f"{place()}: {name} is not UTF-8 at byte {error.start} of the value") from error
    if not all(isinstance(text, str) for text in texts):
        raise BertJaxError(f"{place()}: {name} is {type(value).__name__}, expected a text or a list of sentences")
    if isinstance(value, list | tuple):
        return [sentence for text in texts if (sentence := " ".join(text.split()))]
    return sentences_or_lines(texts[0], unit.layout)
