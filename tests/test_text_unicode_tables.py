"""The frozen tables against this Python's own, wherever both must agree."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from official_wordpiece import NATIVE, hostile_strings

from bert_jax.text import make_unicode_tables, unicode_tables

# Cased letters that Unicode 16 added: assigned on newer Pythons, not letters here.
NEWER = frozenset(map(chr, (*range(0x10D50, 0x10D90), 0xA7CB, 0xA7CC, 0xA7DA, 0xA7DC, 0x1C89)))


def test_file_is_what_its_script_writes() -> None:
    """Byte for byte, on the one Python that may write it."""
    if not NATIVE:
        pytest.skip(f"this Python has Unicode {unicodedata.unidata_version}; the tables are those of 15.0.0")
    written = make_unicode_tables.TABLES_FILE.read_text(encoding="ascii")
    assert written == "\n".join(make_unicode_tables.table_lines()) + "\n"


def test_script_refuses_another_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unicodedata, "unidata_version", "16.0.0")
    with pytest.raises(SystemExit, match=r"16\.0\.0.*run python3\.12"):
        make_unicode_tables.main()


def test_whitespace_is_what_split_cuts_at() -> None:
    """Splitting uses `str.split`, so this Python must agree with the table about every character."""
    here = {chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace()}
    assert here == unicode_tables.character_set("whitespace")


def test_character_counts() -> None:
    """Sizes of the sets in Unicode 15.0, counted from its own UnicodeData.txt categories."""
    sizes = {name: len(unicode_tables.character_set(name)) for name in ("control", "blank", "nonspacing_mark")}
    assert sizes == {"control": 65 - 3 + 170, "blank": 17 + 3, "nonspacing_mark": 1985}
    assert len(unicode_tables.character_set("punctuation")) == 842


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ΑΣ", "ας"),
        ("ΑΣΑ", "ασα"),
        ("Σ", "σ"),
        ("Α'Σ", "α'ς"),  # an apostrophe is skipped on the way to the letter before
        ("ΑΣ'Α", "ας'α".replace("ς", "σ")),
        ("1Σ", "1σ"),
        ("İI", "i̇i"),
        ("ẞ", "ß"),
    ],
)
def test_lower(text: str, expected: str) -> None:
    assert unicode_tables.lower(text) == expected


def test_agrees_with_this_python_on_old_characters() -> None:
    """Case and decomposition of what Unicode 14 had never change: strings of it come out as `str` and NF(K)D say."""
    for text in hostile_strings(5_000, seed=7):
        old = "".join(char for char in text if unicodedata.category(char) != "Cn" and char not in NEWER)
        assert unicode_tables.lower(old) == old.lower()
        assert unicode_tables.decomposed(old) == unicodedata.normalize("NFD", old)
        assert unicode_tables.decomposed(old, compatible=True) == unicodedata.normalize("NFKD", old)
    for code in range(0xAC00, 0xD7A4, 7):
        assert unicode_tables.decomposed_character(chr(code)) == unicodedata.normalize("NFD", chr(code))
