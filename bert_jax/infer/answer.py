"""Answers to questions about texts: with their characters, the next best ones, and the odds that there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from bert_jax.errors import BertJaxError
from bert_jax.infer.batching import Encoded
from bert_jax.tasks.task import Form, Question, Row

if TYPE_CHECKING:
    from bert_jax.infer.loaded import Bert

Asked = Question | tuple[str, str] | Mapping[str, Any]
"""A question and its context: (question, context), or an object that has both under these names, and perhaps an id."""


class Part(NamedTuple):
    """`Encoded.source` of one sequence: of which example, of which of its rows, and whether it is its last."""

    example: Any
    row: Row
    last: bool


def answers(bert: Bert, asked: Iterable[Asked], form: Form) -> Iterator[dict[str, Any]]:
    """One answer per question, in order: `question` (and `id`, where one was given) beside what `form` predicts:
    `answer`, `start`, `end` (characters of the context), `probability`, `no_answer_odds` and `n_best`.

    `form` is a `bert_jax.tasks.question_answering.QuestionAnswering`; a context may be of any length: it is read in
    windows. Errors: `BertJaxError` for a model without the head, an input that is no question with a context, an empty
    one, and windows longer than the model's positions.
    """
    bert.require_head("question_answering", "answer questions")
    questions = (question_of(item, f"input {number}") for number, item in enumerate(asked, start=1))
    encoded = (item for question in questions for item in _encode(bert, question, form))
    parts = bert.answers(encoded, outputs_of(bert, form))
    outputs: list[Mapping[str, np.ndarray]] = []
    rows: list[Row] = []
    for part, output in parts:
        outputs.append(output)
        rows.append(part.row)
        if part.last:
            question = part.example
            name = {"id": question.id} if question.id else {}
            yield {**name, "question": question.question, **form.decode(question, rows, outputs)}
            outputs, rows = [], []


def outputs_of(
    bert: Bert, form: Form
) -> Callable[[dict[str, Any], list[Encoded]], list[tuple[Part, dict[str, np.ndarray]]]]:
    """What `bert.answers` computes of a batch for `form`: each sequence's `Part` with the outputs of its own row."""

    def compute(batch: dict[str, Any], items: list[Encoded]) -> list[tuple[Part, dict[str, np.ndarray]]]:
        found = {name: np.asarray(value) for name, value in predict(bert.params, batch).items()}
        return [(item.source, {name: value[row] for name, value in found.items()}) for row, item in enumerate(items)]

    def _predict(params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return form.answers(bert.apply(batch, params), batch)

    predict = bert.compiled(("form", type(form)), lambda: _predict)
    return compute


def question_of(asked: Asked, name: str) -> Question:
    """`asked` as a question. Errors: `BertJaxError` naming `name` where question or context are missing or empty."""
    if isinstance(asked, Question):
        return asked
    given: Any = asked
    if isinstance(asked, Mapping):
        given = (asked.get("question"), asked.get("context"))
    if not isinstance(given, tuple | list) or len(given) != 2 or not all(isinstance(text, str) for text in given):
        raise BertJaxError(
            f'{name} is {str(asked)[:60]}: expected {{"question": …, "context": …}}, or a pair (question, context)'
        )
    for what, text in zip(("question", "context"), given, strict=True):
        if not text.strip():
            raise BertJaxError(f"{name}: the {what} is empty: expected text")
    number = asked.get("id") if isinstance(asked, Mapping) else None
    return Question(place=name, id="" if number is None else str(number), question=given[0], context=given[1])


def _encode(bert: Bert, question: Question, form: Form) -> Iterator[Encoded]:
    rows = form.encode(question)
    for index, row in enumerate(rows):
        bert.require_length(row.length, question.place)
        part = Part(question, row, index + 1 == len(rows))
        yield Encoded(list(row.ids[0]), list(row.segments[0]), source=part)
