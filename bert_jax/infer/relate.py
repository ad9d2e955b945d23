"""Relate: which relation holds between two entities marked in a text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bert_jax.console import warn
from bert_jax.errors import BertJaxError
from bert_jax.infer.by_form import predictions
from bert_jax.tasks.relation import Relation
from bert_jax.tasks.relation_files import entities_in, marked_example
from bert_jax.tasks.task import RelationExample

if TYPE_CHECKING:
    from bert_jax.infer.loaded import Bert


def relations(bert: Bert, inputs: Iterable[str | Mapping[str, Any]], form: Relation) -> Iterator[dict[str, Any]]:
    """One answer per input, in order: `text` without tags, the places `first` and `second` of its entities
    ([begin, past] in characters), `label`, its `probability` and the `probabilities` of all labels.

    An input is a text with `<e1>…</e1>` and `<e2>…</e2>`, or {"text": …, "first": [begin, past], "second": …}.
    A text that is too long keeps what is nearest to its entities; how many were cut is told at the end.
    Errors: `BertJaxError` for a model without the head relation, and for an input without two entities.
    """
    before = form.cut
    count = 0
    examples = (marked_input(given, f"input {number}") for number, given in enumerate(inputs, start=1))
    for example, prediction in predictions(bert, form, examples):
        count += 1
        yield {
            "text": example.text,
            "first": list(example.first),
            "second": list(example.second),
            **prediction,
        }
    if form.cut > before:
        warn(f"{form.cut - before} of {count} inputs were longer than {form.options.length} tokens and were cut")


def marked_input(given: str | Mapping[str, Any], place: str) -> RelationExample:
    """An input in either form as an example without a label."""
    if isinstance(given, str):
        return marked_example(given, None, place=place)
    text = given.get("text") if isinstance(given, Mapping) else None
    if not isinstance(given, Mapping) or not isinstance(text, str):
        raise BertJaxError(
            f'{place} is {str(given)[:60]!r}: expected a text with <e1>…</e1> and <e2>…</e2>, or {{"text": …, '
            '"first": [begin, past], "second": [begin, past]}'
        )
    return marked_example(text, entities_in(given, place), place=place)
