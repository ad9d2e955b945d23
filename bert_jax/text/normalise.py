"""Text → words, as google-research/bert's `BasicTokenizer` makes them, under Unicode 15.0 on every Python.

Its rules, in order: remove control characters; blanks around Chinese characters; cut at whitespace; in each token lower
the case, decompose (NFD) and drop accents (Mn); make every punctuation character a word of its own.

What a character becomes depends on the character alone, with two exceptions: a capital sigma (lower case looks at its
neighbours) and a combining character that is no accent and so stays (NFD sorts it among its neighbours). Without those
a text is one `str.translate`; with them it takes the slow path.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import NamedTuple

from bert_jax.text.unicode_tables import (
    canonical_order,
    character_set,
    combining_class,
    decomposed_character,
    lower_character,
)

# (first, last) of the blocks that the official code calls Chinese; Japanese kana and Korean Hangul are not among them.
CHINESE_RANGES = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
_CHINESE_FIRST, _CHINESE_LAST = zip(*((chr(first), chr(last)) for first, last in sorted(CHINESE_RANGES)), strict=True)
# Punctuation to the official code although Unicode calls some of it symbols: all of ASCII but letters, digits, blanks.
_ASCII_PUNCTUATION = frozenset(map(chr, (*range(33, 48), *range(58, 65), *range(91, 97), *range(123, 127))))


def is_chinese(char: str) -> bool:
    """Whether the official code puts blanks around `char`."""
    place = bisect_right(_CHINESE_FIRST, char)
    return place > 0 and char <= _CHINESE_LAST[place - 1]


def is_punctuation(char: str) -> bool:
    """Whether `char` is a word of its own."""
    return char in _ASCII_PUNCTUATION or char in character_set("punctuation")


def is_removed(char: str) -> bool:
    """Whether cleaning drops `char`."""
    return char in character_set("control") or char == "\ufffd"


# Whitespace to `str.split`, yet removed by cleaning before anything is split: "a\x0bb" is one token.
JOINERS = "".join(sorted(char for char in character_set("whitespace") if is_removed(char)))
_WITHOUT_JOINERS = dict.fromkeys(map(ord, JOINERS))


def whitespace_tokens(text: str) -> list[str]:
    """`text` cut at whitespace; no token depends on another from here on.

    Exact because cleaning maps blanks to blanks and removes other characters, and nothing becomes a blank later on.
    """
    if not text.isprintable():  # one quick look spares most lines the others: a joiner is never printable
        for joiner in JOINERS:
            if joiner in text:
                return text.translate(_WITHOUT_JOINERS).split()
    return text.split()


@dataclass(frozen=True)
class AlignedWord:
    """A word and where its characters come from: character i was made of `text[starts[i]:ends[i]]`."""

    word: str
    starts: tuple[int, ...]
    ends: tuple[int, ...]


class _NeedsContext(Exception):
    """A character whose image depends on its neighbours."""


class WordRules(NamedTuple):
    """How text is split into words: the arguments of `WordSplitter`."""

    lower: bool
    strip_accents: bool
    chinese: bool = True


class WordSplitter:
    """`splitter(text) -> list[str]`, the words of `text`.

    `lower`: lower the case; `strip_accents`: decompose and drop accents; `chinese`: Chinese characters are words.
    """

    def __init__(self, lower: bool, strip_accents: bool, chinese: bool = True):
        self.lower = lower
        self.strip_accents = strip_accents
        self.chinese = chinese
        self._images = _Images(self)

    def __call__(self, text: str) -> list[str]:
        """The words of `text`, in order."""
        try:
            return text.translate(self._images).split()
        except _NeedsContext:
            tokens = whitespace_tokens(text)
            if len(tokens) == 1:
                return [aligned.word for aligned in self.aligned(text)]
            return [word for token in tokens for word in self(token)]

    def aligned(self, text: str) -> list[AlignedWord]:
        """The words of `text` with the places of their characters in it: the rules, step by step."""
        words: list[AlignedWord] = []
        for places in self._tokens(text):
            words.extend(self._words(text, places))
        return words

    def _tokens(self, text: str) -> list[list[int]]:
        """Places in `text` of the characters of each token: cleaned, cut at whitespace and around Chinese."""
        whitespace = character_set("whitespace")
        tokens: list[list[int]] = [[]]
        for place, char in enumerate(text):
            if is_removed(char):
                continue
            if char in whitespace:
                tokens.append([])
            elif self.chinese and is_chinese(char):
                tokens += [[place], []]
            else:
                tokens[-1].append(place)
        return [token for token in tokens if token]

    def _words(self, text: str, places: list[int]) -> list[AlignedWord]:
        """Case, accents and punctuation of one token."""
        token = "".join(text[place] for place in places)
        chars: list[tuple[str, int, int]] = []
        for index, (char, place) in enumerate(zip(token, places, strict=True)):
            image = lower_character(token, index) if self.lower else char
            chars.extend((part, place, place + 1) for part in image)
        if self.strip_accents:
            chars = _without_accents(chars)
        words: list[list[tuple[str, int, int]]] = [[]]
        for item in chars:
            if is_punctuation(item[0]):
                words += [[item], []]
            else:
                words[-1].append(item)
        return [
            AlignedWord(
                "".join(char for char, _, _ in word), tuple(item[1] for item in word), tuple(item[2] for item in word)
            )
            for word in words
            if word
        ]


def _without_accents(chars: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """NFD without non-spacing marks; an accent's place becomes part of the character it stood on."""
    parts = [(part, start, end) for char, start, end in chars for part in decomposed_character(char)]
    accents = character_set("nonspacing_mark")
    kept: list[tuple[str, int, int]] = []
    for index in canonical_order("".join(part for part, _, _ in parts)):
        char, start, end = parts[index]
        if char not in accents:
            kept.append((char, start, end))
        elif kept:
            base, base_start, base_end = kept[-1]
            kept[-1] = (base, base_start, max(base_end, end))
    return kept


class _Images(dict[int, str]):
    """Code point → what `str.translate` puts in its place, words set apart by blanks; made when first asked for."""

    def __init__(self, splitter: WordSplitter):
        super().__init__()
        self._splitter = splitter

    def __missing__(self, code: int) -> str:
        image = self[code] = self._image(chr(code))
        return image

    def _image(self, char: str) -> str:
        splitter = self._splitter
        if is_removed(char):
            return ""
        if char in character_set("whitespace"):
            return " "
        image = char
        if splitter.lower:
            if char == "Σ":
                raise _NeedsContext
            image = lower_character(char, 0)
        if splitter.strip_accents:
            accents = character_set("nonspacing_mark")
            parts = [part for whole in image for part in decomposed_character(whole) if part not in accents]
            if any(map(combining_class, parts)):
                raise _NeedsContext
            image = "".join(parts)
        if any(map(is_punctuation, image)):
            image = "".join([f" {part} " if is_punctuation(part) else part for part in image])
        return f" {image} " if splitter.chinese and is_chinese(char) else image
