"""Texts and pairs of any length → rows the model can take: as they are, cut, or in overlapping windows.

The rule of windows stands in `bert_jax.text.windows`; [CLS] is kept in the first window, the last [SEP] in the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from bert_jax.console import warn
from bert_jax.errors import BertJaxError
from bert_jax.infer.batching import Answer, Encoded
from bert_jax.text.cutting import cut_pair
from bert_jax.text.tokenizer import Tokenizer
from bert_jax.text.windows import Window, windows

Text = str | tuple[str, str]
"""A text, or a pair of texts (a, b)."""


class Piece(NamedTuple):
    """`Encoded.source` of one window: whose it is, which rows are kept, whether the input ends with it."""

    source: Any
    first: int
    past: int
    last: bool


SHORTEST = 3  # [CLS], a token, [SEP]


class Fit:
    """What becomes of inputs longer than `limit` tokens, [CLS] and [SEP] included, and how many were cut.

    `slides` False: there are no windows to advise. Errors: `BertJaxError` for a limit outside 3 … `positions`, for a
    stride that leaves tokens out, and for both ways at once.
    """

    def __init__(
        self, limit: int, positions: int, truncate: bool = False, stride: int | None = None, slides: bool = True
    ):
        if not SHORTEST <= limit <= positions:
            raise BertJaxError(f"max_length is {limit}: expected {SHORTEST} to {positions}, the model's positions")
        if truncate and stride is not None:
            raise BertJaxError("truncate and window exclude each other: cut long texts, or slide over them")
        if stride is not None and not 1 <= stride <= limit - 2:
            raise BertJaxError(
                f"window is {stride}: expected 1 to {limit - 2}, the tokens from one window's beginning to the "
                f"next one's; a window holds {limit - 2} beside [CLS] and [SEP], half of that is a good stride"
            )
        self.limit, self.truncate, self.stride, self.slides = limit, truncate, stride, slides
        self.inputs = self.cut = 0

    def fit(self, a: int, b: int | None, name: str) -> tuple[int, int | None, list[Window]]:
        """How many of the `a` and `b` tokens of an input (no specials; `b` None for one text) are used, and its
        windows.

        Cut pairs lose from the longer side, single texts from the end. Errors: `BertJaxError` naming length and limit
        when the input is too long and nothing else was asked for, and for a pair that windows cannot help.
        """
        self.inputs += 1
        specials = 2 if b is None else 3
        over = a + (b or 0) + specials - self.limit
        if over > 0 and self.stride is not None and b is None:
            return a, b, windows(a, self.limit - 2, self.stride)
        if over > 0:
            self.count_cut(a + (b or 0) + specials, b is not None, name)
            a, b = cut_pair(a, b, self.limit - specials)
        return a, b, [Window(0, a, 0, a + (b or 0) + specials)]

    def count_cut(self, length: int, pair: bool, name: str) -> None:
        """Note that an input of `length` tokens is cut. Errors: `BertJaxError` when that was not asked for."""
        if not self.truncate:
            raise BertJaxError(self._too_long(length, pair, name))
        self.cut += 1

    def _too_long(self, length: int, pair: bool, name: str) -> str:
        advice = "give --truncate to cut it" + ("" if pair or not self.slides else ", or --window STRIDE to slide over")
        if pair and self.stride is not None:
            advice = "windows slide over single texts, not pairs: give --truncate instead"
        return f"{name} is {length} tokens long with [CLS] and [SEP], more than the limit of {self.limit}: {advice}"

    def reported(self, answers: Iterable[Answer]) -> Iterator[Answer]:
        """`answers`, and after the last one `report`."""
        yield from answers
        self.report()

    def report(self) -> None:
        """One warning when inputs were cut; called once, after the last."""
        if self.cut:
            warn(f"{self.cut} of {self.inputs} inputs were longer than {self.limit} tokens and were cut")


def begin_of_kept(first: int, last: int, count: int, room: int, name: str, what: str) -> int:
    """Where the `room` tokens begin that are kept of `count`, those from `first` to `last` among them: from the
    beginning where those are, else so that they stand in the middle.

    Errors: `BertJaxError` when they are more; `what` is the thing that would be lost.
    """
    if last < room:
        return 0
    if last - first + 1 > room:
        raise BertJaxError(
            f"{name}: its first and last {what} lie {last - first + 1} tokens apart, and {room} can be kept: cutting "
            f"it would lose a {what}; shorten it, or split it"
        )
    return min(max(0, first - (room - (last - first + 1)) // 2), count - room)


def rows_of(tokenizer: Tokenizer, a: list[int], b: list[int] | None, found: list[Window], source: Any) -> list[Encoded]:
    """The windows of one input as the model takes them: `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`."""
    rows = []
    second = [] if b is None else [*b, tokenizer.sep_id]
    for window in found:
        first = [tokenizer.cls_id, *a[window.begin : window.end], tokenizer.sep_id]
        piece = Piece(source, window.first, window.past, window is found[-1])
        rows.append(Encoded(first + second, [0] * len(first) + [1] * len(second), source=piece))
    return rows


def sides(text: Any, name: str) -> tuple[str, str | None]:
    """(a, b) of a pair, (text, None) of a text. Errors: `BertJaxError` for anything else."""
    if isinstance(text, str):
        return text, None
    if isinstance(text, tuple | list) and len(text) == 2 and all(isinstance(side, str) for side in text):
        return text[0], text[1]
    raise BertJaxError(f"{name} is {str(text)[:60]!r} ({type(text).__name__}): expected a text, or a pair of texts")


def as_answer(a: str, b: str | None) -> dict[str, Any]:
    """How an answer names its input."""
    return {"text": a} if b is None else {"a": a, "b": b}
