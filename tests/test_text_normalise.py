"""Text → words: against the rules written out, one pinned hash for every Python, and places in the text."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # this file also runs alone, under Pythons that have no pytest path
from official_wordpiece import hostile_strings, official_words

from bert_jax.text.normalise import JOINERS, WordSplitter, whitespace_tokens

# SHA-256 over the words of every code point alone and of 100,000 strings, lower-cased and cased; and the same over the
# first planes and 10,000 strings, for every day. They may never change: with other values stored ids and published
# models no longer fit.
PINNED = "02aeb4827e39fee8d0acddb05e02e1a986d9d6a0980aa72f87f2423169c82fda"
PINNED_SHORT = "58c0dbc54bb5522526785f6387626783c417d89620f6e408a15f70e31d56ef7e"


def words_hash(code_points: int = sys.maxunicode + 1, strings: int = 100_000) -> str:
    """The hash that every Python has to give."""
    found = hashlib.sha256()
    for lower in (True, False):
        splitter = WordSplitter(lower=lower, strip_accents=lower)
        for code in range(code_points):
            found.update("\n".join(splitter(chr(code))).encode("utf-8", "surrogatepass") + b"\0")
        for text in hostile_strings(strings):
            found.update("\n".join(splitter(text)).encode("utf-8", "surrogatepass") + b"\0")
    return found.hexdigest()


def test_words_are_the_pinned_ones_in_short() -> None:
    assert words_hash(0x20000, 10_000) == PINNED_SHORT


@pytest.mark.ci
def test_words_are_the_pinned_ones() -> None:
    assert words_hash() == PINNED


@pytest.mark.ci
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_words_are_the_pinned_ones_on_other_pythons(version: str) -> None:
    """The same hash from another interpreter, where this machine has one; only the standard library is needed."""
    python = shutil.which(f"python{version}")
    root = Path(__file__).resolve().parent.parent
    program = "import test_text_normalise as t; print(t.words_hash())"
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"}
    if python is None or subprocess.run([python, "-c", "import pytest"], capture_output=True, check=False).returncode:
        pytest.skip(f"no python{version} with pytest on this machine")
    done = subprocess.run([python, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == PINNED


@pytest.mark.parametrize("lower", [True, False])
def test_words_are_those_of_the_rules(lower: bool) -> None:
    splitter = WordSplitter(lower=lower, strip_accents=lower)
    for text in hostile_strings(5_000, seed=3):
        expected = official_words(text, lower)
        assert splitter(text) == expected, ascii(text)
        assert [word.word for word in splitter.aligned(text)] == expected, ascii(text)
        assert [word for token in whitespace_tokens(text) for word in splitter(token)] == expected, ascii(text)


@pytest.mark.ci
@pytest.mark.parametrize("lower", [True, False])
def test_every_code_point_by_the_rules(lower: bool) -> None:
    """Alone and between letters, where it may join, cut or vanish."""
    splitter = WordSplitter(lower=lower, strip_accents=lower)
    for code in [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]:
        text = f"A{chr(code)}b {chr(code)}"
        assert splitter(text) == official_words(text, lower), hex(code)


def test_removed_whitespace_joins() -> None:
    """Vertical tabs and the like are removed before anything is split, a line separator is not."""
    assert JOINERS == "\x0b\x0c\x1c\x1d\x1e\x1f\x85"
    for joiner in JOINERS:
        assert whitespace_tokens(f"a{joiner}b c") == ["ab", "c"]
    assert whitespace_tokens("a\u2028b\x0b") == ["a", "b"]


def test_places_in_the_text() -> None:
    text = "He\u0301llo\x00, \u0130x 中é"
    words = WordSplitter(lower=True, strip_accents=True).aligned(text)
    spans = [(word.word, text[word.starts[0] : word.ends[-1]]) for word in words]
    assert spans == [("hello", "He\u0301llo"), (",", ","), ("ix", "\u0130x"), ("中", "中"), ("e", "é")]


def test_options_of_hugging_face() -> None:
    """Accents kept in lower case, stripped in cased text, Chinese left in one word."""
    assert WordSplitter(lower=True, strip_accents=False)("ÉA 中文") == ["éa", "中", "文"]
    assert WordSplitter(lower=False, strip_accents=True)("ÉA") == ["EA"]
    assert WordSplitter(lower=True, strip_accents=True, chinese=False)("中文É") == ["中文e"]
