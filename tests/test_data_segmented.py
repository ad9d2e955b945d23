"""Word starts for many lines at once equal those of every line alone, found by character offsets."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from bert_jax.data.segmented import segmented_word_starts
from bert_jax.text.segmenters import Segmenter, word_starts
from bert_jax.text.tokenizer import WordPieceTokenizer


def cut_anywhere(text: str) -> list[str]:
    """Words of one to three characters, cut inside Latin words, numbers and blanks too."""
    rng = random.Random(text)
    words, place = [], 0
    while place < len(text):
        size = rng.randint(1, 3)
        words.append(text[place : place + size])
        place += size
    return words


def cut_han(text: str) -> list[str]:
    """Pairs of Chinese characters; runs of anything else are left whole."""
    words: list[str] = []
    for character in text:
        is_han = "\u4e00" <= character <= "\u9fff"
        joins = words and (("\u4e00" <= words[-1][-1] <= "\u9fff") == is_han) and (not is_han or len(words[-1]) < 2)
        if joins:
            words[-1] += character
        else:
            words.append(character)
    return words


@pytest.mark.parametrize("cut", [cut_anywhere, cut_han])
def test_the_short_way_equals_the_long_way(data_dir: Path, cut: object) -> None:
    vocabulary = (data_dir / "vocab" / "bert_base_chinese.txt").read_text("utf-8").split("\n")[:-1]
    tokenizer = WordPieceTokenizer(vocabulary, cased=False)
    segmenter = Segmenter("test", cut)  # type: ignore[arg-type]
    text = (data_dir / "corpus" / "news_zh_1.txt").read_text("utf-8") + (
        data_dir / "corpus" / "sample_text.txt"
    ).read_text("utf-8")
    lines = [line.strip() for line in text.split("\n") if line.strip()][:120]
    lines += ["", "\u200b", "北京\u0301大学 e\u0301t", "一 二", "unaffable 37.5%"]
    ids, lengths = tokenizer.bulk_ids(lines)
    found = segmented_word_starts(ids, lengths, lines, tokenizer, segmenter)
    parts = []
    for line in lines:
        line_ids, offsets = tokenizer.encode_with_offsets(line)
        parts.append(word_starts(line, offsets, segmenter)[: len(line_ids)])
    np.testing.assert_array_equal(found, np.concatenate(parts))
