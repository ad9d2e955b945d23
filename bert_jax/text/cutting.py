"""Which tokens stay when a text, or a pair, is longer than there is room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Token = TypeVar("Token")


def cut_pair(a: int, b: int | None, room: int) -> tuple[int, int | None]:
    """Lengths that together are `room`: tokens are dropped one by one from the longer side, from B when equal."""
    if b is None:
        return min(a, room), None
    over = a + b - room
    if over <= 0:
        return a, b
    from_longer = min(over, abs(a - b))
    a, b = (a - from_longer, b) if a > b else (a, b - from_longer)
    rest = over - from_longer
    return a - rest // 2, b - (rest + 1) // 2


def cut_single(tokens: Sequence[Token], room: int, head_tail: bool = False) -> Sequence[Token]:
    """At most `room` of `tokens`: the first ones, or with `head_tail` a quarter from the beginning, the rest from the
    end."""
    if len(tokens) <= room:
        return tokens
    if not head_tail:
        return tokens[:room]
    head = room // 4
    return [*tokens[:head], *tokens[len(tokens) - (room - head) :]]
