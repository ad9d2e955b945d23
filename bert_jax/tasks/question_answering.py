"""The form of questions about a text: windows of the text beside the question, begin and end of the answer.

Rows are `[CLS] question [SEP] window of the context [SEP]`, as published for SQuAD: windows begin `doc_stride` tokens
apart, the last ends with the context. Two things are done otherwise than in the published run_squad.py, both for the
better: an answer is the slice of the context between the characters its tokens came from, where the script aligns
joined pieces with the text again and sometimes fails; and all allowed spans are compared, not only those between the
best begins and the best ends, so that there always is one.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import TaskOptions
from bert_jax.tasks.task import Batch, Form, Outputs, Prediction, Question, Row
from bert_jax.text.tokenizer import Tokenizer

NOT_LEARNED = -1
"""Target of a row whose answer has no known place; its loss is 0."""
_SPARE = 4  # spans looked at per answer asked for: some have the same text


@dataclass(frozen=True, slots=True)
class Window:
    """`Row.source`: which part of the context the row shows.

    `lead`: where in the row it begins. `offsets`, int32 (n, 2): characters of its tokens. `best`, bool (n,): whether a
    token stands better here than in any other window, that is, has most context on its shorter side.
    """

    lead: int
    offsets: np.ndarray
    best: np.ndarray


class Span(NamedTuple):
    """A candidate: sum of its two logits, first and past character."""

    score: float
    start: int
    end: int


class QuestionAnswering(Form):
    """Extractive answers.

    `no_answer_threshold`: None, and the best span is always the answer; a number (tuned on questions some of which
    are impossible, see `squad_metric`), and a question whose `no_answer_odds` are above it has none.
    """

    head = "question_answering"
    pooler = False
    outputs = ("question_answering_logits",)

    def __init__(self, tokenizer: Tokenizer, labels: tuple[str, ...], options: TaskOptions):
        super().__init__(tokenizer, labels, options)
        self._last: tuple[str, np.ndarray, np.ndarray] | None = None
        if options.length < options.query_length + 4:
            raise BertJaxError(
                f"task.length {options.length} leaves no room for a text beside a question of task.query_length "
                f"{options.query_length}: expected at least {options.query_length + 4}, published are 384 and 64"
            )

    @property
    def classes(self) -> int:
        """Begin and end."""
        return 2

    def encode(self, example: Question) -> list[Row]:
        """One row per window. Targets `answer_begin` and `answer_end`: places in the row, 0 ([CLS]) where the window
        does not hold the whole answer or there is none, NOT_LEARNED where its place is not known.

        Errors: `BertJaxError` for a question or a context in which the tokenizer sees nothing.
        """
        question = self.tokenizer.ids(example.question)
        ids, offsets = self._context(example.context)
        for what, text, found in (("question", example.question, question), ("context", example.context, ids)):
            if not len(found):
                raise BertJaxError(f"{example.place or 'input'}: the {what} {text[:40]!r} is empty: expected text")
        if len(question) > self.options.query_length:
            self.cut += 1
            question = question[: self.options.query_length]
        first = [self.tokenizer.cls_id, *question, self.tokenizer.sep_id]
        spans = windows(len(ids), self.options.length - len(first) - 1, self.options.doc_stride)
        answer = _answer_tokens(example, offsets)
        rows = []
        for (begin, past), best in zip(spans, best_windows(len(ids), spans), strict=True):
            row = array("i", [*first, *ids[begin:past].tolist(), self.tokenizer.sep_id])
            segments = array("b", [0] * len(first) + [1] * (past - begin + 1))
            targets = {} if answer is None else _targets(answer, begin, past, len(first))
            weight = 0.0 if targets.get("answer_begin") == NOT_LEARNED else 1.0
            rows.append(Row((row,), (segments,), targets, Window(len(first), offsets[begin:past], best), weight))
        return rows

    def loss(self, outputs: Outputs, batch: Batch) -> jax.Array:
        """Mean of the cross entropies of begin and end over the real tokens of each row: float32 (B,)."""
        logits = outputs["question_answering_logits"].astype(jnp.float32)  # (B, T, 2)
        logits = jnp.where(batch["input_mask"][:, :, None] > 0, logits, -1e30)
        shares = jax.nn.log_softmax(logits, axis=1)
        targets = jnp.stack([batch["answer_begin"], batch["answer_end"]], axis=-1).astype(jnp.int32)  # (B, 2)
        found = jnp.take_along_axis(shares, jnp.maximum(targets, 0)[:, None, :], axis=1)[:, 0]
        return jnp.where(targets[:, 0] >= 0, -found.mean(axis=-1), 0.0)

    def decode(self, example: Question, rows: Sequence[Row], outputs: Sequence[Mapping[str, np.ndarray]]) -> Prediction:
        """`answer`, its characters `start` to `end` of the context (None without), its `probability`, and `n_best`:
        the same of the best spans with different texts, best first.

        A span begins where its window is the best for its first token and has at most `answer_length` tokens.
        Probabilities are shares among the `n_best`. `no_answer_odds`: the score of [CLS] in the window where it is
        least (the answer may stand in any one) minus that of the best span. With a threshold (`no_answer_threshold` is
        in the prediction then) no answer is one of the `n_best`, with an empty text.
        """
        none = math.inf
        spans: list[Span] = []
        for row, output in zip(rows, outputs, strict=True):
            window: Window = row.source
            logits = np.asarray(output["question_answering_logits"], np.float64)
            none = min(none, float(logits[0].sum()))
            shown = logits[window.lead : window.lead + len(window.offsets)]
            spans += _spans(shown, window, self.options.answer_length, _SPARE * self.options.n_best)
        spans.sort(key=lambda span: (-span.score, span.start, span.end))
        found = _different(example.context, spans, self.options.n_best)
        odds = none - found[0].score if found else math.inf
        refused = self.no_answer_threshold is not None and odds > self.no_answer_threshold
        if self.no_answer_threshold is not None:
            found = sorted([*found, Span(none, -1, -1)], key=lambda span: -span.score)
        answers = _as_answers(example.context, found)
        best = next((answer for answer in answers if (answer["start"] is None) == refused), _NO_ANSWER)
        prediction = {**best, "no_answer_odds": odds, "n_best": answers}
        if self.no_answer_threshold is not None:
            prediction["no_answer_threshold"] = self.no_answer_threshold
        return prediction

    def _context(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids and offsets of a context; several questions about one in a row encode it once."""
        if self._last is None or self._last[0] != text:
            self._last = (text, *self.tokenizer.encode_with_offsets(text))
        return self._last[1], self._last[2]


