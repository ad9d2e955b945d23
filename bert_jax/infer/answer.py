"""Answers to questions about texts: with their characters, the next best ones, and the odds that there is none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bert_jax.errors import BertJaxError
from bert_jax.infer.by_form import predictions
from bert_jax.tasks.task import Form, Question

if TYPE_CHECKING:
    from bert_jax.infer.loaded import Bert

Asked = Question | tuple[str, str] | Mapping[str, Any] | str
"""A question and its context: (question, context), or an object that has both under these names, and perhaps an id."""


def answers(bert: Bert, asked: Iterable[Asked], form: Form, context: str | None = None) -> Iterator[dict[str, Any]]:
    """One answer per question, in order: `question` (and `id`, where one was given) beside what `form` predicts:
    `answer`, `start`, `end` (characters of the context), `probability`, `no_answer_odds` and `n_best`.

    `form` is a `bert_jax.tasks.question_answering.QuestionAnswering`; a context may be of any length: it is read in
    windows. `context`: of all questions that are given as texts alone. Errors: `BertJaxError` for a model without the
    head, an input that is no question with a context, an empty one, and windows longer than the model's positions.
    """
    given = (item if context is None or not isinstance(item, str) else (item, context) for item in asked)
    questions = (question_of(item, f"input {number}") for number, item in enumerate(given, start=1))
    for question, prediction in predictions(bert, form, questions):
        name = {"id": question.id} if question.id else {}
        yield {**name, "question": question.question, **prediction}


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
