"""What stays of a text or a pair that is too long."""

from __future__ import annotations

import pytest

from bert_jax.text.cutting import cut_pair, cut_single


@pytest.mark.parametrize(
    ("a", "b", "room", "expected"),
    [(10, None, 6, (6, None)), (10, 3, 8, (5, 3)), (3, 10, 8, (3, 5)), (9, 8, 10, (5, 5)), (8, 8, 9, (5, 4))],
)
def test_pairs_lose_from_the_longer_side(a: int, b: int | None, room: int, expected: tuple) -> None:
    assert cut_pair(a, b, room) == expected


@pytest.mark.parametrize(
    ("room", "head_tail", "expected"),
    [(6, False, "abcdef"), (6, True, "afghij"), (8, True, "abefghij"), (3, True, "hij"), (10, True, "abcdefghij")],
)
def test_singles_lose_from_the_end_or_the_middle(room: int, head_tail: bool, expected: str) -> None:
    assert "".join(cut_single("abcdefghij", room, head_tail)) == expected
