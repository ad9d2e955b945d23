"""Classify: the label of a text or a pair and its probability, a score, or several labels, by a fine-tuned head."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from bert_jax.infer.batching import Encoded
from bert_jax.infer.by_form import decoded, parts_of
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
    packing: int | None = None,
) -> Iterator[dict[str, Any]]:
    """One answer per text or pair, in order: `text`, or `a` and `b`, and what `form` predicts:

    `label` and `probabilities` (by label, their sum 1); `score` of a regression; `labels` and `probabilities` (each for
    itself) where there may be several. Special pieces typed in a text are plain characters; an empty text is
    `[CLS] [SEP]` and has an answer, unknown characters are [UNK].

    An input longer than `max_length` tokens (default: as many as it was fine-tuned with) is an error, unless `truncate`
    cuts it as in training: pairs lose from the longer side, single texts from the end, or from the middle where
    training did so. `packing`: the most inputs that share a row of the batch (docs/packing.md); the answers are the
    same. Errors: `BertJaxError` for that, for what is no text, and for a model without the head.
    """
    assert form.head is not None
    bert.require_head(form.head, "classify texts")
    positions = bert.config.max_position_embeddings
    limit = min(form.options.length, positions) if max_length is None else max_length
    fit = Fit(limit, positions, truncate, slides=False)
    if limit != form.options.length:
        form = type(form)(form.tokenizer, form.labels, dataclasses.replace(form.options, length=limit))
    for example, prediction in decoded(bert, form, _encode(inputs, form, fit), packing):
        yield as_answer(example.a, example.b) | prediction
    fit.report()


def _encode(inputs: Iterable[Text], form: TextForm, fit: Fit) -> Iterator[Encoded]:
    for number, text in enumerate(inputs, start=1):
        name = f"input {number}"
        a, b = sides(text, name)
        example = TextExample(a=a, b=b, place=name)
        first, second = form.ids_of(example)
        fit.fit(len(first), None if second is None else len(second), name)
        row = form.row_of(first, second, {})
        yield from parts_of(example, [row])
