"""Texts with spans, in JSON: CLUENER's files, and any with {"text": …, "spans": [[first, past, kind], …]}.

Objects stand one per line, or one after the other over several lines, or in one list. The text is in the field
`text` (or `data.text`), the spans in `spans` or `label` (or `data.label`): a list of [first character, past the last
one, kind] or [first, past, kind, surface], or as in CLUENER {kind: {surface: [[first, last], …]}}, last included.
Without that field the spans are not known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bert_jax.console import log
from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import TaskData
from bert_jax.tasks.entities import Entity, tags_of
from bert_jax.tasks.source_files import Unusable, files_of, objects_of
from bert_jax.tasks.task import SpanExample, TaggedExample
from bert_jax.tasks.text_words import word_places

Span = tuple[int, int, str]
_LIST_FORM = "[[first, past, kind], …]"
_TABLE_FORM = "{kind: {surface: [[first, last], …]}}"


def read_spans(source: str, data: TaskData) -> Iterator[SpanExample]:
    """The texts of JSON files with their spans, in the forms at the top.

    A span outside of its text, or other than its surface: see `source_files.Unusable`. Errors: `BertJaxError` naming
    file and line for what has no text, or spans of another form.
    """
    unusable = Unusable(source, data)
    for path in files_of(source):
        count = 0
        for place, item in objects_of(path):
            text = item.get(data.text or "text")
            if not isinstance(text, str):
                raise BertJaxError(f"{place} has no text in its field {data.text or 'text'!r}; it has {_fields(item)}")
            if data.label is not None and data.label not in item:
                raise BertJaxError(f"{place} has no field {data.label!r} (data.label); it has {_fields(item)}")
            field = data.label or ("spans" if "spans" in item else "label")
            count += 1
            unusable.examples += 1
            spans = None
            if item.get(field) is not None:
                listed = list(_listed(item[field], place))
                wrong = [why for span in listed if (why := _mismatch(text, *span))]
                if wrong:
                    unusable.add(place, wrong[0])
                    continue
                spans = tuple(sorted({(first, past, kind) for first, past, kind, _ in listed}))
            yield SpanExample(place=place, id=str(item.get("id", count)), text=text, spans=spans)
        if not count:
            raise BertJaxError(f"{path} holds no texts: expected JSON objects with a text and its spans")
    unusable.report()


def _fields(item: dict[str, Any]) -> str:
    return ", ".join(item) or "no fields"


def _listed(value: Any, place: str) -> Iterator[tuple[int, int, str, str | None]]:
    """(first, past, kind, surface or None) of each span, in either form."""
    try:
        if isinstance(value, dict):
            for kind, surfaces in value.items():
                for surface, places in surfaces.items():
                    for first, last in places:
                        yield _whole(first), _whole(last) + 1, kind, surface
            return
        for first, past, kind, *surface in value:
            if not isinstance(kind, str) or not kind or len(surface) > 1:
                raise TypeError
            yield _whole(first), _whole(past), kind, surface[0] if surface else None
    except (AttributeError, TypeError, ValueError) as error:
        raise BertJaxError(
            f"{place}: spans are {str(value)[:60]}: expected {_LIST_FORM} or {_TABLE_FORM} (counted in characters)"
        ) from error


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(value)
    return value


def _mismatch(text: str, first: int, past: int, kind: str, surface: str | None) -> str:
    """Why a span cannot be used, or ''."""
    if not 0 <= first < past <= len(text):
        return f"the {kind} at characters {first} to {past} is outside of its text of {len(text)} characters, or empty"
    if surface is not None and text[first:past] != surface:
        return f"the {kind} {surface!r} is not at characters {first} to {past}: there is {text[first:past]!r}"
    return ""


def read_tagged_spans(source: str, data: TaskData) -> Iterator[TaggedExample]:
    """The same files as words with BIO tags, for tagging: texts are cut into words as `bert-jax predict tag` does it.

    Of spans that overlap the longest remains, the first of equally long ones. A span that begins or ends inside a
    word becomes all of that word. How many there were of both is told once.
    """
    inside = overlapping = 0
    for example in read_spans(source, data):
        places = word_places(example.text)
        words = tuple(example.text[first:past] for first, past in places)
        tags = None
        if example.spans is not None:
            entities = [_entity(places, span) for span in _without_overlaps(example.spans)]
            overlapping += len(example.spans) - len(entities)
            free = 0
            kept = []
            for span, entity in entities:
                if entity.first < free or entity.first == entity.past:
                    overlapping += 1  # two spans inside one word, or one of blanks
                    continue
                inside += (span[0], span[1]) != (places[entity.first][0], places[entity.past - 1][1])
                kept.append(entity)
                free = entity.past
            tags = tags_of(kept, len(words), bioes=False)
        yield TaggedExample(
            place=example.place, id=example.id, words=words, tags=tags, text=example.text, offsets=tuple(places)
        )
    if inside or overlapping:
        log(
            f"{source}: {inside} spans begin or end inside a word and became all of it; {overlapping} that overlap "
            "others are left out, as a word has one tag"
        )


def _without_overlaps(spans: Sequence[Span]) -> list[Span]:
    kept: list[Span] = []
    for span in sorted(spans, key=lambda span: (span[0] - span[1], span)):
        if all(span[1] <= other[0] or other[1] <= span[0] for other in kept):
            kept.append(span)
    return sorted(kept)


def _entity(places: Sequence[tuple[int, int]], span: Span) -> tuple[Span, Entity]:
    """A span with the words that share a character with it."""
    touched = [word for word, (first, past) in enumerate(places) if first < span[1] and span[0] < past]
    return span, Entity(span[2], touched[0], touched[-1] + 1) if touched else Entity(span[2], 0, 0)
