"""Longest match first, against the rules written out; the memo is bounded and changes nothing."""

from __future__ import annotations

import itertools

import numpy as np
from official_wordpiece import hostile_strings, official_pieces, official_tokens

from bert_jax.text.normalise import WordSplitter
from bert_jax.text.wordpiece import MAX_WORD_CHARACTERS, Memo, TextPieces, WordPieces

TEXT = """
[UNK] a b c ab abc abcd abcde ##a ##b ##c ##bc ##cd ##abcab ##abcabc ##x ##xyzzy , . ! ' 中 文 α ##ς ##σ σ ##α i un
##aff ##able ##affab 한 ᄒ ##ᅡ ##ᆫ e
"""
ENTRIES = TEXT.split()
VOCABULARY = {entry: number for number, entry in enumerate(ENTRIES)}


def _words() -> list[str]:
    """All words of up to six of three letters: every way in which entries can overlap."""
    return ["".join(letters) for length in range(1, 7) for letters in itertools.product("abc", repeat=length)]


def test_longest_match_is_that_of_the_rules() -> None:
    matcher = WordPieces(VOCABULARY, 0)
    words = [*_words(), "unaffable", "abcdeabcabcabcab", "xabc", "abcxyzz", "abcxyzzyx", "한"]
    assert len(words) > 1000
    for word in words:
        matches = matcher.matches(word)
        assert [ENTRIES[number] for number, _, _ in matches] == official_pieces(word, VOCABULARY), word
        assert [start for _, start, _ in matches] == [0, *(end for _, _, end in matches[:-1])]
        assert matches[-1][2] == len(word)


def test_long_words_are_unknown() -> None:
    matcher = WordPieces(VOCABULARY, 0)
    assert len(matcher.matches("a" * MAX_WORD_CHARACTERS)) > 1
    assert matcher.matches("a" * 201) == [(0, 0, 201)]
    long = {**VOCABULARY, "b" * 201: 99}
    assert TextPieces(WordSplitter(True, True), WordPieces(long, 0)).packed_ids("b" * 201) == b"\0" * 4


def test_text_pieces_are_those_of_the_rules() -> None:
    """With every entry's characters allowed and many texts: the memo is hit, missed and filled."""
    entries = ["[UNK]", *(chr(code) for code in range(33, 1200)), *("##" + chr(code) for code in range(33, 900))]
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    for lower in (True, False):
        pieces = TextPieces(WordSplitter(lower, lower), WordPieces(vocabulary, 0))
        for text in hostile_strings(1_000, seed=5):
            ids = np.frombuffer(pieces.packed_ids(text), "<i4").tolist()
            assert [entries[number] for number in ids] == official_tokens(text, vocabulary, lower), ascii(text)
            assert [number for number, _, _ in pieces.with_offsets(text)] == ids, ascii(text)


def test_memo_is_bounded_and_keeps_what_is_used() -> None:
    asked: list[str] = []

    def function(key: str) -> bytes:
        asked.append(key)
        return key.encode()

    memo = Memo(function, entries=4)
    for number in range(100):
        assert memo[str(number)] == str(number).encode()
        assert memo["often"] == b"often"
        assert len(memo) + len(memo._older) <= 8
    assert asked.count("often") == 1  # carried over from generation to generation
    assert memo["x" * 1000] == b"x" * 1000
    assert "x" * 1000 not in memo  # a giant line of text is not remembered
