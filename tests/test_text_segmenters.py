"""Word segmenters and the word starts they give."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from bert_jax.errors import BertJaxError
from bert_jax.text.segmenters import Segmenter, load_segmenter, word_starts

TEXT = "我来到北京 清华大学，花了3.14元 hello world。"


@pytest.mark.parametrize("name", ["jieba", "rjieba", "spaces"])
def test_words_join_to_the_text_without_blanks(name: str) -> None:
    segmenter = load_segmenter(name)
    words = segmenter(TEXT)
    assert "".join(words) == "".join(TEXT.split())
    assert all(words)
    assert segmenter.name.startswith(name)
    assert name == "spaces" or {"北京", "清华大学", "来到"} <= set(words)
    assert (segmenter.name == name) == (name == "spaces")  # the others tell their version
    assert segmenter("") == []


def test_word_starts_of_pieces() -> None:
    segmenter = load_segmenter("rjieba")
    text = "我来到 北京清华大学"
    offsets = np.array([[i, i + 1] for i, char in enumerate(text) if char != " "])
    assert segmenter(text) == ["我", "来到", "北京", "清华大学"]
    expected = [True, True, False, True, False, True, False, False, False]
    assert word_starts(text, offsets, segmenter).tolist() == expected


def test_word_starts_where_pieces_and_words_do_not_agree() -> None:
    segmenter = Segmenter("pairs", lambda text: [text[i : i + 2] for i in range(0, len(text), 2)])
    wide = np.array([[0, 3], [3, 4], [4, 4], [4, 5], [5, 6]])  # one piece over a border, one of no characters
    assert word_starts("abcdef", wide, segmenter).tolist() == [True, False, False, True, False]
    assert word_starts("abcd", np.array([[0, 4]]), segmenter).tolist() == [True]
    assert word_starts("abcd", np.zeros((0, 2), np.int32), segmenter).tolist() == []
    skipping = np.array([[0, 1], [3, 4]])  # the characters between were removed by cleaning
    assert word_starts("abcd", skipping, segmenter).tolist() == [True, True]


def test_a_word_over_a_blank_of_the_text() -> None:
    segmenter = Segmenter("glue", lambda text: ["".join(text.split())])
    assert word_starts("ab cd", np.array([[0, 2], [3, 5]]), segmenter).tolist() == [True, False]


def test_own_function(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("my_segmenter")
    module.cut = lambda text: list(text)  # type: ignore[attr-defined]
    module.bad = lambda text: [text.upper()]  # type: ignore[attr-defined]
    module.value = 3  # type: ignore[attr-defined]
    module.__version__ = "1.5"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_segmenter", module)
    segmenter = load_segmenter("my_segmenter:cut")
    assert segmenter.name == "my_segmenter:cut 1.5"
    assert segmenter("ab c") == ["a", "b", "c"]
    with pytest.raises(BertJaxError, match="changes the text"):
        load_segmenter("my_segmenter:bad")("abc")
    module.fails = lambda text: text / 2  # type: ignore[attr-defined]
    with pytest.raises(BertJaxError, match=r"my_segmenter:fails 1.5 failed on 'abc' \(TypeError: "):
        load_segmenter("my_segmenter:fails")("abc")
    with pytest.raises(BertJaxError, match="my_segmenter has no function value"):
        load_segmenter("my_segmenter:value")
    with pytest.raises(BertJaxError, match="no_such_module cannot be imported"):
        load_segmenter("no_such_module:cut")
    with pytest.raises(BertJaxError, match="expected jieba, rjieba, spaces or MODULE:FUNCTION"):
        load_segmenter("nothing")


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jieba", None)
    with pytest.raises(BertJaxError, match=r"pip install 'bert-jax\[zh\]'"):
        load_segmenter("jieba")
