"""The form of multiple choice: one sequence per ending, a score for each, softmax over them; and its accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.errors import BertJaxError
from bert_jax.tasks.task import Batch, ChoiceExample, Form, Outputs, Prediction, Row, Scores
from bert_jax.text.cutting import cut_pair


class MultipleChoice(Form):
    """Any number of endings, of which one is right: `[CLS] context [SEP] question ending [SEP]` for each."""

    head = "multiple_choice"
    outputs = ("multiple_choice_logits",)

    @property
    def classes(self) -> int:
        """One score per sequence."""
        return 1

    def encode(self, example: ChoiceExample) -> list[Row]:
        """One row with K sequences; target `label`. Too long ones lose tokens from the end of their longer side.

        Errors: `BertJaxError` for fewer than two endings, a label that counts none of them, a sequence of no text.
        """
        check_choices(example)
        sequences, segments, cut = [], [], False
        context = self.tokenizer.ids(example.context)
        for choice in example.choices:
            ending = self.tokenizer.ids(f"{example.question} {choice}" if example.question else choice)
            if not context and not ending:
                raise BertJaxError(
                    f"{example.place or 'input'}: the context and the choice {choice[:40]!r} hold no text that the "
                    "tokenizer sees: expected some"
                )
            kept, rest = cut_pair(len(context), len(ending), self.options.length - 3)
            assert rest is not None
            cut |= kept < len(context) or rest < len(ending)
            first = [self.tokenizer.cls_id, *context[:kept], self.tokenizer.sep_id]
            second = [*ending[:rest], self.tokenizer.sep_id]
            sequences.append(first + second)
            segments.append([0] * len(first) + [1] * len(second))
        self.cut += cut
        targets = {} if example.label is None else {"label": example.label}
        return [Row(tuple(sequences), tuple(segments), targets)]

    def loss(self, outputs: Outputs, batch: Batch) -> jax.Array:
        """Cross entropy of the right ending among those that are there: float32 (B,)."""
        logits = outputs["multiple_choice_logits"].astype(jnp.float32)[..., 0]  # (B, K)
        logits = jnp.where(batch["sequence_mask"] > 0, logits, -1e30)
        labels = batch["label"].astype(jnp.int32)[:, None]
        return -jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), labels, axis=-1)[:, 0]

    def decode(
        self, example: ChoiceExample, rows: Sequence[Row], outputs: Sequence[Mapping[str, np.ndarray]]
    ) -> Prediction:
        """`choice`, counted from 0, its `text`, and the `probabilities` of all."""
        logits = np.asarray(outputs[0]["multiple_choice_logits"], np.float64)[: len(example.choices), 0]
        shares = np.exp(logits - logits.max())
        best = int(logits.argmax())
        return {
            "choice": best,
            "text": example.choices[best],
            "probabilities": (shares / shares.sum()).tolist(),
        }


def check_choices(example: ChoiceExample) -> None:
    """Errors: `BertJaxError` for fewer than two choices, or a label that counts none of them."""
    place, count = example.place or "input", len(example.choices)
    if count < 2:
        raise BertJaxError(f"{place} has {count} choice(s): expected at least two to choose from")
    if example.label is not None and not 0 <= example.label < count:
        raise BertJaxError(
            f"{place} has the label {example.label} and {count} choices: expected 0 to {count - 1} (choices are "
            "counted from 0)"
        )


def choice_accuracy(predictions: Sequence[Prediction], examples: Sequence[ChoiceExample]) -> Scores:
    """`accuracy`, 0 … 1, over the examples that have a label; None without any."""
    right = [
        prediction["choice"] == example.label
        for prediction, example in zip(predictions, examples, strict=True)
        if example.label is not None
    ]
    return {"accuracy": sum(right) / len(right) if right else None}
