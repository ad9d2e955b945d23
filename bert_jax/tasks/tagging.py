"""Tagging: a label for every word, read from its first piece.

Other pieces are not scored, nor are [CLS] and [SEP]. A word that gives no piece (control characters alone) is the
unknown piece, so that each word has its label. A sentence longer than `task.length` is cut into windows that overlap
by half; each word is scored in the one where it has most context (`bert_jax.text.windows`).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import TaskOptions
from bert_jax.tasks.entities import OUTSIDE, entities_of, in_scheme, is_bioes, split_tag
from bert_jax.tasks.task import Batch, Form, Outputs, Prediction, Row, TaggedExample
from bert_jax.text.tokenizer import Tokenizer
from bert_jax.text.windows import text_windows
from bert_jax.train.losses import negative_log_likelihood

IGNORED = -1
_REMEMBERED = 1 << 16


class Tagging(Form):
    """Words with BIO or BIOES labels, whichever the training data have; other data are written in these.

    The loss of a row is the mean over its scored words. With `task.document_context` a row that is not full is filled
    with the pieces of the sentences around, half of the room on each side and more where the other has none to give.
    """

    head = "tagging"
    pooler: ClassVar[bool] = False
    outputs = ("tagging_logits",)
    token_targets: ClassVar[Mapping[str, float]] = {"labels": IGNORED}

    def __init__(self, tokenizer: Tokenizer, labels: tuple[str, ...], options: TaskOptions):
        super().__init__(tokenizer, labels, options)
        self._numbers = {label: number for number, label in enumerate(labels)}
        self._bioes = is_bioes(labels)
        self._pieces = functools.lru_cache(_REMEMBERED)(self._pieces_of)

    @classmethod
    def labels_of(cls, examples: Iterable[TaggedExample]) -> tuple[str, ...]:
        """`O`, then for each kind in alphabetical order `B-`, `I-` and, where there are such, `E-` and `S-`.

        Errors: `BertJaxError` where no word has another tag than O.
        """
        tags = {tag for example in examples for tag in example.tags or ()}
        found = {parts for tag in tags if (parts := split_tag(tag)) is not None}
        kinds = sorted({kind for prefix, kind in found if prefix != OUTSIDE})
        if not kinds:
            raise BertJaxError("no word of the training examples has another tag than O: there is nothing to learn")
        prefixes = "BIES" if is_bioes(tags) else "BI"
        return (OUTSIDE, *(f"{prefix}-{kind}" if kind else prefix for kind in kinds for prefix in prefixes))

    def encode(self, example: TaggedExample) -> list[Row]:
        """One row, or several windows. `Row.source`: (word, place in the row) of each word that is scored in it."""
        labels = self._labels(example)
        pieces = [self._pieces(word) for word in example.words]
        firsts = [0, *itertools.accumulate(map(len, pieces))]
        ids = [piece for word in pieces for piece in word]
        width = self.options.length - 2
        if self.options.document_context and len(ids) < width:
            before, after = self._around(example, width - len(ids))
            return [self._row([*before, *ids, *after], [1 + len(before) + first for first in firsts[:-1]], 0, labels)]
        rows, word = [], 0
        for window in text_windows(len(ids), width):
            places: list[int] = []
            while word + len(places) < len(pieces):
                place = firsts[word + len(places)] - window.begin + 1
                if place >= window.past:
                    break
                places.append(place)
            rows.append(self._row(ids[window.begin : window.end], places, word, labels))
            word += len(places)
        return rows

    def _row(self, ids: Sequence[int], places: Sequence[int], word: int, labels: Sequence[int] | None) -> Row:
        """A row of these ids; `places` in it are those of the words from `word` on."""
        row = (self.tokenizer.cls_id, *ids, self.tokenizer.sep_id)
        targets: dict[str, Any] = {}
        if labels is not None:
            targets["labels"] = np.full(len(row), IGNORED, np.int32)
            targets["labels"][list(places)] = labels[word : word + len(places)]
        source = tuple(enumerate(places, start=word))
        # By the number of its words, so that a batch's loss is the mean over words, not over rows.
        return Row((row,), ((0,) * len(row),), targets, source, weight=float(len(places)))

    def _pieces_of(self, word: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.ids(word)) or (self.tokenizer.unk_id,)

    def _labels(self, example: TaggedExample) -> list[int] | None:
        """The classes of an example's words. Errors: another number of tags than words, a tag not learned."""
        if example.tags is None:
            return None
        if len(example.tags) != len(example.words):
            raise BertJaxError(
                f"{example.place}: {len(example.tags)} tags for {len(example.words)} words: each word needs one"
            )
        tags = in_scheme(example.tags, self._bioes)
        for tag in tags:
            if tag not in self._numbers:
                raise BertJaxError(
                    f"{example.place}: tag {tag!r} is none of the labels of the training examples "
                    f"({', '.join(self.labels)})"
                )
        return [self._numbers[tag] for tag in tags]

    def _around(self, example: TaggedExample, room: int) -> tuple[list[int], list[int]]:
        """Pieces of the document before and after an example, together at most `room`."""
        sides: list[list[int]] = []
        earlier = example.sentences[: example.number]
        for words in (
            (word for sentence in reversed(earlier) for word in reversed(sentence)),
            (word for sentence in example.sentences[example.number + 1 :] for word in sentence),
        ):
            ids: list[int] = []
            backwards = not sides
            for word in words:
                pieces = self._pieces(word)
                ids += reversed(pieces) if backwards else pieces
                if len(ids) >= room:
                    break
            sides.append(ids)
        before, after = sides
        left = min(len(before), max(room // 2, room - len(after)))
        return before[:left][::-1], after[: room - left]

    def loss(self, outputs: Outputs, batch: Batch) -> jax.Array:
        labels = batch["labels"]
        scored = labels >= 0
        losses = negative_log_likelihood(outputs["tagging_logits"].astype(jnp.float32), jnp.maximum(labels, 0))
        return jnp.sum(jnp.where(scored, losses, 0.0), axis=-1) / jnp.maximum(jnp.sum(scored, axis=-1), 1)

    def answers(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """`classes` and their `probabilities`, (B, T) both: less to fetch than all logits."""
        probabilities = jax.nn.softmax(outputs["tagging_logits"].astype(jnp.float32), axis=-1)
        return {"classes": jnp.argmax(probabilities, axis=-1), "probabilities": jnp.max(probabilities, axis=-1)}

    def decode(
        self, example: TaggedExample, rows: Sequence[Row], outputs: Sequence[Mapping[str, np.ndarray]]
    ) -> Prediction:
        """`tags`, one per word, and `entities`: `kind first past text probability`, the mean of its words' ones.

        `first` and `past` are characters where the example has a text, else words.
        """
        tags = [OUTSIDE] * len(example.words)
        shares = [0.0] * len(example.words)
        for row, output in zip(rows, outputs, strict=True):
            for word, place in row.source:
                tags[word] = self.labels[int(output["classes"][place])]
                shares[word] = float(output["probabilities"][place])
        entities = []
        for kind, first, past in entities_of(tags):
            probability = sum(shares[first:past]) / (past - first)
            text = " ".join(example.words[first:past])
            if example.text is not None and example.offsets is not None:
                first, past = example.offsets[first][0], example.offsets[past - 1][1]
                text = example.text[first:past]
            entities.append({"kind": kind, "first": first, "past": past, "text": text, "probability": probability})
        return {"tags": tags, "entities": entities}