_IMPOSSIBLE = (-2, -2)
_NO_ANSWER = {"answer": "", "start": None, "end": None, "probability": 0.0}


def windows(count: int, width: int, stride: int) -> list[tuple[int, int]]:
    """(begin, past) of the windows of `count` tokens: `width` wide, `stride` apart, none left out between two."""
    begins = range(0, max(1, count - width + min(stride, width)), min(stride, width))
    return [(begin, min(begin + width, count)) for begin in begins]


def best_windows(count: int, spans: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """For each window bool (its tokens,): whether it is the one where the token stands best.

    That is, as published, with the most tokens on its shorter side; between equals in the longer window, and between
    these in the earlier one.
    """
    score, owner = np.full(count, -1), np.zeros(count, np.int32)
    for number, (begin, past) in enumerate(spans):
        places = np.arange(past - begin)
        here = 100 * np.minimum(places, places[::-1]) + (past - begin)
        better = here > score[begin:past]
        score[begin:past][better] = here[better]
        owner[begin:past][better] = number
    return [owner[begin:past] == number for number, (begin, past) in enumerate(spans)]


def _answer_tokens(example: Question, offsets: np.ndarray) -> tuple[int, int] | None:
    """First and last token of the answer to learn, the first one with a place; (NOT_LEARNED, …) where none has one,
    _IMPOSSIBLE where no answer is right, None where the answer is asked for.
    """
    if example.impossible:
        return _IMPOSSIBLE
    if example.answers is None:
        return None
    for text, start in example.answers:
        if start >= 0:
            first = int(np.searchsorted(offsets[:, 1], start, side="right"))
            last = int(np.searchsorted(offsets[:, 0], start + len(text), side="left")) - 1
            if first <= last:
                return first, last
    return NOT_LEARNED, NOT_LEARNED


def _targets(answer: tuple[int, int], begin: int, past: int, lead: int) -> dict[str, int]:
    first, last = answer
    if first == NOT_LEARNED:
        return {"answer_begin": NOT_LEARNED, "answer_end": NOT_LEARNED}
    if not begin <= first <= last < past:
        return {"answer_begin": 0, "answer_end": 0}
    return {"answer_begin": lead + first - begin, "answer_end": lead + last - begin}


def _spans(logits: np.ndarray, window: Window, longest: int, count: int) -> Iterator[Span]:
    """About the `count` best spans of one window: logits (n, 2) of its context tokens."""
    longest = min(longest, len(logits))
    begins = np.where(window.best, logits[:, 0], -np.inf)
    ends = np.concatenate([logits[:, 1], np.full(longest - 1, -np.inf)])
    scores = begins[:, None] + np.lib.stride_tricks.sliding_window_view(ends, longest)  # (n, longest)
    flat = np.where(np.isnan(scores), -np.inf, scores).ravel()
    chosen = np.argpartition(-flat, count)[:count] if count < len(flat) else np.arange(len(flat))
    for index in chosen[flat[chosen] > -np.inf].tolist():
        first, more = divmod(index, longest)
        yield Span(float(flat[index]), int(window.offsets[first, 0]), int(window.offsets[first + more, 1]))


def _different(context: str, spans: Iterable[Span], count: int) -> list[Span]:
    """The first `count` of the spans whose texts differ."""
    texts: dict[str, Span] = {}
    for span in spans:
        texts.setdefault(context[span.start : span.end], span)
        if len(texts) == count:
            break
    return list(texts.values())


def _as_answers(context: str, spans: Sequence[Span]) -> list[dict[str, Any]]:
    scores = np.array([span.score for span in spans])
    shares = np.exp(scores - scores.max()) if len(scores) else scores
    found = []
    for span, share in zip(spans, (shares / shares.sum()).tolist() if len(scores) else (), strict=True):
        place = {"answer": context[span.start : span.end], "start": span.start, "end": span.end}
        found.append((place if span.start >= 0 else dict(_NO_ANSWER)) | {"probability": share})
    return found
