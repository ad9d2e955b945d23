"""Readers of texts and pairs: the GLUE tasks as distributed, two Chinese sets, and anyone's tables.

A table of layouts says which column is what, by name where a file has a header and by number where it has none, and
which names the classes have. The files write classes as numbers, as names, or both, TensorFlow Datasets as names; they
come out as names, so that a model trained on the one predicts the same as one trained on the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import TaskData
from bert_jax.tasks.columns import Cells, Column, number_of, read_examples, text_of
from bert_jax.tasks.source_files import whole_number
from bert_jax.tasks.task import Reader, TextExample


class Layout(NamedTuple):
    """Where texts and labels stand in the files of a task; `classes` in their order, () for a score."""

    text: Column
    pair: Column | None
    label: Column
    classes: tuple[str, ...] = ()
    scores: tuple[float, float] = (0.0, 0.0)


def _label(names: str | tuple[str, ...], number: int) -> Column:
    return Column((names,) if isinstance(names, str) else names, number, required=False)


_FIRST, _SECOND = ("sentence1", "premise", "text_a"), ("sentence2", "hypothesis", "text_b")
_ENTAILED = ("entailment", "not_entailment")

LAYOUTS: dict[str, Layout] = {
    "cola": Layout(
        Column(("sentence",), 3), None, _label(("label", "is_acceptable"), 1), ("unacceptable", "acceptable")
    ),
    "sst2": Layout(Column(("sentence",), 0), None, _label("label", 1), ("negative", "positive")),
    "mrpc": Layout(
        Column(("#1 String", "sentence1"), 3),
        Column(("#2 String", "sentence2"), 4),
        _label(("Quality", "label"), 0),
        ("not_equivalent", "equivalent"),
    ),
    "stsb": Layout(Column(_FIRST, 7), Column(_SECOND, 8), _label(("score", "label"), 9), scores=(0.0, 5.0)),
    "qqp": Layout(
        Column(("question1",), 3),
        Column(("question2",), 4),
        _label(("is_duplicate", "label"), 5),
        ("not_duplicate", "duplicate"),
    ),
    "mnli": Layout(
        Column(_FIRST, 8),
        Column(_SECOND, 9),
        _label(("gold_label", "label"), -1),
        (
            "entailment",
            "neutral",
            "contradiction",
        ),
    ),
    "qnli": Layout(Column(("question",), 1), Column(("sentence",), 2), _label("label", 3), _ENTAILED),
    "rte": Layout(Column(_FIRST, 1), Column(_SECOND, 2), _label("label", 3), _ENTAILED),
    "wnli": Layout(Column(_FIRST, 1), Column(_SECOND, 2), _label("label", 3), _ENTAILED[::-1]),
    "chnsenticorp": Layout(Column(("text_a", "text"), 1), None, _label("label", 0), ("negative", "positive")),
    "lcqmc": Layout(
        Column(("text_a", "sentence1"), 0),
        Column(("text_b", "sentence2"), 1),
        _label("label", 2),
        (
            "different",
            "same",
        ),
    ),
}

# The columns that are looked for in a table of one's own, where the configuration does not name them.
_TEXT = ("text", "sentence", "text_a", "a", "sentence1", "premise", "question1")
_PAIR = ("pair", "text_b", "b", "sentence2", "hypothesis", "question2")
_LABEL = ("label", "labels", "score")


def reader_of(task: str) -> Reader:
    """The reader of a task in `LAYOUTS`: its files as distributed, or as TensorFlow Datasets has them.

    `data.text`, `.pair` and `.label` name other columns. Labels are names of `LAYOUTS[task].classes`, or numbers.
    Errors: as `read_examples`; a label that is no class, a class number or a score out of range.
    """
    layout = LAYOUTS[task]

    def make(cells: Cells) -> TextExample:
        return _example(cells, _score(cells, layout.scores) if layout.scores[1] else class_of(cells, layout.classes))

    def read(source: str, data: TaskData) -> Iterator[TextExample]:
        columns = {"text": column_of(data.text, layout.text), "label": column_of(data.label, layout.label)}
        if layout.pair is not None or data.pair is not None:
            columns["pair"] = column_of(data.pair, layout.pair or Column())
        return read_examples(source, data, columns, make)

    return read


def read_classes(source: str, data: TaskData) -> Iterator[TextExample]:
    """Texts or pairs with one label each, from any table; a number is the name of a class like another."""
    return _own(source, data, lambda cells: _example(cells, class_of(cells)))


def read_scores(source: str, data: TaskData) -> Iterator[TextExample]:
    """Texts or pairs with a number each, from any table."""
    return _own(source, data, lambda cells: _example(cells, number_of(cells, "label")))


def read_label_sets(source: str, data: TaskData) -> Iterator[TextExample]:
    """Texts or pairs with any number of labels each: a list in JSONL (one label may stand alone), one in a table."""
    return _own(source, data, lambda cells: _example(cells, _labels(cells)))


def column_of(given: str | None, default: Column) -> Column:
    """The column that the configuration names, or numbers, else the task's own."""
    if given is None:
        return default
    if given.isdecimal():
        return Column((), int(given), default.required)
    return Column((given,), None, default.required)


