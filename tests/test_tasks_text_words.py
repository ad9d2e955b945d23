"""Texts as words: blanks, punctuation around words, Chinese characters."""

from __future__ import annotations

import pytest

from bert_jax.tasks.text_words import word_places


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Germany's U.S.-based AT&T rose 1,5 %.", ["Germany", "'s", "U.S.-based", "AT&T", "rose", "1,5", "%", "."]),
        ("(yes), 'O'Neill' ran...", ["(", "yes", ")", ",", "'", "O'Neill", "'", "ran", ".", ".", "."]),
        ("小明visit了New-York，3.5元。", ["小", "明", "visit", "了", "New-York", "，", "3.5", "元", "。"]),
        ("a,b x:y don't", ["a", ",", "b", "x", ":", "y", "don't"]),
        ("  \u200b \n", []),
        ("", []),
        ("'s", ["'", "s"]),
        ("ends.-", ["ends", ".", "-"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert [text[first:past] for first, past in word_places(text)] == expected
