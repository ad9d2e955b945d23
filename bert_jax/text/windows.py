"""The overlapping windows of long texts.

The rule: they are as long as the limit allows, each begins `stride` tokens after the one before, and the
last ends with the text (it begins earlier than its turn, so that it is full too). Every token is kept in exactly one
window: the one where it stands farthest from an edge that is not an end of the text, the earlier of two equal ones.
[CLS] is kept in the first window, the last [SEP] in the last. A text that fits is one window, and nothing changes.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple


class Window(NamedTuple):
    """Tokens `begin` to `end` of the text make up one row; of that row, [CLS] being 0, `first` to `past` are kept."""

    begin: int
    end: int
    first: int
    past: int


def windows(count: int, width: int, stride: int) -> list[Window]:
    """The windows of a text of `count` > `width` tokens, by the rule of this module."""
    begins = [*range(0, count - width, stride), count - width]
    # Between neighbours the border is where a token is as far from the one's end as from the other's beginning.
    borders = [0, *((before + width + after - 1) // 2 + 1 for before, after in itertools.pairwise(begins))]
    found = []
    for index, begin in enumerate(begins):
        first = borders[index] - begin + 1 if index else 0
        past = borders[index + 1] - begin + 1 if index + 1 < len(begins) else width + 2
        found.append(Window(begin, begin + width, first, past))
    return found


def text_windows(count: int, width: int) -> list[Window]:
    """The windows of a text of any length, each half its `width` after the one before; specials are never kept.

    A text of `count` ≤ `width` tokens is one window, of which all tokens are kept.
    """
    if count <= width:
        return [Window(0, count, 1, count + 1)]
    found = windows(count, width, max(1, width // 2))
    return [window._replace(first=max(window.first, 1), past=min(window.past, width + 1)) for window in found]
