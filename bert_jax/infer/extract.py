"""Extract: the spans of a text, of the kinds that the model was fine-tuned for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from bert_jax.infer.by_form import predictions, require_text
from bert_jax.tasks.pointers import Pointers
from bert_jax.tasks.task import SpanExample

if TYPE_CHECKING:
    from bert_jax.infer.loaded import Bert


def extracts(bert: Bert, texts: Iterable[str], form: Pointers) -> Iterator[dict[str, Any]]:
    """One answer per text, in order: `text` and `spans`, each with `kind`, `first` and `past` (characters of the
    text), `text` and `probability`, by the rule in `bert_jax.tasks.pointers`.

    Long texts are read in windows. Errors: `BertJaxError` for a model without the head pointers, and for an input that
    is no text.
    """
    examples = (
        SpanExample(place=f"input {number}", text=require_text(text, f"input {number}"))
        for number, text in enumerate(texts, start=1)
    )
    for example, prediction in predictions(bert, form, examples):
        yield {"text": example.text, **prediction}
