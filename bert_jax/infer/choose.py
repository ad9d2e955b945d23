"""The best of several endings: which one fits a beginning, and how probable each is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bert_jax.errors import BertJaxError
from bert_jax.infer.answer import Part, outputs_of
from bert_jax.infer.batching import Encoded
from bert_jax.tasks.task import ChoiceExample, Form

if TYPE_CHECKING:
    from bert_jax.infer.loaded import Bert

Offered = ChoiceExample | tuple[str, Sequence[str]] | Mapping[str, Any]
"""A beginning and its endings: (context, [choice, …]), or an object with `context`, `choices`, perhaps `question`."""


def choose(bert: Bert, offered: Iterable[Offered], form: Form) -> Iterator[dict[str, Any]]:
    """One answer per beginning, in order: `context` (and `id`, where one was given) beside what `form` predicts:
    `choice` (counted from 0), its `text`, and the `probabilities` of all choices.

    `form` is a `bert_jax.tasks.multiple_choice.MultipleChoice`. Errors: `BertJaxError` for a model without the head,
    an input that is not a beginning with at least two endings, an empty text, and sequences longer than the model's
    positions.
    """
    bert.require_head("multiple_choice", "choose")
    examples = (choice_of(item, f"input {number}") for number, item in enumerate(offered, start=1))
    encoded = (item for example in examples for item in _encode(bert, example, form))
    outputs: list[dict[str, np.ndarray]] = []
    for part, output in bert.answers(encoded, outputs_of(bert, form)):
        outputs.append(output)
        if part.last:
            example = part.example
            name = {"id": example.id} if example.id else {}
            stacked = {key: np.stack([one[key] for one in outputs]) for key in output}  # (K, …), as in a batch
            yield {**name, "context": example.context, **form.decode(example, [part.row], [stacked])}
            outputs = []


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


def _encode(bert: Bert, example: ChoiceExample, form: Form) -> Iterator[Encoded]:
    (row,) = form.encode(example)
    bert.require_length(row.length, example.place)
    for index, (ids, segments) in enumerate(zip(row.ids, row.segments, strict=True)):
        part = Part(example, row, index + 1 == len(row.ids))
        yield Encoded(list(ids), list(segments), source=part)
