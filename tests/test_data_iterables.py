"""data.iterables: what a Python caller may give as a source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import bert_jax
from bert_jax.data.iterables import as_sources
from bert_jax.data.sources import open_sources
from bert_jax.errors import BertJaxError

SENTENCES = [["The cat sat.", "It slept."], ["A dog ran."]]


@pytest.mark.parametrize(
    "given", ["a.txt", Path("a.txt"), iter(["A text.", "Another."]), (text for text in ["A text."]), {"A text.": 1}]
)
def test_one_thing_is_one_source(given: Any) -> None:
    assert as_sources(given) == [given]


def test_a_list_holds_names_or_sources_or_documents_of_sentences() -> None:
    assert as_sources(["a.txt", Path("b")]) == ["a.txt", Path("b")]
    assert as_sources(SENTENCES) == [SENTENCES]
    assert as_sources(tuple(map(tuple, SENTENCES))) == [(("The cat sat.", "It slept."), ("A dog ran.",))]
    assert as_sources([SENTENCES, "a.txt"]) == [SENTENCES, "a.txt"]
    assert as_sources([SENTENCES]) == [SENTENCES]
    assert as_sources([]) == []


def test_documents_of_every_shape_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("From a file.\n")
    assert list(open_sources(SENTENCES)) == SENTENCES
    assert list(open_sources(iter(SENTENCES))) == SENTENCES
    assert list(open_sources(f"The cat {i}." for i in range(3))) == [["The cat 0."], ["The cat 1."], ["The cat 2."]]
    assert list(open_sources(tmp_path / "a.txt")) == [["From a file."]]
    assert list(open_sources([tmp_path / "a.txt", iter(["One text."])])) == [["From a file."], ["One text."]]


def test_texts_where_names_are_expected_say_how_to_give_documents() -> None:
    for given in ("One line.\nAnother.", ["One line.\nAnother.", "Two."]):
        with pytest.raises(BertJaxError, match=r"is a text, not a name: give documents as an iterator, iter\("):
            open_sources(given)
    with pytest.raises(
        BertJaxError, match=r"source The cat sat\.: no such file.*if it is a text: give documents as an"
    ):
        open_sources(["The cat sat.", "A dog ran."])
    with pytest.raises(BertJaxError, match="a source is a name or an iterable of documents, not int"):
        open_sources(3)  # type: ignore[arg-type]


def test_commands_take_iterables_and_paths(tmp_path: Path) -> None:
    def documents() -> Any:
        return (f"The cat {i} sat on the mat. It slept." for i in range(200))

    made = bert_jax.vocab(source=documents(), out=str(tmp_path / "v"), size=60, workers=1)
    assert made["documents"] == 200
    report = bert_jax.prepare(source=documents(), tokenizer=str(tmp_path / "v"), out=str(tmp_path / "s"), workers=1)
    assert (report["documents"], report["sentences"]) == (200, 400)
    (tmp_path / "p.txt").write_text("The cat sat.\n\nIt slept.\n")
    report = bert_jax.prepare(
        source=tmp_path / "p.txt", tokenizer=str(tmp_path / "v"), out=str(tmp_path / "t"), workers=1, eval_fraction=0
    )
    assert report["documents"] == 2
