"""Words back to text."""

from __future__ import annotations

import pytest

from bert_jax.text.readable import readable


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("the cat , the dog .", "the cat, the dog."),
        ('he said " hello , you " and left', 'he said "hello, you" and left'),
        ("it ' s state - of - the - art !", "it's state-of-the-art!"),
        ("the dogs ' owners", "the dogs' owners"),
        ("o ' clock", "o'clock"),
        ("3 . 5 or 1 , 024 at 12 : 30 in 1990 , 20 people .", "3.5 or 1,024 at 12:30 in 1990, 20 people."),
        ("in 1990 . The", "in 1990. The"),
        ("a ( b ) [ c ] $ 5 20 %", "a (b) [c] $5 20%"),
        ("中 文 ， 字 。 the end", "中文，字。the end"),
        ("", ""),
    ],
)
def test_readable(words: str, text: str) -> None:
    assert readable(words.split()) == text
