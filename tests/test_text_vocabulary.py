"""Vocabularies: exact size, fixed places, the same bytes each time, and good pieces."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from bert_jax.data.counting import unit_texts, vocabulary_from_source
from bert_jax.data.sources import open_source
from bert_jax.errors import BertJaxError
from bert_jax.text import word_counts
from bert_jax.text.tokenizer import load_tokenizer
from bert_jax.text.tokenizer_files import read_vocabulary
from bert_jax.text.vocabulary import make_vocabulary, reserved_entries
from bert_jax.text.word_counts import count_words, drop_rare


@pytest.fixture(scope="module")
def texts(data_dir: Path) -> list[str]:
    """The documents of 1 MB of English Wikipedia."""
    return ["\n".join(document) for document in open_source(data_dir / "corpus" / "enwiki" / "AA_wiki_02.txt")]


def made(texts: list[str], out: Path, **options: object) -> list[str]:
    make_vocabulary(texts, out=out, **options)  # type: ignore[arg-type]
    return read_vocabulary(out / "vocab.txt")


def test_reserved_rows_stand_where_bert_has_them(data_dir: Path) -> None:
    official = read_vocabulary(data_dir / "vocab" / "bert_base_uncased.txt")
    assert reserved_entries(30522) == official[:999]
    assert reserved_entries(4096) == official[:104]
    assert reserved_entries(512) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert reserved_entries(512, unused=3)[5:] == ["[unused0]", "[unused1]", "[unused2]"]


@pytest.mark.parametrize("size", [512, 4096, 16384])
def test_wordpiece_has_exactly_the_size(texts: list[str], tmp_path: Path, size: int) -> None:
    entries = made(texts, tmp_path / "t", size=size)
    assert len(entries) == len(set(entries)) == size
    assert {"a", "##a", "z", "##z", "0", "##0", ".", "the"} <= set(entries)
    assert not any(entry != entry.lower() for entry in entries if not entry.startswith("["))
    tokenizer = load_tokenizer(tmp_path / "t")
    assert (tokenizer.kind, tokenizer.vocab_size, tokenizer.cased) == ("wordpiece", size, False)
    pieces = tokenizer.tokenize("The people of the world.")
    assert "[UNK]" not in pieces
    assert len(pieces) <= (11 if size == 512 else 6)


def test_cased_keeps_capitals_and_accents(texts: list[str], tmp_path: Path) -> None:
    entries = made(texts, tmp_path / "t", size=8192, cased=True)
    assert {"The", "A", "##A", "é"} <= set(entries)
    assert load_tokenizer(tmp_path / "t").cased


def test_same_text_same_bytes_whatever_the_order_and_workers(data_dir: Path, tmp_path: Path) -> None:
    source = open_source(f"{data_dir}/corpus/enwiki/AA_wiki_0*.txt", unit_bytes=300_000)
    source.units()
    results = [vocabulary_from_source(source, tmp_path / str(workers), 4096, workers=workers) for workers in (1, 2)]
    one, two = (sorted((path.name, path.read_bytes()) for path in (tmp_path / name).iterdir()) for name in "12")
    assert one == two
    assert results[0] == results[1]
    documents = [text for unit in source.units() for text in unit_texts(unit)]
    random.Random(0).shuffle(documents)
    assert dict(one)["vocab.txt"].decode().splitlines() == made(documents, tmp_path / "shuffled", size=4096)


@pytest.mark.ci
def test_fewer_pieces_per_word_than_the_official_vocabulary_of_equal_size(data_dir: Path, tmp_path: Path) -> None:
    official = str(data_dir / "vocab" / "bert_base_uncased.txt")
    summary = vocabulary_from_source(open_source(data_dir / "corpus" / "enwiki"), tmp_path / "t", compare=[official])
    theirs = summary["compared"][official]
    assert summary["held_out_words"] > 100_000
    assert summary["pieces_per_word"] < theirs["pieces_per_word"]
    assert summary["unknown_rate"] < 0.0005


def test_summary(texts: list[str], tmp_path: Path) -> None:
    other = {"letters": ["[UNK]", *map(chr, range(33, 127)), *(f"##{chr(code)}" for code in range(33, 127))]}
    lines = [line for text in texts for line in text.split("\n")]
    summary = make_vocabulary(lines, 2048, out=tmp_path / "t", compare=other)
    assert summary["documents"] == len(lines)
    assert summary["bytes"] == sum(len(line.encode()) for line in lines)
    assert 1.0 < summary["pieces_per_word"] < summary["compared"]["letters"]["pieces_per_word"]
    assert summary["held_out_words"] > 0
    assert summary["unknown_rate"] < 0.01


def test_too_small_a_text_says_what_is_possible(tmp_path: Path) -> None:
    text = ["the cat sat on the mat " * 3]
    with pytest.raises(BertJaxError, match=r"at most (\d+) entries are possible") as caught:
        make_vocabulary(text, 5000, out=tmp_path / "t")
    possible = int(str(caught.value).split("at most ")[1].split()[0])
    assert not list(tmp_path.iterdir())
    with pytest.raises(BertJaxError, match="too small"):
        make_vocabulary(text, 100, out=tmp_path / "t")
    small = int(_possible(text, tmp_path, 100))
    assert len(made(text, tmp_path / "t", size=small)) == small < possible
    with pytest.raises(BertJaxError, match="no room"):
        make_vocabulary(text, 10, out=tmp_path / "u")
    with pytest.raises(BertJaxError, match="holds no words"):
        make_vocabulary([], out=tmp_path / "u")
    with pytest.raises(BertJaxError, match="exists and is not empty"):
        make_vocabulary(text, small, out=tmp_path / "t")


def _possible(texts: list[str], folder: Path, size: int) -> str:
    with pytest.raises(BertJaxError) as caught:
        make_vocabulary(texts, size, out=folder / "t")
    return str(caught.value).split("at most ")[1].split()[0]


def test_sentencepiece(texts: list[str], tmp_path: Path) -> None:
    few = texts[:12]
    summary = make_vocabulary(few, 1000, "sentencepiece", out=tmp_path / "a")
    make_vocabulary(few, 1000, "sentencepiece", out=tmp_path / "b")
    assert (tmp_path / "a" / "spiece.model").read_bytes() == (tmp_path / "b" / "spiece.model").read_bytes()
    tokenizer = load_tokenizer(tmp_path / "a")
    assert (tokenizer.kind, tokenizer.vocab_size) == ("sentencepiece", 1000)
    assert tokenizer.pieces(range(5)) == ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id) == (
        0,
        1,
        2,
        3,
        4,
    )
    assert tokenizer.decode(tokenizer.ids("The history of the world")) == "the history of the world"
    assert summary["pieces_per_word"] is None  # its pieces cross the words that others are compared by
    with pytest.raises(BertJaxError, match=r"too small for a vocabulary of 90,000: at most [\d,]+ entries"):
        make_vocabulary(few[:2], 90_000, "sentencepiece", out=tmp_path / "c")


def test_words_by_count_then_text(tmp_path: Path) -> None:
    texts = ["17 9 17 [MASK]", "9 17 4 5 5 A", "4"]
    summary = make_vocabulary(texts, 100, "words", cased=True, out=tmp_path / "a", min_count=2)
    entries = read_vocabulary(tmp_path / "a" / "vocab.txt")
    assert entries == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "17", "4", "5", "9"]
    assert summary["size"] == 9
    assert load_tokenizer(tmp_path / "a").ids("17 9 8") == [5, 8, 1]
    assert made(texts, tmp_path / "b", size=7, kind="words", cased=True)[5:] == ["17", "4"]
    with pytest.raises(BertJaxError, match="no word stands 9 times"):
        make_vocabulary(texts, 100, "words", cased=True, out=tmp_path / "c", min_count=9)


def test_counts_are_those_of_the_tokenizer() -> None:
    text = "Don't stop, Café! don't STOP 中文字 end. x\x7fy (a) _b_ ..."
    counts = count_words([text] * 2, "wordpiece", False, hold_out=False)
    from bert_jax.text.normalise import WordSplitter

    words = WordSplitter(True, True)(text)
    assert counts.words == {word: 2 * words.count(word) for word in words}
    assert count_words([text], "wordpiece", True, hold_out=False).words["Café"] == 1
    assert count_words([text], "words", True).words["Don't"] == 1


def test_chinese_is_counted_by_character() -> None:
    counts = count_words(["中文中文字，好的。" * 3], "wordpiece", False, hold_out=False)
    assert counts.words == {"中": 6, "文": 6, "字": 3, "，": 3, "好": 3, "的": 3, "。": 3}


def test_memory_is_bounded_by_dropping_the_rarest(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"a": 5, "b": 1, "c": 2, "d": 1, "e": 9}
    drop_rare(counts, 4)
    assert counts == {"a": 5, "e": 9}
    monkeypatch.setattr(word_counts, "MAX_TYPES", 100)
    monkeypatch.setattr(word_counts, "_BUFFER_CHARACTERS", 50)
    many = [f"common rare{number}" for number in range(1000)]
    words = count_words(many, "wordpiece", False, hold_out=False).words
    assert words["common"] == 1000
    assert len(words) <= 100
