"""Texts with two marked entities, in the three forms of files that hold them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import TaskData
from bert_jax.tasks.relation_files import SEMEVAL_LABELS, read_relations
from bert_jax.tasks.task import RelationExample


def read(path: Path, content: str, **settings: object) -> list[RelationExample]:
    file = path / "set"
    file.write_text(content, "utf-8")
    return list(read_relations(str(file), TaskData(**settings)))  # type: ignore[arg-type]


def entities(example: RelationExample) -> tuple[str, str]:
    return example.text[slice(*example.first)], example.text[slice(*example.second)]


SEMEVAL = """1\t"The <e1>author</e1> of a keygen uses a <e2>disassembler</e2>."
Instrument-Agency(e2,e1)
Comment: a comment, with <e1>

2\t"A <e2>misty</e2> "<e1>ridge</e1>" uprises."
Other
Comment:

"""


def test_the_published_form(tmp_path: Path) -> None:
    first, second = read(tmp_path, SEMEVAL)
    assert first.text == "The author of a keygen uses a disassembler."
    assert entities(first) == ("author", "disassembler") and first.label == "Instrument-Agency(e2,e1)"
    assert entities(second) == ("ridge", "misty") and second.text == 'A misty "ridge" uprises.'
    assert (first.id, second.id) == ("1", "2") and second.place.endswith("set, line 5")


def test_tables(tmp_path: Path) -> None:
    example = read(tmp_path, "Other\tThe <e1> big dog </e1> bit a <e2> man </e2> .\n")[0]
    assert example.text == "The big dog bit a man ." and entities(example) == ("big dog", "man")
    header = "id\tsentence\trel\n1\t<e1>a</e1> <e2>b</e2>\tX\n"
    example = read(tmp_path, header, header=True, text="sentence", label="rel")[0]
    assert entities(example) == ("a", "b") and example.label == "X"
    assert read(tmp_path, "<e1>a</e1> <e2>b</e2>\n")[0].label is None


def test_json_with_offsets_or_tags(tmp_path: Path) -> None:
    lines = [
        {"text": "smoke causes cancer", "first": [0, 5], "second": [13, 19], "label": "X", "id": "q"},
        {"text": "<e2>a</e2> <e1>b</e1>", "label": "Y"},
        {"text": "ab", "first": [0, 2], "second": [1, 2]},
    ]
    first, second, third = read(tmp_path, "\n".join(map(json.dumps, lines)))
    assert entities(first) == ("smoke", "cancer") and first.id == "q"
    assert entities(second) == ("b", "a") and entities(third) == ("ab", "b") and third.label is None
    assert len(read(tmp_path, json.dumps(lines, indent=1))) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Other\tno entity\n", r"set, line 1: 'no entity' does not mark two entities: expected <e1>…</e1> and"),
        ("X\t<e1>a</e1> <e2>b</e2> <e2>c</e2>", "line 1: .* does not mark two entities.*1 of the 1 examples"),
        ("X\t<e1></e1> <e2>b</e2>", r"line 1: an entity at characters 0 to 0 is empty"),
        ("X\t</e1>ab<e1> <e2>b</e2>", r"line 1: an entity at characters \d to 0 is empty"),
        ("X\t<e1>a</e1> <e2>b</e2>\n<e1>a</e1> <e2>b</e2>", "line 2 has 1 columns, the lines before it 2"),
        (" \t<e1>a</e1> <e2>b</e2>", "line 1 has no label"),
        ('{"text": "ab", "first": [0, 1]}', r"line 1: first and second are \[\[0, 1\], None\]: expected"),
        ('{"text": "ab", "first": [0, 1], "second": [1, 9]}', "line 1: an entity at characters 1 to 9"),
        ('{"first": [0, 1]}', "line 1 has no text in its field 'text'; it has first"),
        ('1\t"a"\n2\t"b"\n', r"""line 2 is '2\\t"b"': expected the label of line 1"""),
        (SEMEVAL + "broken\n", "line 9 is 'broken': expected a number, a tab and a text"),
        ("", "is empty: expected texts with two marked entities"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(BertJaxError, match=message):
        read(tmp_path, content)


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(BertJaxError, match=r"line 1: no column 'rel' \(data.label\): without data.header"):
        read(tmp_path, "X\t<e1>a</e1> <e2>b</e2>", label="rel")
    with pytest.raises(BertJaxError, match=r"line 1 has 2 columns and no column 4 \(data.text\)"):
        read(tmp_path, "X\t<e1>a</e1> <e2>b</e2>", text="4")


def test_unusable_examples_are_skipped_when_asked(tmp_path: Path) -> None:
    content = "X\tno entity\nY\t<e1>a</e1> <e2>b</e2>\n"
    assert [example.label for example in read(tmp_path, content, on_error="skip")] == ["Y"]


def test_semeval_whole(data_dir: Path) -> None:
    folder = data_dir / "relation"
    train = list(read_relations(str(folder / "train.tsv"), TaskData()))
    test = list(read_relations(str(folder / "test.tsv"), TaskData()))
    assert (len(train), len(test)) == (8000, 2717)
    assert {example.label for example in train} == set(SEMEVAL_LABELS)
    assert tuple((folder / "label.txt").read_text().split()) == SEMEVAL_LABELS
    keys = [line.split("\t")[1] for line in (folder / "answer_keys.txt").read_text().splitlines()]
    assert [example.label for example in test] == keys
    assert Counter(keys)["Other"] == 454
