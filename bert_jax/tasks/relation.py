"""Relations: which of the given ones holds between two entities marked in a text.

The text of the first entity stands between two `$`, that of the second between two `#`, as pieces of the row (Wu and
He 2019, R-BERT); a vocabulary without these takes [unused1] to [unused4] instead. The head reads the vectors of the
two opening markers side by side (Baldini Soares et al. 2019, entity start).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import TaskOptions
from bert_jax.tasks.task import Batch, Form, Outputs, Prediction, RelationExample, Row, Scores
from bert_jax.text.tokenizer import Tokenizer
from bert_jax.train.losses import negative_log_likelihood

OTHER = "Other"
_FIRST_IN_ORDER = "(e1,e2)"
_SECOND_IN_ORDER = "(e2,e1)"
MARKERS = (("$", "$", "#", "#"), ("[unused1]", "[unused2]", "[unused3]", "[unused4]"))
"""Pieces before and after the first entity, before and after the second; the first row that the vocabulary has."""


class Relation(Form):
    """A text with two entities → one label.

    A text that is too long keeps the tokens that are nearest to a marker, of equally near ones the earlier, and is
    counted in `cut`.
    """

    head = "relation"
    pooler: ClassVar[bool] = False
    outputs = ("relation_logits",)

    def __init__(self, tokenizer: Tokenizer, labels: tuple[str, ...], options: TaskOptions):
        super().__init__(tokenizer, labels, options)
        self._numbers = {label: number for number, label in enumerate(labels)}
        self.markers = _marker_ids(tokenizer)

    @classmethod
    def labels_of(cls, examples: Iterable[RelationExample]) -> tuple[str, ...]:
        """The labels in alphabetical order. Errors: `BertJaxError` where there is none."""
        labels = sorted({example.label for example in examples if example.label is not None})
        if not labels:
            raise BertJaxError("the training examples have no labels: there is nothing to learn")
        return tuple(labels)

    def encode(self, example: RelationExample) -> list[Row]:
        """One row; `entity_positions` (2,) are the places of the opening markers."""
        ids, marks = self._marked(example)
        room = self.options.length - 2
        if len(ids) > room:
            self.cut += 1
            places = np.arange(len(ids))
            distances = np.min(np.abs(places[:, None] - np.array(marks)), axis=1)
            kept = np.sort(np.argsort(distances, kind="stable")[:room])
            ids = [ids[place] for place in kept]
            marks = [int(np.searchsorted(kept, mark)) for mark in marks]
        row = (self.tokenizer.cls_id, *ids, self.tokenizer.sep_id)
        targets: dict[str, np.ndarray] = {"entity_positions": np.array([1 + marks[0], 1 + marks[2]], np.int32)}
        if example.label is not None:
            if example.label not in self._numbers:
                raise BertJaxError(
                    f"{example.place}: label {example.label!r} is none of those of the training examples "
                    f"({', '.join(self.labels)})"
                )
            targets["labels"] = np.array(self._numbers[example.label], np.int32)
        return [Row((row,), ((0,) * len(row),), targets)]

    def _marked(self, example: RelationExample) -> tuple[list[int], list[int]]:
        """Ids of the text with the four markers put in, and the places of these. Errors: an entity that is empty or
        outside of its text."""
        text = example.text
        # Character, closing before opening, of nested entities the outer one outside, which of the markers.
        cuts: list[tuple[int, int, int, int]] = []
        for marker, (first, past) in ((0, example.first), (2, example.second)):
            if not 0 <= first < past <= len(text):
                raise BertJaxError(
                    f"{example.place}: an entity at characters {first} to {past} is empty or outside of its text of "
                    f"{len(text)} characters"
                )
            cuts += [(first, 1, -past, marker), (past, 0, -first, marker + 1)]
        ids: list[int] = []
        marks = [0] * 4
        before = 0
        for character, _, _, marker in sorted(cuts):
            ids += self.tokenizer.ids(text[before:character])
            marks[marker] = len(ids)
            ids.append(self.markers[marker])
            before = character
        return ids + self.tokenizer.ids(text[before:]), marks

    def loss(self, outputs: Outputs, batch: Batch) -> jax.Array:
        return negative_log_likelihood(outputs["relation_logits"].astype(jnp.float32), batch["labels"])

    def answers(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """`probabilities` (B, C)."""
        return {"probabilities": jax.nn.softmax(outputs["relation_logits"].astype(jnp.float32), axis=-1)}

    def decode(
        self, example: RelationExample, rows: Sequence[Row], outputs: Sequence[Mapping[str, np.ndarray]]
    ) -> Prediction:
        """`label`, its `probability`, and the `probabilities` of all labels."""
        shares = np.asarray(outputs[0]["probabilities"], np.float64)
        best = int(np.argmax(shares))
        probabilities = dict(zip(self.labels, shares.tolist(), strict=True))
        return {"label": self.labels[best], "probability": float(shares[best]), "probabilities": probabilities}


def _marker_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    for pieces in MARKERS:
        ids = [number for piece in pieces if (number := tokenizer.id_of(piece)) is not None]
        if len(ids) == len(pieces):
            return tuple(ids)
    raise BertJaxError(
        "the vocabulary has neither the pieces $ and # nor [unused1] to [unused4] to mark entities with: give a model "
        "with one of them, or rename entries of its vocabulary that no text uses"
    )


def relation_of(label: str) -> str:
    """A label without its direction."""
    return label.removesuffix(_FIRST_IN_ORDER).removesuffix(_SECOND_IN_ORDER)


def relation_scores(predictions: Sequence[Prediction], examples: Sequence[RelationExample]) -> Scores:
    """The official score of SemEval-2010 task 8, `macro_f1`, as a share, with `macro_precision` and `macro_recall`,
    `micro_f1`, the `f1_RELATION` of each, and `accuracy`, in which Other counts and so does direction.

    The relations are those of the examples, without direction and without Other. A right relation in the wrong
    direction is found, wanted and not right. A relation that is only predicted takes no part (as in the script), but
    the examples have missed theirs. None where the examples have no relation.
    """
    wanted: Counter[str] = Counter()
    found: Counter[str] = Counter()
    right: Counter[str] = Counter()
    correct = 0
    for prediction, example in zip(predictions, examples, strict=True):
        label = example.label or ""
        wanted[relation_of(label)] += 1
        found[relation_of(prediction["label"])] += 1
        right[relation_of(label)] += prediction["label"] == label
        correct += prediction["label"] == label
    relations = sorted(set(wanted) - {OTHER})
    scores: Scores = {"accuracy": correct / len(examples) if examples else None}
    if not relations:
        return {"macro_f1": None, "macro_precision": None, "macro_recall": None, "micro_f1": None, **scores}
    precisions = [_share(right[name], found[name]) for name in relations]
    recalls = [_share(right[name], wanted[name]) for name in relations]
    each = [_f1(right[name], found[name], wanted[name]) for name in relations]
    all_right, all_found, all_wanted = (sum(count[name] for name in relations) for count in (right, found, wanted))
    scores |= {
        "macro_f1": sum(each) / len(each),
        "macro_precision": sum(precisions) / len(each),
        "macro_recall": sum(recalls) / len(each),
        "micro_f1": _f1(all_right, all_found, all_wanted),
    }
    return scores | {f"f1_{name}": value for name, value in zip(relations, each, strict=True)}


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _f1(right: int, found: int, wanted: int) -> float:
    return 2 * right / (found + wanted) if right else 0.0
