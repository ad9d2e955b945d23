"""Tagged words as JSON: {"words": ["Ann", "sees", …], "tags": ["B-PER", "O", …]}, one sentence per object.

Objects stand one per line, or one after the other over several lines, or in one list. The words are in the field
`words` or `tokens` (or `data.text`), the tags in `tags`, `ner_tags` or `labels` (or `data.label`); without such a field
the tags are not known. Sentences with the same `document` (a name or a number), one after the other, are one document.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import TaskData
from bert_jax.tasks.conll import in_known_scheme, read_columns, tag_of
from bert_jax.tasks.entities import is_bioes
from bert_jax.tasks.source_files import Unusable, files_of, objects_of
from bert_jax.tasks.task import TaggedExample

_WORDS, _TAGS = ("words", "tokens"), ("tags", "ner_tags", "labels")
_FORM = '{"words": ["Ann", …], "tags": ["B-PER", …]}'
_JSON = (".json", ".jsonl", ".ndjson")


def read_tagged(source: str, data: TaskData) -> Iterator[TaggedExample]:
    """Words with tags: files in columns, or JSON as described at the top, by the suffix of the file's name.

    Errors: as `read_columns` and `read_tagged_words`.
    """
    for path in files_of(source):
        yield from (read_tagged_words if Path(path).suffix.lower() in _JSON else read_columns)(path, data)


class _Sentence(NamedTuple):
    place: str
    id: str
    document: Any
    words: tuple[str, ...]
    tags: tuple[str, ...] | None


def read_tagged_words(path: str, data: TaskData) -> Iterator[TaggedExample]:
    """The sentences of one JSON file, tags as BIO (IOB2), or as BIOES where the file has tags of its own for ends.

    Another number of tags than words: see `source_files.Unusable`. Errors: `BertJaxError` naming file and line for
    what has no list of words, or a tag of no known form.
    """
    unusable = Unusable(path, data)
    sentences = []
    for number, (place, item) in enumerate(objects_of(path), start=1):
        unusable.examples += 1
        sentence = _sentence(item, data, place, number)
        if sentence.tags is not None and len(sentence.tags) != len(sentence.words):
            count = len(sentence.tags)
            unusable.add(place, f"{count} tags for {len(sentence.words)} words: each word needs one")
            continue
        sentences.append(sentence)
    unusable.report()
    if not sentences:
        raise BertJaxError(f"{path} holds no sentence that can be used: expected {_FORM}")
    bioes = is_bioes(tag for sentence in sentences for tag in sentence.tags or ())
    for document, (_, group) in enumerate(itertools.groupby(sentences, key=lambda sentence: sentence.document)):
        members = list(group)
        words = [sentence.words for sentence in members]
        for number, sentence in enumerate(members):
            yield TaggedExample(
                place=sentence.place,
                id=sentence.id,
                words=sentence.words,
                tags=None if sentence.tags is None else in_known_scheme(sentence.tags, bioes),
                document=document,
                sentences=words if len(words) > 1 else (),
                number=number,
            )


def _sentence(item: dict[str, Any], data: TaskData, place: str, number: int) -> _Sentence:
    words = _texts(item, (data.text,) if data.text else _WORDS, place)
    if not words:
        has = ", ".join(item) or "no fields"
        raise BertJaxError(
            f"{place} has no list of words in {data.text or ' or '.join(_WORDS)} (it has {has}): expected {_FORM}"
        )
    tags = _texts(item, (data.label,) if data.label else _TAGS, place)
    if tags is None and data.label is not None:
        raise BertJaxError(f"{place} has no field {data.label!r} (data.label): expected {_FORM}")
    checked = None if tags is None else tuple(tag_of(tag, place) for tag in tags)
    document = item.get("document", ("alone", number))
    return _Sentence(place, str(item.get("id", number)), document, words, checked)


def _texts(item: dict[str, Any], names: tuple[str, ...], place: str) -> tuple[str, ...] | None:
    """The list of texts in the first of the fields that is there, None where none is. Errors: for anything else."""
    name = next((name for name in names if item.get(name) is not None), None)
    if name is None:
        return None
    value = item[name]
    if not isinstance(value, list) or not all(isinstance(text, str) and text for text in value):
        raise BertJaxError(
            f"{place}: {name} is {str(value)[:60]}: expected a list of texts, none of them empty: {_FORM}"
        )
    return tuple(value)
