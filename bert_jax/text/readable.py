"""Words → text as a person writes it: the blanks that tokenizing lost are put back where they most likely stood."""

from __future__ import annotations

from collections.abc import Sequence

from bert_jax.text.normalise import is_chinese
from bert_jax.text.unicode_tables import character_set

_NO_BLANK_BEFORE = frozenset(".,!?;:%)]}’”»…、。，！？；：）」』】》〉")
_NO_BLANK_AFTER = frozenset("([{$£€@“‘«¿¡（「『【《〈、。，！？；：）」』】》〉")
_NO_BLANK_AROUND = frozenset("-/_~·\\‐‑–")  # state-of-the-art, and/or
_AFTER_APOSTROPHE = frozenset(["s", "t", "d", "m", "ll", "re", "ve"])
_APOSTROPHES = frozenset("'’")


def readable(words: Sequence[str]) -> str:
    """`words` with blanks between them, but none before a comma, inside brackets, in numbers or in Chinese."""
    text: list[str] = []
    quotes = 0  # straight quotation marks so far: they open and close in turn
    for index, word in enumerate(words):
        after_opening = index > 0 and words[index - 1] == '"' and quotes % 2 == 1
        closing = word == '"' and quotes % 2 == 1
        if index and not (after_opening or closing) and _blank_before(words, index):
            text.append(" ")
        text.append(word)
        quotes += word == '"'
    return "".join(text)


def _blank_before(words: Sequence[str], index: int) -> bool:
    """Whether a blank stands between word `index` and the one before it; straight quotation marks aside."""
    previous, word = words[index - 1], words[index]
    before_previous = words[index - 2] if index > 1 else ""
    if word in _NO_BLANK_BEFORE or previous in _NO_BLANK_AFTER:
        return False
    if word in _NO_BLANK_AROUND or previous in _NO_BLANK_AROUND:
        return False
    if word in _APOSTROPHES:  # after a letter it closes or contracts, elsewhere it opens
        return not previous[-1:].isalnum()
    if previous in _APOSTROPHES:
        opens = not before_previous[-1:].isalnum()
        return not (opens or word.lower() in _AFTER_APOSTROPHE or len(before_previous) == 1)
    if previous in (".", ",", ":") and _is_number(before_previous) and _is_number(word):
        return previous == "," and len(word) != 3  # 3.5, 12:30, 1,024, but 1990, 20
    return previous in _NO_BLANK_BEFORE or not (_is_chinese_word(previous) or _is_chinese_word(word))


def _is_number(word: str) -> bool:
    digits = character_set("digit")
    return bool(word) and all(char in digits for char in word)


def _is_chinese_word(word: str) -> bool:
    return bool(word) and (is_chinese(word[0]) or is_chinese(word[-1]))
