"""The best of several endings: which one fits a beginning, and how probable each is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bert_jax.errors import BertJaxError
from bert_jax.infer.by_form import predictions
from bert_jax.tasks.task import ChoiceExample, Form

if TYPE_CHECKING:
    from bert_jax.infer.loaded import Bert

Offered = ChoiceExample | tuple[str, Sequence[str]] | Mapping[str, Any] | str
"""A beginning and its endings: (context, [choice, …]), or an object with `context`, `choices`, perhaps `question`."""


def choose(
    bert: Bert, offered: Iterable[Offered], form: Form, choices: Sequence[str] | None = None, packing: int | None = None
) -> Iterator[dict[str, Any]]:
    """One answer per beginning, in order: `context` (and `id`, where one was given) beside what `form` predicts:
    `choice` (counted from 0), its `text`, and the `probabilities` of all choices.

    `form` is a `bert_jax.tasks.multiple_choice.MultipleChoice`; `choices`: of all beginnings that are given as texts
    alone. `packing`: the most endings, each behind its beginning, that share a row (docs/packing.md).
    Errors: `BertJaxError` for a model without the head, an input that is not a beginning with at least two endings, an
    empty text, and sequences longer than the model's positions.
    """
    given = (item if choices is None or not isinstance(item, str) else (item, choices) for item in offered)
    examples = (choice_of(item, f"input {number}") for number, item in enumerate(given, start=1))
    for example, prediction in predictions(bert, form, examples, packing):
        name = {"id": example.id} if example.id else {}
        yield {**name, "context": example.context, **prediction}


def choice_of(offered: Offered, name: str) -> ChoiceExample:
    """`offered` as an example. Errors: `BertJaxError` naming `name` for anything else, or an empty text."""
    if isinstance(offered, ChoiceExample):
        return offered
    given: Any = offered
    question, number = "", None
    if isinstance(offered, Mapping):
        question, number = offered.get("question") or "", offered.get("id")
        given = (offered.get("context"), offered.get("choices"))
    if not isinstance(given, tuple | list) or len(given) != 2 or not _are_texts([given[0], question], given[1]):
        raise BertJaxError(
            f'{name} is {str(offered)[:60]}: expected {{"context": …, "choices": […]}}, or a pair (context, choices)'
        )
    context, choices = given
    for what, text in (("context", context), *((f"choice {index}", text) for index, text in enumerate(choices))):
        if not text.strip():
            raise BertJaxError(f"{name}: {what} is empty: expected text")
    identity = "" if number is None else str(number)
    return ChoiceExample(place=name, id=identity, context=context, choices=tuple(choices), question=question)


def _are_texts(texts: list[Any], choices: Any) -> bool:
    many = isinstance(choices, list | tuple)
    return many and all(isinstance(text, str) for text in [*texts, *choices])
