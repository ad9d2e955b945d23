"""Spans by pointers: for every token and kind, whether a span of that kind begins here, and whether one ends here.

Each is a yes or no of its own (a sigmoid), so that a text has any number of spans, which may overlap.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import TaskOptions
from bert_jax.tasks.entities import Counts
from bert_jax.tasks.task import Batch, Form, Outputs, Prediction, Row, Scores, SpanExample
from bert_jax.text.tokenizer import Tokenizer
from bert_jax.text.windows import text_windows

IGNORED = -1


class Pointers(Form):
    """Spans of kinds, over pieces. Texts longer than `task.length` are cut into windows that overlap by half; each
    token is trained and read in the one where it has most context.

    The loss of a row is the binary cross entropy, the mean over its kinds, begins and ends, and then over its tokens
    but [CLS] and [SEP]. Nearly all of these are a no, one in a hundred a yes. From a bias of zero the first hundreds of
    steps teach the whole model nothing but that, and it may not come back from there; so a new head begins with the
    bias that says how often each kind begins and ends (Lin et al. 2017, RetinaNet, section 4.1, with the shares of the
    training examples for its constant).

    The rule of reading: a begin and an end are those with a probability of at least `task.threshold`. Each begin makes
    a span with the nearest end of its kind at or after it; a begin with none after it, and an end that no begin
    chose, make none. Two begins may share an end. The probability of a span is the product of the two.

    `unreachable` counts spans that no row can give: those that begin or end inside a piece, or hold none.
    """

    head = "pointers"
    pooler: ClassVar[bool] = False
    outputs = ("pointers_logits",)
    token_targets: ClassVar[Mapping[str, float]] = {"pointers": IGNORED}
    """`pointers` is (T, 2 K) for K kinds: for each kind whether it begins here, then for each whether it ends."""

    def __init__(self, tokenizer: Tokenizer, labels: tuple[str, ...], options: TaskOptions):
        super().__init__(tokenizer, labels, options)
        self._numbers = {label: number for number, label in enumerate(labels)}
        self.unreachable = 0

    @classmethod
    def labels_of(cls, examples: Iterable[SpanExample]) -> tuple[str, ...]:
        """The kinds in alphabetical order. Errors: `BertJaxError` where there is no span."""
        kinds = sorted({kind for example in examples for _, _, kind in example.spans or ()})
        if not kinds:
            raise BertJaxError("the training examples have no spans: there is nothing to learn")
        return tuple(kinds)

    @property
    def classes(self) -> int:
        """Two for each kind."""
        return 2 * len(self.labels)

    def head_bias(self, rows: Sequence[Row]) -> np.ndarray:
        """The logit of the share of tokens that are a yes, float32 (2 K,); of a class that never is, as if one were."""
        places = np.zeros(self.classes)
        tokens = 0
        for row in rows:
            pointers = row.targets["pointers"]
            real = pointers[:, 0] >= 0
            places += pointers[real].sum(axis=0)
            tokens += int(real.sum())
        share = np.clip(places, 1, max(1, tokens // 2)) / max(2, tokens)
        return np.log(share / (1 - share)).astype(np.float32)

    def encode(self, example: SpanExample) -> list[Row]:
        """One row, or several windows. `Row.source`: the first place kept in the row, and the characters (n, 2) of
        the tokens kept."""
        found, offsets = self.tokenizer.encode_with_offsets(example.text)
        ids = found.tolist()
        pointers = None if example.spans is None else self._pointers(example, offsets)
        rows = []
        for begin, end, first, past in text_windows(len(ids), self.options.length - 2):
            row = (self.tokenizer.cls_id, *ids[begin:end], self.tokenizer.sep_id)
            kept = slice(begin + first - 1, begin + past - 1)
            targets: dict[str, Any] = {}
            if pointers is not None:
                targets["pointers"] = np.full((len(row), self.classes), IGNORED, np.int32)
                targets["pointers"][first:past] = pointers[kept]
            rows.append(Row((row,), ((0,) * len(row),), targets, (first, offsets[kept])))
        return rows

    def _pointers(self, example: SpanExample, offsets: np.ndarray) -> np.ndarray:
        """Which tokens (n) begin and end which kinds, int32 (n, 2 K) of 0 and 1. Errors: a kind not learned."""
        pointers = np.zeros((len(offsets), self.classes), np.int32)
        for first, past, kind in example.spans or ():
            if kind not in self._numbers:
                raise BertJaxError(
                    f"{example.place}: a span of kind {kind!r} is none of those of the training examples "
                    f"({', '.join(self.labels)})"
                )
            touched = np.flatnonzero((offsets[:, 0] < past) & (first < offsets[:, 1]))
            if not touched.size or (offsets[touched[0], 0], offsets[touched[-1], 1]) != (first, past):
                self.unreachable += 1
            if touched.size:
                pointers[touched[0], self._numbers[kind]] = 1
                pointers[touched[-1], len(self.labels) + self._numbers[kind]] = 1
        return pointers

    def loss(self, outputs: Outputs, batch: Batch) -> jax.Array:
        targets = batch["pointers"]
        logits = outputs["pointers_logits"].astype(jnp.float32)
        # −log sigmoid of the logit where it should be yes, of its negative where it should be no.
        losses = jnp.mean(jax.nn.softplus(jnp.where(targets > 0, -logits, logits)), axis=-1)
        real = targets[..., 0] >= 0
        return jnp.sum(jnp.where(real, losses, 0.0), axis=-1) / jnp.maximum(jnp.sum(real, axis=-1), 1)

    def answers(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """`probabilities` (B, T, 2 K)."""
        return {"probabilities": jax.nn.sigmoid(outputs["pointers_logits"].astype(jnp.float32))}

    def decode(
        self, example: SpanExample, rows: Sequence[Row], outputs: Sequence[Mapping[str, np.ndarray]]
    ) -> Prediction:
        """`spans` by their places: `kind first past text probability`, in characters."""
        kept, places = [], []
        for row, output in zip(rows, outputs, strict=True):
            first, offsets = row.source
            kept.append(output["probabilities"][first : first + len(offsets)])
            places.append(offsets)
        probabilities, offsets = np.concatenate(kept), np.concatenate(places)
        spans = []
        for number, kind in enumerate(self.labels):
            for begin, end, share in self._pairs(probabilities[:, number], probabilities[:, len(self.labels) + number]):
                first, past = int(offsets[begin, 0]), int(offsets[end, 1])
                text = example.text[first:past]
                spans.append({"kind": kind, "first": first, "past": past, "text": text, "probability": share})
        return {"spans": sorted(spans, key=lambda span: (span["first"], span["past"], span["kind"]))}

    def _pairs(self, begins: np.ndarray, ends: np.ndarray) -> list[tuple[int, int, float]]:
        """(begin, end, probability) of the spans of one kind, in tokens, by the rule above."""
        ending = np.flatnonzero(ends >= self.options.threshold)
        pairs = []
        for begin in np.flatnonzero(begins >= self.options.threshold):
            nearest = np.searchsorted(ending, begin)
            if nearest < len(ending):
                end = ending[nearest]
                pairs.append((int(begin), int(end), float(begins[begin] * ends[end])))
        return pairs


def span_scores(predictions: Sequence[Prediction], examples: Sequence[SpanExample]) -> Scores:
    """`precision recall f1` over all spans (a span is right when kind, first and past character are), `macro_f1`, the
    mean over the kinds, and the three of each kind. 0 where nothing is wanted or found."""
    counts = Counts()
    for prediction, example in zip(predictions, examples, strict=True):
        wanted = {(kind, first, past) for first, past, kind in example.spans or ()}
        counts.add(wanted, {(span["kind"], span["first"], span["past"]) for span in prediction["spans"]})
    return counts.scores()
