"""Words in columns: every published spelling of tags, documents, numbered characters, errors with their line."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import TaskData
from bert_jax.tasks.conll import read_columns


def read(path: Path, content: str | bytes, **settings: object) -> list:
    file = path / "set.txt"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_columns(str(file), TaskData(**settings)))  # type: ignore[arg-type]


CONLL_2003 = """-DOCSTART- -X- -X- O

EU NNP B-NP I-ORG
rejects VBZ B-VP O
German JJ B-NP I-MISC

Peter NNP B-NP I-PER
Blackburn NNP I-NP I-PER

-DOCSTART- -X- O O

Bonn NNP I-NP I-LOC
Paris NNP I-NP B-LOC
"""


def test_conll_2003_as_published(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "bert_jax"):
        first, second, third = read(tmp_path, CONLL_2003)
    assert first.words == ("EU", "rejects", "German") and first.tags == ("B-ORG", "O", "B-MISC")
    assert second.tags == ("B-PER", "I-PER") and third.tags == ("B-LOC", "B-LOC")
    assert (first.document, second.document, third.document) == (0, 0, 1)
    assert first.sentences is second.sentences and first.sentences[second.number] == second.words
    assert third.sentences == ()
    assert first.place.endswith("set.txt, line 3") and third.place.endswith("line 12")
    assert "4 tags are written anew, as BIO (IOB2)" in caplog.text


def test_bom_tabs_line_ends_and_several_blank_lines(tmp_path: Path) -> None:
    (only, last) = read(tmp_path, b"\xef\xbb\xbfNew York\tB-LOC\r\nis\tO\r\n\r\n \t\r\n\r\nBonn\tB-LOC")
    assert only.words == ("New York", "is") and last.tags == ("B-LOC",)
    assert only.document != last.document  # without marks no sentence is the other's context


def test_bioes_stays_and_its_other_spellings(tmp_path: Path) -> None:
    (example,) = read(tmp_path, "a B-X\nb M-X\nc L-X\nd U-Y\ne O\nf B-Z\n")
    assert example.tags == ("B-X", "I-X", "E-X", "S-Y", "O", "S-Z")


def test_columns_that_are_chosen(tmp_path: Path) -> None:
    text = "1 O dog B-X x\n2 O cat O y\n"
    (example,) = read(tmp_path, text, text="2", label="-2")
    assert example.words == ("dog", "cat") and example.tags == ("B-X", "O")
    (example,) = read(tmp_path, "id\ttag\ttoken\n1\tB-X\tdog\n", header=True, text="token", label="tag")
    assert example.words == ("dog",) and example.tags == ("B-X",)


def test_words_alone_have_no_tags(tmp_path: Path) -> None:
    (example,) = read(tmp_path, "the\ndog\n")
    assert example.words == ("the", "dog") and example.tags is None


def test_numbers_of_characters_are_taken_off_only_where_all_words_have_them(tmp_path: Path) -> None:
    (example,) = read(tmp_path, "国0 B-X\n家1 I-X\n30 O\n91 O\n")
    assert example.words == ("国", "家", "3", "9")
    (example,) = read(tmp_path, "A4 B-X\n1999 O\n")
    assert example.words == ("A4", "1999")


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("dog NN O\ncat O\n", {}, r"set.txt, line 2 has 2 columns, the lines before it 3"),
        ("dog\n", {"label": "1"}, r"line 1 has 1 columns and no column 1 \(data.label\)"),
        ("dog NN LOC\n", {}, r"line 1: 'LOC' is no tag: expected O, or B, I, E or S"),
        ("dog O\n\ncat X-LOC\n", {}, r"line 3: 'X-LOC' is no tag"),
        ("\tO\n", {}, r"line 1 has no word"),
        ("dog O\n", {"label": "tag"}, r"line 1: no column 'tag' \(data.label\): without data.header"),
        ("a b\ndog O\n", {"label": "tag", "header": True}, r"line 2: no column 'tag' .* the header has a, b"),
        ("\n\n", {}, "holds no words"),
        (b"dog O\n\xff O\n", {}, r"line 2 is not UTF-8"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, text: str | bytes, settings: dict, message: str) -> None:
    with pytest.raises(BertJaxError, match=message):
        read(tmp_path, text, **settings)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(BertJaxError, match=r"no file .*none\*.txt"):
        list(read_columns(str(tmp_path / "none*.txt"), TaskData()))
    with pytest.raises(BertJaxError, match="is a directory: name its files"):
        list(read_columns(str(tmp_path), TaskData()))
    with pytest.raises(BertJaxError, match="tfds:conll2003:train: this task reads files"):
        list(read_columns("tfds:conll2003:train", TaskData()))


@pytest.mark.parametrize(
    ("part", "sentences", "words", "entities"),
    [("train", 1350, 73778, 1895), ("dev", 270, 14509, 389), ("test", 270, 14842, 418)],
)
def test_weibo_whole(data_dir: Path, part: str, sentences: int, words: int, entities: int) -> None:
    found = list(read_columns(str(data_dir / "zh" / "weibo_ner" / f"weiboNER_2nd_conll.{part}"), TaskData()))
    assert len(found) == sentences
    assert sum(len(example.words) for example in found) == words
    # 10 of train and 4 of test begin with I-, and count for conlleval too.
    assert sum(tag.startswith("B-") for example in found for tag in example.tags) == entities
    assert {len(word) for example in found for word in example.words} <= {1, 2}
    assert not any(example.sentences for example in found)
