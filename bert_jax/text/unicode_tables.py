"""Character properties of Unicode 15.0, the same on every Python: `unicode_15_0.txt`, read once.

The official tokenizer asks `unicodedata`, so that its result differs between Python versions; here the answers are
those of CPython 3.12 for good. `make_unicode_tables.py` writes the file.
"""

from __future__ import annotations

import functools
from pathlib import Path

_FILE = Path(__file__).with_name("unicode_15_0.txt")

_HANGUL_FIRST, _HANGUL_COUNT = 0xAC00, 11172
_LEADING_FIRST, _VOWEL_FIRST, _TRAILING_FIRST = 0x1100, 0x1161, 0x11A7
_VOWEL_COUNT, _TRAILING_COUNT = 21, 28


@functools.cache
def _lines() -> dict[str, list[str]]:
    """Entries of each table of the file, as text."""
    tables: dict[str, list[str]] = {}
    for line in _FILE.read_text(encoding="ascii").splitlines():
        name, *entries = line.split()
        tables.setdefault(name, []).extend(entries)
    return tables


@functools.cache
def character_set(name: str) -> frozenset[str]:
    """The characters of the set `name`.

    `control` (Cc and Cf but tab and line ends), `blank` (Zs, tab, line ends), `whitespace` (what `str.split` cuts at),
    `punctuation` (P*), `nonspacing_mark` (Mn), `digit` (`str.isdigit`), `case_ignorable` and `cased` (the
    final-sigma rule; `cased` leaves out what is ignorable).
    """
    characters: list[str] = []
    for entry in _lines()[name]:
        first, _, last = entry.partition("-")
        characters.extend(map(chr, range(int(first, 16), int(last or first, 16) + 1)))
    return frozenset(characters)


@functools.cache
def character_map(name: str) -> dict[str, str]:
    """Character → string of the map `name`; what maps to itself is left out.

    `lower` (`str.lower` of one character), `canonical` and `compatible` (full NFD and NFKD of one character, Hangul
    syllables left out), `combining_class` (class as a character; 0 is left out).
    """
    pairs = (entry.split(":") for entry in _lines()[name])
    return {chr(int(code, 16)): "".join(chr(int(part, 16)) for part in image.split(",")) for code, image in pairs}


def combining_class(char: str) -> int:
    """Canonical combining class; 0 for starters."""
    return ord(character_map("combining_class").get(char, "\0"))


def lower_character(text: str, index: int) -> str:
    """What `text.lower()` makes of the character at `index`; a capital sigma looks at its neighbours in `text`."""
    char = text[index]
    if char == "Σ":
        return "ς" if _ends_word(text, index) else "σ"
    return character_map("lower").get(char, char)


@functools.cache
def _lower_translation() -> dict[int, str]:
    return str.maketrans(character_map("lower"))


def _ends_word(text: str, index: int) -> bool:
    """Final_Sigma: a cased letter before `index`, none after it, case-ignorable characters skipped on both sides."""
    ignorable, cased = character_set("case_ignorable"), character_set("cased")
    before = next((char for char in reversed(text[:index]) if char not in ignorable), "")
    after = next((char for char in text[index + 1 :] if char not in ignorable), "")
    return before in cased and after not in cased


def lower(text: str) -> str:
    """`text.lower()` under Unicode 15.0."""
    if text.isascii():
        return text.lower()
    if "Σ" not in text:
        return text.translate(_lower_translation())
    return "".join(lower_character(text, index) for index in range(len(text)))


def decomposed_character(char: str, compatible: bool = False) -> str:
    """NFD of one character, or NFKD."""
    syllable = ord(char) - _HANGUL_FIRST
    if 0 <= syllable < _HANGUL_COUNT:
        vowel_and_leading, trailing = divmod(syllable, _TRAILING_COUNT)
        leading, vowel = divmod(vowel_and_leading, _VOWEL_COUNT)
        jamo = chr(_LEADING_FIRST + leading) + chr(_VOWEL_FIRST + vowel)
        return jamo + chr(_TRAILING_FIRST + trailing) if trailing else jamo
    return character_map("compatible" if compatible else "canonical").get(char, char)


def canonical_order(characters: str) -> list[int]:
    """Indices of `characters` in canonical order: each run of combining characters sorted by class, stably."""
    if character_map("combining_class").keys().isdisjoint(characters):
        return list(range(len(characters)))
    order: list[int] = []
    run: list[tuple[int, int]] = []
    for index, char in enumerate(characters):
        kind = combining_class(char)
        if kind:
            run.append((kind, index))
            continue
        order.extend(place for _, place in sorted(run))
        run.clear()
        order.append(index)
    order.extend(place for _, place in sorted(run))
    return order


def decomposed(text: str, compatible: bool = False) -> str:
    """NFD of `text` under Unicode 15.0, or NFKD."""
    if text.isascii():
        return text
    flat = "".join(decomposed_character(char, compatible) for char in text)
    return "".join(flat[index] for index in canonical_order(flat))
