"""Texts and pairs with a label, several labels or a score: one vector per row, one linear map.

Letters: B batch, C classes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.console import warn
from bert_jax.errors import BertJaxError
from bert_jax.tasks.source_files import whole_number
from bert_jax.tasks.task import Batch, Form, Outputs, Prediction, Row, TextExample
from bert_jax.text.cutting import cut_pair, cut_single
from bert_jax.train.losses import negative_log_likelihood


class TextForm(Form):
    """What the forms of this file share: `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`, cut to options.length.

    Pairs lose from the longer side, single texts from the end, or with options.head_tail from the middle.
    """

    head = "classification"
    outputs = ("classification_logits",)
    packs = True

    def encode(self, example: TextExample) -> list[Row]:
        """One row; with targets where the example has a label. Errors: as `targets`."""
        a, b = self.ids_of(example)
        return [self.row_of(a, b, self.targets(example))]

    def ids_of(self, example: TextExample) -> tuple[list[int], list[int] | None]:
        """The ids of both sides, whole."""
        return self.tokenizer.ids(example.a), None if example.b is None else self.tokenizer.ids(example.b)

    def row_of(self, a: Sequence[int], b: Sequence[int] | None, targets: Mapping[str, Any]) -> Row:
        """The row of one example's ids, cut where they are too many (counted in `cut`)."""
        cls, sep = self.tokenizer.cls_id, self.tokenizer.sep_id
        specials = 2 if b is None else 3
        room = self.options.length - specials
        self.cut += len(a) + len(b or ()) > room
        if b is None:
            first, second = [cls, *cut_single(a, room, self.options.head_tail), sep], []
        else:
            used, other = cut_pair(len(a), len(b), room)
            first, second = [cls, *a[:used], sep], [*b[:other], sep]
        return Row(((*first, *second),), ((0,) * len(first) + (1,) * len(second),), targets)

    def targets(self, example: TextExample) -> dict[str, Any]:
        """What the loss compares with; {} for an example without a label."""
        raise NotImplementedError

    def logits_of(self, outputs: Mapping[str, Any]) -> Any:
        """The head's logits."""
        return outputs[f"{self.head}_logits"]


class Classification(TextForm):
    """One label of several: softmax over C classes, cross entropy."""

    @classmethod
    def labels_of(cls, examples: Iterable[TextExample]) -> tuple[str, ...]:
        """The labels in order, numbers by size. Errors: `BertJaxError` for an example without a label, or one class."""
        labels, last = set(), ""
        for example in examples:
            labels.add(_label_of(example))
            last = example.place
        if len(labels) < 2:
            raise BertJaxError(
                f"all training examples up to {last} have the label {' '.join(labels) or 'nothing'!r}: "
                "expected two classes or more"
            )
        return in_order(labels)

    def check(self, train: Sequence[TextExample], dev: Sequence[TextExample]) -> None:
        """Unknown labels are errors; a class without training examples and a dev set of one class are told."""
        counts = Counter(self._class_of(example) for example in train)
        for index, label in enumerate(self.labels):
            if train and not counts[index]:
                warn(
                    f"no training example has the label {label!r} ({len(train)} examples, the last {train[-1].place}): "
                    "it will hardly be predicted"
                )
        found = {self._class_of(example) for example in dev}
        if len(found) == 1:
            warn(
                f"all {len(dev)} dev examples, {dev[0].place} to {dev[-1].place}, have the label "
                f"{self.labels[found.pop()]!r}: correlations and F1 are not defined on one class"
            )

    def targets(self, example: TextExample) -> dict[str, Any]:
        """`labels`, the number of the class. Errors: `BertJaxError` for a label that is not among the classes."""
        return {} if example.label is None else {"labels": np.int32(self._class_of(example))}

    def _class_of(self, example: TextExample) -> int:
        label = _label_of(example)
        if label not in self.labels:
            raise unknown_label(example.place, label, self.labels)
        return self.labels.index(label)

    def loss(self, outputs: Outputs, batch: Batch) -> jax.Array:
        """−log softmax at the label, float32 (B,)."""
        return negative_log_likelihood(self.logits_of(outputs).astype(jnp.float32), batch["labels"])

    def decode(
        self, example: TextExample, rows: Sequence[Row], outputs: Sequence[Mapping[str, np.ndarray]]
    ) -> Prediction:
        """`label`, the most probable, and `probabilities` of all by label."""
        logits = np.asarray(self.logits_of(outputs[0]), np.float64)
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        named = dict(zip(self.labels, shares.tolist(), strict=True))
        return {"label": self.labels[int(np.argmax(logits))], "probabilities": named}


class FirstToken(Classification):
    """`Classification` from the first token as it is, for encoders without a pooler."""

    head = "first_token"
    pooler = False
    outputs = ("first_token_logits",)


