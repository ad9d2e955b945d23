"""Predictions of a fine-tuned model, one per example: its form makes the rows and reads the outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from bert_jax.errors import BertJaxError
from bert_jax.infer.batching import Encoded
from bert_jax.tasks.task import Form, Prediction, Row

if TYPE_CHECKING:
    from bert_jax.infer.loaded import Bert

POSITIONS = "entity_positions"


class _Part(NamedTuple):
    """One row of an example, and whether it is the last one."""

    example: Any
    row: Row
    last: bool


def predictions(bert: Bert, form: Form, examples: Iterable[Any]) -> Iterator[tuple[Any, Prediction]]:
    """(example, prediction) for each of `examples`, in order, rows streamed through `bert.answers`.

    Forms of one sequence per row; `entity_positions` is the one target that reaches the model.
    Errors: `BertJaxError` for a model without the form's head, a limit of tokens beyond its positions, and whatever
    `form.encode` refuses.
    """
    if form.head is not None:
        bert.require_head(form.head, "answer this")
    bert.require_length(form.options.length, "task.length: a row")
    predict = bert.compiled(("form", type(form)), lambda: _make_predict(bert, form))

    def compute(batch: dict[str, Any], items: list[Encoded]) -> list[tuple[_Part, Mapping[str, np.ndarray]]]:
        if "masked_lm_positions" in batch:
            batch = {POSITIONS if name == "masked_lm_positions" else name: array for name, array in batch.items()}
        outputs = jax.device_get(predict(bert.params, batch))
        return [(item.source, {name: array[row] for name, array in outputs.items()}) for row, item in enumerate(items)]

    slots = (2,) if form.head == "relation" else ()
    rows: list[Row] = []
    found: list[Mapping[str, np.ndarray]] = []
    for part, outputs in bert.answers(_encoded(form, examples), compute, slot_sizes=slots):
        rows.append(part.row)
        found.append(outputs)
        if part.last:
            yield part.example, form.decode(part.example, rows, found)
            rows, found = [], []


def _make_predict(bert: Bert, form: Form) -> Callable[..., dict[str, jax.Array]]:
    def predict(params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return form.answers(bert.apply(batch, params), batch)

    return predict


def _encoded(form: Form, examples: Iterable[Any]) -> Iterator[Encoded]:
    for example in examples:
        rows = form.encode(example)
        for number, row in enumerate(rows, start=1):
            slots = tuple(map(int, row.targets.get(POSITIONS, ())))
            yield Encoded(list(row.ids[0]), list(row.segments[0]), slots, _Part(example, row, number == len(rows)))


def require_text(text: Any, name: str) -> str:
    """`text`. Errors: `BertJaxError` for anything that is no text."""
    if not isinstance(text, str):
        raise BertJaxError(f"{name} is {str(text)[:60]!r} ({type(text).__name__}): expected a text")
    return text
