"""Predictions of a fine-tuned model, one per example: its form makes the rows and reads the outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import TaskOptions
from bert_jax.infer.batching import Encoded
from bert_jax.model.bert import OF_EXAMPLES
from bert_jax.tasks.table import FORMS
from bert_jax.tasks.task import Form, Prediction, Row

if TYPE_CHECKING:
    from bert_jax.infer.loaded import Bert

POSITIONS = "entity_positions"
SEVERAL = ("multiple_choice",)
"""Heads whose examples are several sequences, whose outputs a form reads side by side."""


def form_of(bert: Bert, forms: Sequence[str], purpose: str) -> Any:
    """The form that a model was fine-tuned with, one of `forms` (rows of `tasks.table.FORMS`).

    Of a published model, which does not say, the first of `forms` with its head, with labels as its configuration
    names them. Errors: `BertJaxError` for a model fine-tuned for something else, or not at all.
    """
    task = bert.source.task
    if task is not None:
        if task.form not in forms:
            raise BertJaxError(f"{bert.source.path} was fine-tuned for {task.name} ({task.form}): it cannot {purpose}")
        form = FORMS[task.form](bert.tokenizer, task.labels, TaskOptions(**task.options))
        threshold = task.scores.get("no_answer_threshold")
        if threshold is not None:
            form.no_answer_threshold = threshold
        return form
    published = {"regression": "regression", "multi_label_classification": "multi_label"}
    problem = published.get(str(bert.config.extra.get("problem_type")), "")
    if not problem and bert.source.classes == 1 and "classification" in bert.heads:
        problem = "regression"  # one output: a score, as transformers takes it too
    for name in (problem, *forms) if problem in forms else forms:
        if FORMS[name].head in bert.heads:
            labels = bert.source.labels or tuple(f"LABEL_{index}" for index in range(bert.source.classes))
            positions = bert.config.max_position_embeddings
            return FORMS[name](bert.tokenizer, labels, TaskOptions(length=positions))
    raise BertJaxError(
        f"{bert.source.path} has no {FORMS[forms[0]].head} head (it has {', '.join(bert.heads) or 'none'}), so it "
        f"cannot {purpose}: fine-tune it first (bert-jax finetune)"
    )


class Part(NamedTuple):
    """`Encoded.source` of one sequence: its example, the example's row it belongs to, and whether it is the last."""

    example: Any
    row: Row
    last_of_row: bool
    last: bool


def predictions(
    bert: Bert, form: Form, examples: Iterable[Any], packing: int | None = 1
) -> Iterator[tuple[Any, Prediction]]:
    """(example, prediction) for each of `examples`, in order, rows streamed through `bert.answers`.

    `entity_positions` is the one target that reaches the model. Errors: `BertJaxError` for a model without the form's
    head, a limit of tokens beyond its positions, and whatever `form.encode` refuses.
    """
    encoded = (part for example in examples for part in parts_of(example, form.encode(example)))
    return decoded(bert, form, encoded, packing)


def parts_of(example: Any, rows: Sequence[Row]) -> Iterator[Encoded]:
    """The sequences of one example as `bert.answers` takes them."""
    for number, row in enumerate(rows, start=1):
        slots = tuple(map(int, row.targets.get(POSITIONS, ())))
        for index, (ids, segments) in enumerate(zip(row.ids, row.segments, strict=True), start=1):
            last = index == len(row.ids)
            yield Encoded(list(ids), list(segments), slots, Part(example, row, last, last and number == len(rows)))


def decoded(
    bert: Bert, form: Form, encoded: Iterable[Encoded], packing: int | None = 1
) -> Iterator[tuple[Any, Prediction]]:
    """As `predictions`, of the sequences that `parts_of` made; up to `packing` of them share a row, which only forms
    whose head reads one vector of each can do (`model.bert.OF_EXAMPLES`)."""
    assert packing == 1 or form.head in OF_EXAMPLES, form.head
    if form.head is not None:
        bert.require_head(form.head, "answer this")
    bert.require_length(form.options.length, "task.length: a row")
    predict = bert.compiled(("form", type(form)), lambda: _make_predict(bert, form))

    def compute(batch: dict[str, Any], items: list[Encoded]) -> list[tuple[Part, Mapping[str, np.ndarray]]]:
        if "masked_lm_positions" in batch:
            batch = {POSITIONS if name == "masked_lm_positions" else name: array for name, array in batch.items()}
        outputs = jax.device_get(predict(bert.params, batch))
        if "cls_positions" in batch:  # (B, P, …): P items for each row
            outputs = {name: array.reshape(-1, *array.shape[2:]) for name, array in outputs.items()}
        return [(item.source, {name: array[row] for name, array in outputs.items()}) for row, item in enumerate(items)]

    slots = (2,) if form.head == "relation" else ()
    rows: list[Row] = []
    of_rows: list[Mapping[str, np.ndarray]] = []
    of_row: list[Mapping[str, np.ndarray]] = []
    for part, outputs in bert.answers(encoded, compute, slot_sizes=slots, packing=packing):
        of_row.append(outputs)
        if part.last_of_row:
            several = form.head in SEVERAL
            of_rows.append(
                {name: np.stack([one[name] for one in of_row]) for name in outputs} if several else of_row[0]
            )
            rows.append(part.row)
            of_row = []
        if part.last:
            yield part.example, form.decode(part.example, rows, of_rows)
            rows, of_rows = [], []


def _make_predict(bert: Bert, form: Form) -> Callable[..., dict[str, jax.Array]]:
    def predict(params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return form.answers(bert.apply(batch, params), batch)

    return predict


def require_text(text: Any, name: str) -> str:
    """`text`. Errors: `BertJaxError` for anything that is no text."""
    if not isinstance(text, str):
        raise BertJaxError(f"{name} is {str(text)[:60]!r} ({type(text).__name__}): expected a text")
    return text
