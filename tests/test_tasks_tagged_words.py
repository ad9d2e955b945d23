"""Tagged words in JSON: their forms, documents, and what cannot be used; columns by the same reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import TaskData
from bert_jax.tasks.table import TASKS
from bert_jax.tasks.tagged_words import read_tagged
from bert_jax.tasks.task import TaggedExample


def read(path: Path, *items: Any, **settings: Any) -> list[TaggedExample]:
    path.write_text("".join(f"{json.dumps(item)}\n" for item in items))
    return list(read_tagged(str(path), TaskData(**settings)))


def test_words_and_tags(tmp_path: Path) -> None:
    found = read(
        tmp_path / "a.jsonl",
        {"words": ["Ann", "sees", "New", "York"], "tags": ["B-PER", "O", "B-LOC", "I-LOC"]},
        {"id": "second", "tokens": ["Bonn"], "ner_tags": ["I-LOC"]},
        {"words": ["untagged"]},
    )
    assert [example.words for example in found] == [("Ann", "sees", "New", "York"), ("Bonn",), ("untagged",)]
    assert [example.tags for example in found] == [("B-PER", "O", "B-LOC", "I-LOC"), ("B-LOC",), None]
    assert [example.id for example in found] == ["1", "second", "3"]
    assert found[1].place == f"{tmp_path / 'a.jsonl'}, line 2"
    assert TASKS["ner"].read is read_tagged


def test_one_list_of_objects_and_other_fields(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"w": ["Ann"],\n "t": ["S-PER"]}, {"w": ["a"], "t": ["O"]}]')
    found = list(read_tagged(str(tmp_path / "a.json"), TaskData(text="w", label="t")))
    assert [example.tags for example in found] == [("S-PER",), ("O",)]


def test_sentences_of_a_document_are_neighbours(tmp_path: Path) -> None:
    items = [{"words": [word], "tags": ["O"], "document": name} for word, name in (("a", 1), ("b", 1), ("c", 2))]
    found = read(tmp_path / "a.jsonl", *items)
    assert [list(example.sentences) for example in found] == [[("a",), ("b",)], [("a",), ("b",)], []]
    assert [example.number for example in found] == [0, 1, 0]
    alone = read(tmp_path / "b.jsonl", {"words": ["a"], "tags": ["O"]}, {"words": ["b"], "tags": ["O"]})
    assert all(not example.sentences for example in alone)


def test_another_number_of_tags_than_words(tmp_path: Path) -> None:
    items = [{"words": ["a", "b"], "tags": ["O"]}, {"words": ["a"], "tags": ["B-X"]}]
    with pytest.raises(BertJaxError, match=r"line 1: 1 tags for 2 words.*1 of the 2 examples"):
        read(tmp_path / "a.jsonl", *items)
    assert len(read(tmp_path / "a.jsonl", *items, on_error="skip")) == 1


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"text": "a"}, r"line 1 has no list of words in words or tokens \(it has text\): expected {\"words\""),
        ({"words": []}, "line 1 has no list of words"),
        ({"words": "a b", "tags": ["O"]}, "line 1: words is a b: expected a list of texts"),
        ({"words": ["a", ""], "tags": ["O", "O"]}, "line 1: words is .* none of them empty"),
        ({"words": ["a"], "tags": [3]}, r"line 1: tags is \[3\]: expected a list of texts"),
        ({"words": ["a"], "tags": ["LOC"]}, "line 1: 'LOC' is no tag: expected O, or B, I, E or S"),
    ],
)
def test_bad_input(tmp_path: Path, item: dict[str, Any], message: str) -> None:
    with pytest.raises(BertJaxError, match=message):
        read(tmp_path / "a.jsonl", item)


def test_a_field_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(BertJaxError, match=r"line 1 has no field 'gold' \(data.label\)"):
        read(tmp_path / "a.jsonl", {"words": ["a"], "tags": ["O"]}, label="gold")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(BertJaxError, match="holds no sentence that can be used"):
        list(read_tagged(str(tmp_path / "empty.jsonl"), TaskData()))


def test_other_suffixes_are_columns(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("Ann\tB-PER\n\nBonn\tB-LOC\n")
    (tmp_path / "b.jsonl").write_text('{"words": ["a"], "tags": ["O"]}\n')
    found = list(read_tagged(str(tmp_path / "*"), TaskData()))
    assert [example.tags for example in found] == [("B-PER",), ("B-LOC",), ("O",)]
