"""Classify: the label of a text or a pair and its probability, a score, or several labels, by a fine-tuned head."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from bert_jax.infer.batching import Encoded
from bert_jax.infer.windows import Fit, Text, as_answer, sides
from bert_jax.tasks.classification import TextForm
from bert_jax.tasks.task import TextExample

if TYPE_CHECKING:
    from bert_jax.infer.loaded import Bert


def classify(
    bert: Bert,
    inputs: Iterable[Text],
    form: TextForm,
    truncate: bool = False,
    max_length: int | None = None,
) -> Iterator[dict[str, Any]]:
    """One answer per text or pair, in order: `text`, or `a` and `b`, and what `form` predicts:

    `label` and `probabilities` (by label, their sum 1); `score` of a regression; `labels` and `probabilities` (each for
    itself) where there may be several. Special pieces typed in a text are plain characters; an empty text is
    `[CLS] [SEP]` and has an answer, unknown characters are [UNK].

    An input longer than `max_length` tokens (default: as many as it was fine-tuned with) is an error, unless `truncate`
    cuts it as in training: pairs lose from the longer side, single texts from the end, or from the middle where
    training did so. Errors: `BertJaxError` for that, for what is no text, and for a model without the head.
    """
    assert form.head is not None
    bert.require_head(form.head, "classify texts")
    positions = bert.config.max_position_embeddings
    limit = min(form.options.length, positions) if max_length is None else max_length
    fit = Fit(limit, positions, truncate, slides=False)
    if limit != form.options.length:
        form = type(form)(form.tokenizer, form.labels, dataclasses.replace(form.options, length=limit))
    predict = bert.compiled(("classify", form.head), lambda: _make_predict(bert, form))

    def compute(batch: dict[str, Any], items: list[Encoded]) -> list[dict[str, Any]]:
        outputs = {name: np.asarray(array) for name, array in predict(bert.params, batch).items()}
        return [
            as_answer(item.source[0].a, item.source[0].b)
            | form.decode(item.source[0], [item.source[1]], [{name: array[row] for name, array in outputs.items()}])
            for row, item in enumerate(items)
        ]

    yield from bert.answers(_encode(inputs, form, fit), compute)
    fit.report()


def _make_predict(bert: Bert, form: TextForm) -> Callable[..., dict[str, jax.Array]]:
    def predict(params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return form.answers(bert.apply(batch, params), batch)

    return predict


def _encode(inputs: Iterable[Text], form: TextForm, fit: Fit) -> Iterator[Encoded]:
    for number, text in enumerate(inputs, start=1):
        name = f"input {number}"
        a, b = sides(text, name)
        example = TextExample(a=a, b=b, place=name)
        first, second = form.ids_of(example)
        fit.fit(len(first), None if second is None else len(second), name)
        row = form.row_of(first, second, {})
        yield Encoded(list(row.ids[0]), list(row.segments[0]), source=(example, row))
