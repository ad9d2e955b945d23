"""Write `unicode_15_0.txt`, the frozen character tables of the tokenizers.

Run as `python3.12 -m bert_jax.text.make_unicode_tables` when the format of the file changes, and only then: the tables
are what CPython 3.12 (Unicode 15.0) says, and every other Python is refused. Needs nothing but the standard library.

Format: lines `table entry entry …`, numbers in hexadecimal. A set's entries are `first-last` (or one code point), a
map's are `code:code,code,…`. Lines of one table are joined.
"""

from __future__ import annotations

import sys
import textwrap
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

UNICODE_VERSION = "15.0.0"
TABLES_FILE = Path(__file__).with_name("unicode_15_0.txt")

_HANGUL_SYLLABLES = range(0xAC00, 0xD7A4)  # composed by arithmetic, so left out of the decompositions


def character_sets() -> dict[str, Callable[[str], bool]]:
    """Name of each set in the file, and its test of one character."""
    return {
        # What the tokenizer removes and what it takes for a blank, tab and line ends counting as blanks.
        "control": lambda char: unicodedata.category(char) in ("Cc", "Cf") and char not in "\t\n\r",
        "blank": lambda char: unicodedata.category(char) == "Zs" or char in "\t\n\r",
        "whitespace": str.isspace,  # what `str.split` cuts at
        "punctuation": lambda char: unicodedata.category(char).startswith("P"),
        "nonspacing_mark": lambda char: unicodedata.category(char) == "Mn",
        "digit": str.isdigit,
        # Python does not name the two properties of the final-sigma rule, but its own `lower` shows them:
        # a character is skipped when a letter before it still makes the sigma final and it alone does not.
        "case_ignorable": lambda char: ("A" + char + "Σ").lower()[-1] == "ς" and (char + "Σ").lower()[-1] == "σ",
        "cased": lambda char: (char + "Σ").lower()[-1] == "ς",  # of those that are not skipped
    }


def character_maps() -> dict[str, Callable[[str], str]]:
    """Name of each map in the file, and the function of one character that it freezes."""
    return {
        "combining_class": lambda char: chr(unicodedata.combining(char)),
        "lower": str.lower,
        "canonical": _decomposition("NFD"),
        "compatible": _decomposition("NFKD"),
    }


def _decomposition(form: str) -> Callable[[str], str]:
    def decomposed(char: str) -> str:
        return char if ord(char) in _HANGUL_SYLLABLES else unicodedata.normalize(form, char)  # type: ignore[arg-type]

    return decomposed


def table_lines() -> Iterator[str]:
    """The lines of the file."""
    characters = [chr(code) for code in range(sys.maxunicode + 1)]
    yield "# The character tables of Unicode 15.0 as CPython 3.12 has them; see make_unicode_tables.py."
    yield f"version {UNICODE_VERSION}"
    for name, belongs in character_sets().items():
        codes = [code for code, char in enumerate(characters) if belongs(char)]
        yield from _wrapped(name, _ranges(codes))
    for name, image in character_maps().items():
        nothing = "\0" if name == "combining_class" else None
        entries = []
        for code, char in enumerate(characters):
            result = image(char)
            if result != (nothing or char):
                entries.append(f"{code:x}:{','.join(f'{ord(part):x}' for part in result)}")
        yield from _wrapped(name, entries)


def _ranges(codes: list[int]) -> list[str]:
    """Sorted code points as `first-last` entries."""
    entries: list[str] = []
    start = previous = codes[0]
    for code in [*codes[1:], -1]:
        if code != previous + 1:
            entries.append(f"{start:x}" if start == previous else f"{start:x}-{previous:x}")
            start = code
        previous = code
    return entries


def _wrapped(name: str, entries: list[str]) -> list[str]:
    lines = textwrap.wrap(" ".join(entries), 118 - len(name), break_long_words=False, break_on_hyphens=False)
    return [f"{name} {line}" for line in lines]


def main() -> None:
    """Write the file, or say why this Python cannot."""
    if unicodedata.unidata_version != UNICODE_VERSION:
        raise SystemExit(
            f"this Python has Unicode {unicodedata.unidata_version}, the tables are those of {UNICODE_VERSION}: "
            "run python3.12 -m bert_jax.text.make_unicode_tables"
        )
    TABLES_FILE.write_text("\n".join(table_lines()) + "\n", encoding="ascii")
    print(f"wrote {TABLES_FILE} ({TABLES_FILE.stat().st_size:,} bytes)", file=sys.stderr)


if __name__ == "__main__":
    main()
