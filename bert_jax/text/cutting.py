"""Which tokens stay when a text, or a pair, is longer than there is room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Token = TypeVar("Token")


def cut_pair(a: int, b: int | None, room: int) -> tuple[int, int | None]:
    """Lengths that together are `room`: the longer side is cut, to the length of the shorter if need be, then both.

    Of an odd room the longer side has the token more, B when they are equal: as Hugging Face's tokenizers cut pairs
    ('longest_first'), which is what published models were used with. google's own loop leaves it to A.
    """
    if b is None:
        return min(a, room), None
    if a + b <= room:
        return a, b
    shorter = min(a, b, room // 2)
    return (room - shorter, shorter) if a > b else (shorter, room - shorter)


def cut_single(tokens: Sequence[Token], room: int, head_tail: bool = False) -> Sequence[Token]:
    """At most `room` of `tokens`: the first ones, or with `head_tail` a quarter from the beginning, the rest from the
    end."""
    if len(tokens) <= room:
        return tokens
    if not head_tail:
        return tokens[:room]
    head = room // 4
    return [*tokens[:head], *tokens[len(tokens) - (room - head) :]]
