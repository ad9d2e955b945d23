"""A text as the words that are tagged, where no one has cut it into words before."""

from __future__ import annotations

from bert_jax.text.normalise import is_chinese, is_punctuation, is_removed

# Between letters these join, as in 'U.S', 'Rolls-Royce', 'AT&T' and '1,5'; corpora of tagged words keep them so.
_JOINING = frozenset(".-'’&/_@,:")
_APOSTROPHES = "'’"


def word_places(text: str) -> list[tuple[int, int]]:
    """(first, past) of each word of `text`, in characters, in order.

    A word is what stands between blanks; punctuation around it is cut off, each character a word, and so is `'s`.
    A Chinese character is a word. A word of nothing but control characters is none.
    """
    found: list[tuple[int, int]] = []
    begin = 0
    while begin < len(text):
        char = text[begin]
        if char.isspace() or is_removed(char):
            begin += 1
            continue
        end = begin + 1
        if not is_chinese(char) and not is_punctuation(char):
            while end < len(text) and _goes_on(text, end):
                end += 1
            if end - begin > 2 and text[end - 2] in _APOSTROPHES and text[end - 1] in "sS":
                found.append((begin, end - 2))
                begin = end - 2
        found.append((begin, end))
        begin = end
    return found


def _goes_on(text: str, place: int) -> bool:
    """Whether the word before `place` holds the character there."""
    char = text[place]
    if char.isspace() or is_chinese(char):
        return False
    if not is_punctuation(char):
        return True
    after = text[place + 1] if place + 1 < len(text) else " "
    if text[place : place + 2] == ".-":  # U.S.-based
        return _goes_on(text, place + 1)
    joins = char in _JOINING and not (after.isspace() or is_chinese(after) or is_punctuation(after))
    return joins and (char not in ",:" or (text[place - 1].isdigit() and after.isdigit()))
