"""Texts with two marked entities: tables with <e1> tags, SemEval-2010's own files, JSON lines with offsets.

* Table: a label, a tab, a text with `<e1>…</e1>` and `<e2>…</e2>`; `data.label` and `data.text` name other columns
  (numbers from 0, or names where `data.header` says that the first line holds them). One column: no labels.
* SemEval-2010 task 8 as published: a number, a tab, the text in quotes; the label on the next line, then a comment.
* JSON: {"text": …, "first": [begin, past], "second": [begin, past], "label": …} in characters, or the tags in the
  text; `data.text` and `data.label` name other fields.

Which it is shows in the first line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import TaskData
from bert_jax.tasks.source_files import Unusable, files_of, lines_of, objects_of
from bert_jax.tasks.task import RelationExample

SEMEVAL_LABELS = (
    "Other",
    *(
        f"{relation}({direction})"
        for relation in (
            *("Cause-Effect", "Instrument-Agency", "Product-Producer", "Content-Container", "Entity-Origin"),
            *("Entity-Destination", "Component-Whole", "Member-Collection", "Message-Topic"),
        )
        for direction in ("e1,e2", "e2,e1")
    ),
)
"""The 19 classes of SemEval-2010 task 8."""

_JSON = re.compile(r"\s*(\{|\[\s*(\{|$))")
_NUMBERED = re.compile(r'(\d+)\s+"(.*)"\s*')
# The blank inside of a tag is not part of the text.
_TAG = re.compile(r"<e([12])>\s*|</e([12])>")
Place = tuple[int, int]


def read_relations(source: str, data: TaskData) -> Iterator[RelationExample]:
    """The examples of files in the forms at the top.

    Errors: `BertJaxError` naming file and line for a missing column or field. A text without both entities, or with
    one outside of it: see `source_files.Unusable`.
    """
    unusable = Unusable(source, data)
    for path in files_of(source):
        head = next((line for _, line in lines_of(path) if line.strip()), "")
        if not head:
            raise BertJaxError(f"{path} is empty: expected texts with two marked entities")
        if _JSON.match(head):
            found = _json_examples(path, data)
        elif _NUMBERED.fullmatch(head):
            found = _semeval_examples(path)
        else:
            found = _table_examples(path, data)
        for place, name, text, entities, label in found:
            unusable.examples += 1
            try:
                yield marked_example(text, entities, label, place, name)
            except BertJaxError as error:
                unusable.add(place, str(error).removeprefix(f"{place}: "))
    unusable.report()


_Found = Iterator[tuple[str, str, str, Sequence[Any] | None, str | None]]  # place, id, text, entities, label


def _table_examples(path: str, data: TaskData) -> _Found:
    names: list[str] | None = None
    columns = 0
    for number, line in lines_of(path):
        if not line.strip():
            continue
        place, cells = f"{path}, line {number}", line.split("\t")
        if data.header and names is None:
            names = cells
            continue
        if columns and len(cells) != columns:
            raise BertJaxError(f"{place} has {len(cells)} columns, the lines before it {columns}: {line[:60]!r}")
        columns = len(cells)
        label = None
        if len(cells) > 1 or data.label is not None:
            label = _cell(cells, data.label or "0", names, place, "label").strip()
            if not label:
                raise BertJaxError(f"{place} has no label: {line[:60]!r}")
        text = _cell(cells, data.text or ("0" if label is None else "1"), names, place, "text")
        yield place, str(number), text, None, label


def _cell(cells: Sequence[str], name: str, names: Sequence[str] | None, place: str, what: str) -> str:
    """The cell of the column that is named, or numbered from 0."""
    if names is not None and name in names:
        column = names.index(name)
    elif name.lstrip("-").isdecimal():
        column = int(name)
    else:
        known = f"the header has {', '.join(names)}" if names else "without data.header columns have numbers, from 0"
        raise BertJaxError(f"{place}: no column {name!r} (data.{what}): {known}")
    if not -len(cells) <= column < len(cells):
        raise BertJaxError(f"{place} has {len(cells)} columns and no column {column} (data.{what})")
    return cells[column]


def _semeval_examples(path: str) -> _Found:
    lines = iter([*lines_of(path)])
    for number, line in lines:
        if not line.strip():
            continue
        match = _NUMBERED.fullmatch(line)
        if not match:
            raise BertJaxError(
                f'{path}, line {number} is {line[:60]!r}: expected a number, a tab and a text in "quotes", as '
                "SemEval-2010 task 8 has it"
            )
        following, label = next(lines, (0, ""))
        if label.startswith("Comment") or _NUMBERED.fullmatch(label):
            raise BertJaxError(f"{path}, line {following} is {label[:60]!r}: expected the label of line {number}")
        yield f"{path}, line {number}", match[1], match[2], None, label.strip() or None
        for _, rest in lines:  # the comment, until a blank line
            if not rest.strip():
                break


def _json_examples(path: str, data: TaskData) -> _Found:
    for count, (place, item) in enumerate(objects_of(path), start=1):
        text = item.get(data.text or "text")
        if not isinstance(text, str):
            raise BertJaxError(f"{place} has no text in its field {data.text or 'text'!r}; it has {', '.join(item)}")
        label = item.get(data.label or "label")
        if label is None and data.label is not None:
            raise BertJaxError(f"{place} has no field {data.label!r} (data.label); it has {', '.join(item)}")
        yield place, str(item.get("id", count)), text, entities_in(item, place), None if label is None else str(label)


def entities_in(item: Mapping[str, Any], place: str) -> Sequence[Any] | None:
    """The fields `first` and `second` of an object; None where it has neither: then the tags are in its text."""
    if "first" not in item and "second" not in item:
        return None
    entities = [item.get(name) for name in ("first", "second")]
    for entity in entities:
        pair = isinstance(entity, list | tuple) and len(entity) == 2
        if not pair or not all(isinstance(part, int) and not isinstance(part, bool) for part in entity or ()):
            raise BertJaxError(f"{place}: first and second are {entities}: expected [begin, past] in characters each")
    return entities


def marked_example(
    text: str, entities: Sequence[Any] | None, label: str | None = None, place: str = "", name: str = ""
) -> RelationExample:
    """An example from a text and its entities, or from a text with tags where these are None.

    Errors: `BertJaxError` where the tags are not two pairs, or an entity is empty or outside of the text.
    """
    if entities is None:
        text, entities = without_tags(text, place)
    for first, past in entities:
        if not 0 <= first < past <= len(text):
            raise BertJaxError(
                f"{place}: an entity at characters {first} to {past} is empty or outside of its text of {len(text)} "
                f"characters: {text[:60]!r}"
            )
    first, second = (tuple(entity) for entity in entities)
    return RelationExample(place=place, id=name, text=text, first=first, second=second, label=label)


def without_tags(text: str, place: str) -> tuple[str, tuple[Place, Place]]:
    """The text without its tags, and the two entities in it."""
    parts: list[str] = []
    length = before = 0
    edges: dict[tuple[str, bool], list[int]] = {}
    for tag in _TAG.finditer(text):
        # Stripped here, since a pattern that begins with blanks takes the square of their number to find nothing.
        part = text[before : tag.start()]
        parts.append(part if tag[1] else part.rstrip())
        length += len(parts[-1])
        edges.setdefault((tag[1] or tag[2], tag[1] is not None), []).append(length)
        before = tag.end()
    parts.append(text[before:])
    found = [edges.get((number, opens), []) for number in "12" for opens in (True, False)]
    if any(len(places) != 1 for places in found):
        raise BertJaxError(
            f"{place}: {text[:60]!r} does not mark two entities: expected <e1>…</e1> and <e2>…</e2>, each once"
        )
    (first,), (first_past,), (second,), (second_past,) = found
    return "".join(parts), ((first, first_past), (second, second_past))
