"""One id per blank-separated token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bert_jax.text.tokenizer import WordsTokenizer, load_tokenizer

LINES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "12", "7_Ä", "##x")


def test_words() -> None:
    tokenizer = WordsTokenizer(LINES)
    text = " 12  7_Ä\t##x [MASK] 99"
    assert tokenizer.ids(text) == [5, 6, 7, 1, 1]  # a special typed in text is no special
    ids, offsets = tokenizer.encode_with_offsets(text)
    assert ids.tolist() == tokenizer.ids(text)
    assert [text[first:last] for first, last in offsets] == text.split()
    ids, starts = tokenizer.ids_and_word_starts(text)
    assert starts.tolist() == [True] * 5
    assert ids.dtype == np.int32
    assert tokenizer.decode([2, 5, 6, 3, 0]) == "12 7_Ä"
    assert tokenizer.ids_with_specials("12 [MASK]") == [5, 4]


def test_saved_directory_is_words_again(tmp_path: Path) -> None:
    tokenizer = WordsTokenizer(LINES)
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.kind == "words"
    assert again.fingerprint == tokenizer.fingerprint


def test_hugging_face_reads_the_directory(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not here: pip install -e .[compare]")
    tokenizer = WordsTokenizer(LINES)
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs("12 7_Ä", "##x 99")["input_ids"] == tokenizer.encode("12 7_Ä", "##x 99")["input_ids"].tolist()
    assert theirs("12 7_Ä", "##x 99")["token_type_ids"] == tokenizer.encode("12 7_Ä", "##x 99")["segment_ids"].tolist()