def _own(source: str, data: TaskData, make: Any) -> Iterator[TextExample]:
    columns = {"text": column_of(data.text, Column(_TEXT)), "label": column_of(data.label, Column(_LABEL, None, False))}
    if data.pair is not None:
        columns["pair"] = column_of(data.pair, Column())
    elif data.text is None:
        columns["pair"] = Column(_PAIR, None, required=False)
    return read_examples(source, data, columns, make)


def _example(cells: Cells, label: Any) -> TextExample:
    pair = text_of(cells, "pair") if cells.values.get("pair") is not None else None
    return TextExample(a=text_of(cells, "text"), b=pair, label=label, place=cells.place, id=cells.id)


def class_of(cells: Cells, classes: tuple[str, ...] = ()) -> str | None:
    """The class in the column `label`: a name, or a number where `classes` are known and numbers are no names of them.

    None where the table has no such column, or null. Errors: `BertJaxError` for an empty field, an unknown name, a
    number out of range, and for what is neither.
    """
    value = cells.values["label"]
    if value is None or (classes and value == -1):  # so TensorFlow Datasets has what it does not tell
        return None
    if not isinstance(value, str | int):
        raise BertJaxError(f"{cells.place} has {json.dumps(value)[:60]} for the label: expected a name")
    name = value.strip() if isinstance(value, str) else json.dumps(value)
    if not name:
        raise BertJaxError(f"{cells.place} has an empty label")
    if not classes or name in classes:
        return name
    number = whole_number(name)
    if number is not None:
        if 0 <= number < len(classes):
            return classes[number]
        raise BertJaxError(
            f"{cells.place} has label {name}: expected 0 to {len(classes) - 1}, for {', '.join(classes)}"
        )
    raise BertJaxError(f"{cells.place} has label {name[:60]!r}: expected one of {', '.join(classes)}")


def _score(cells: Cells, scores: tuple[float, float]) -> float | None:
    number = number_of(cells, "label")
    if number == -1 and cells.place.startswith("tfds:"):
        return None
    if number is not None and not scores[0] <= number <= scores[1]:
        raise BertJaxError(f"{cells.place} has score {number:g}: expected {scores[0]:g} to {scores[1]:g}")
    return number


def _labels(cells: Cells) -> tuple[str, ...] | None:
    value = cells.values["label"]
    if value is None:
        return None
    names = []
    for item in value if isinstance(value, list) else [value]:
        name = class_of(cells._replace(values={"label": item}))
        if name is None:
            raise BertJaxError(f"{cells.place} has {json.dumps(item)} among its labels: expected names")
        names.append(name)
    return tuple(dict.fromkeys(names))
