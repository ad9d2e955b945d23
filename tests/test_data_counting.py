"""Counting on several processes: the same counts whatever the workers, of a sample when the source is large."""

from __future__ import annotations

from pathlib import Path

import pytest

from bert_jax.data.counting import count_source, parse_bytes, vocabulary_from_source
from bert_jax.data.sources import open_source
from bert_jax.errors import UsageError
from bert_jax.text.word_counts import count_words


def test_a_sample_is_a_share_of_the_documents(data_dir: Path) -> None:
    source = open_source(data_dir / "corpus" / "enwiki" / "AA_wiki_02.txt", unit_bytes=100_000)
    whole = count_source(source, workers=1)
    part = count_source(source, workers=1, sample_bytes=whole.bytes / 4)
    assert part.words == count_source(source, workers=1, sample_bytes=whole.bytes / 4).words
    assert 0.05 < part.bytes / whole.bytes < 0.6
    assert count_words(["a b"] * 100, "words", True, most_bytes=30).documents == 10


def test_compare_takes_a_directory_too(data_dir: Path, tmp_path: Path) -> None:
    first = vocabulary_from_source(open_source(data_dir / "corpus" / "sample_text.txt"), tmp_path / "a", 300)
    source = open_source(data_dir / "corpus" / "enwiki" / "AA_wiki_02.txt")
    summary = vocabulary_from_source(source, tmp_path / "b", 2000, compare=[tmp_path / "a"])
    assert summary["pieces_per_word"] < summary["compared"][str(tmp_path / "a")]["pieces_per_word"]
    assert first["size"] == 300
    with pytest.raises(UsageError, match="--workers 0: expected at least 1"):
        vocabulary_from_source(source, tmp_path / "c", 300, workers=0)


def test_an_option_of_another_kind_is_refused(data_dir: Path, tmp_path: Path) -> None:
    source = open_source(data_dir / "corpus" / "sample_text.txt")
    with pytest.raises(UsageError, match="--min-count is for vocabularies of kind words, not wordpiece"):
        vocabulary_from_source(source, tmp_path / "t", min_count=2)
    with pytest.raises(UsageError, match="--compare is for vocabularies of kind wordpiece, not sentencepiece"):
        vocabulary_from_source(source, tmp_path / "t", kind="sentencepiece", compare=["vocab.txt"])


@pytest.mark.parametrize(
    ("text", "size"), [("2GB", 2_000_000_000), ("1.5mb", 1_500_000), ("100", 100), ("64 KB", 64_000)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "two", "nan"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="is no size"):
        parse_bytes(text)