class Regression(TextForm):
    """A score: one output, mean squared error."""

    def check(self, train: Sequence[TextExample], dev: Sequence[TextExample]) -> None:
        """Every example needs a number; a dev set of one number is told."""
        for example in (*train, *dev):
            _score_of(example)
        if dev and len({_score_of(example) for example in dev}) == 1:
            warn(
                f"all {len(dev)} dev examples, {dev[0].place} to {dev[-1].place}, have the score {dev[0].label}: "
                "correlations are not defined"
            )

    def targets(self, example: TextExample) -> dict[str, Any]:
        """`scores`. Errors: `BertJaxError` for a label that is no finite number."""
        return {} if example.label is None else {"scores": np.float32(_score_of(example))}

    def loss(self, outputs: Outputs, batch: Batch) -> jax.Array:
        """Squared difference, float32 (B,)."""
        return jnp.square(self.logits_of(outputs).astype(jnp.float32)[:, 0] - batch["scores"])

    def decode(
        self, example: TextExample, rows: Sequence[Row], outputs: Sequence[Mapping[str, np.ndarray]]
    ) -> Prediction:
        """`score`."""
        return {"score": float(self.logits_of(outputs[0])[0])}


class MultiLabel(TextForm):
    """Any number of labels: a sigmoid per class, binary cross entropy, mean over the classes."""

    @classmethod
    def labels_of(cls, examples: Iterable[TextExample]) -> tuple[str, ...]:
        """All labels in order. Errors: `BertJaxError` for an example without, and where none has any."""
        labels: set[str] = set()
        for example in examples:
            labels.update(_labels_of(example))
        if not labels:
            raise BertJaxError("no training example has any label: expected lists of names in the column of labels")
        return in_order(labels)

    def check(self, train: Sequence[TextExample], dev: Sequence[TextExample]) -> None:
        """Unknown labels are errors; a label that no training example has, or all have, is told."""
        counts = np.zeros(len(self.labels), np.int64)
        for example in train:
            counts += self._present(example).astype(np.int64)
        for example in dev:
            self._present(example)
        for label, count in zip(self.labels, counts.tolist(), strict=True):
            if train and count in (0, len(train)):
                warn(f"{'no' if count == 0 else 'every'} training example has the label {label!r}: nothing is learned")

    def targets(self, example: TextExample) -> dict[str, Any]:
        """`labels`, float32 (C,) of 0 and 1. Errors: `BertJaxError` for a label that is not among the classes."""
        return {} if example.label is None else {"labels": self._present(example)}

    def _present(self, example: TextExample) -> np.ndarray:
        present = np.zeros(len(self.labels), np.float32)
        for label in _labels_of(example):
            if label not in self.labels:
                raise unknown_label(example.place, label, self.labels)
            present[self.labels.index(label)] = 1
        return present

    def loss(self, outputs: Outputs, batch: Batch) -> jax.Array:
        """Binary cross entropy, mean over C, float32 (B,)."""
        logits = self.logits_of(outputs).astype(jnp.float32)
        return jnp.mean(jax.nn.softplus(logits) - logits * batch["labels"], axis=-1)

    def decode(
        self, example: TextExample, rows: Sequence[Row], outputs: Sequence[Mapping[str, np.ndarray]]
    ) -> Prediction:
        """`labels`, those of at least options.threshold, and `probabilities` of all by label."""
        logits = np.asarray(self.logits_of(outputs[0]), np.float64)
        named = dict(zip(self.labels, (0.5 + 0.5 * np.tanh(0.5 * logits)).tolist(), strict=True))  # the sigmoid
        return {"labels": [label for label, p in named.items() if p >= self.options.threshold], "probabilities": named}


def in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Labels in an order that does not depend on the examples': numbers by size, then names by their letters."""
    numbers = {name: whole_number(name) if name.isdecimal() else None for name in labels}
    return tuple(sorted(numbers, key=lambda name: (numbers[name] is None, numbers[name] or 0, name)))


def unknown_label(place: str, label: str, labels: Sequence[str]) -> BertJaxError:
    """The error for a label that training knows nothing of."""
    shown = ", ".join(labels[:20]) + (f" and {len(labels) - 20} more" if len(labels) > 20 else "")
    return BertJaxError(f"{place} has the label {label[:60]!r}, which no training example has: expected one of {shown}")


def _label_of(example: TextExample) -> str:
    if not isinstance(example.label, str):
        what = "no label" if example.label is None else f"the label {example.label!r}"
        raise BertJaxError(f"{example.place} has {what}: expected the name of a class; see data.label for its column")
    return example.label


def _labels_of(example: TextExample) -> tuple[str, ...]:
    if isinstance(example.label, str):
        return (example.label,)
    if not isinstance(example.label, tuple):
        what = "no labels" if example.label is None else f"the label {example.label!r}"
        raise BertJaxError(f"{example.place} has {what}: expected a list of names; see data.label for its column")
    return example.label


def _score_of(example: TextExample) -> float:
    label = example.label
    if isinstance(label, bool) or not isinstance(label, int | float) or not math.isfinite(label):
        what = "no score" if label is None else f"the score {label!r}"
        raise BertJaxError(f"{example.place} has {what}: expected a number; see data.label for its column")
    return float(label)
