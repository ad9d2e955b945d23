"""Multiple choice is read as SWAG, CODAH and JSON lines have it; what is wrong is named with file and line."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import TaskData
from bert_jax.tasks.choices import read_choices
from bert_jax.tasks.task import ChoiceExample

SWAG = (
    ",video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3,label\n"
    '0,v_1,7,"He sits, then. She","He sits, then.",She,gold,runs.,"sings, ""loud"".",sleeps.,eats.,2\n'
)


def test_codah(data_dir: Path) -> None:
    train, test = (list(read_choices(str(data_dir / f"choice/{name}.tsv"), TaskData())) for name in ("train", "test"))
    assert (len(train), len(test)) == (1_665, 555)
    assert all(len(example.choices) == 4 for example in train + test)
    assert Counter(example.label for example in test) == {2: 169, 1: 142, 3: 130, 0: 114}
    assert test[0].context == "Suzy reached the exam centre on time. She"
    assert test[0].choices[2] == "met her friends at the gate." and test[0].label == 2
    assert train[6].place.endswith("train.tsv, line 7")


def test_swag(tmp_path: Path) -> None:
    path = tmp_path / "val.csv"
    path.write_text("\ufeff" + SWAG, "utf-8")
    (example,) = read_choices(str(path), TaskData())
    assert example == ChoiceExample(
        place=f"{path}, line 2",
        id="1",
        context="He sits, then.",
        question="She",
        choices=("runs.", 'sings, "loud".', "sleeps.", "eats."),
        label=2,
    )
    (example,) = read_choices(str(path), TaskData(text="startphrase", label="0"))
    assert (example.context, example.question, example.label) == ("He sits, then. She", "", 0)


def test_lines_of_json_with_any_number_of_choices(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"context": "x", "question": "why?", "choices": ["a", "b", "c"], "label": 2, "id": "q7"}\n\n'
        '{"context": "y", "choices": ["a", "b"]}\n',
        "utf-8",
    )
    first, second = read_choices(str(path), TaskData())
    assert (first.id, first.question, first.choices, first.label) == ("q7", "why?", ("a", "b", "c"), 2)
    assert (second.place, second.choices, second.label) == (f"{path}, line 3", ("a", "b"), None)


def test_endings_that_are_not_there_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("context\tchoice1\tchoice2\tchoice3\tlabel\nx\ta\tb\t\t1\ny\ta\tb\tc\t0\n", "utf-8")
    first, second = read_choices(str(path), TaskData(header=True))
    assert first.choices == ("a", "b") and second.choices == ("a", "b", "c")


LINE = '{"context": "x", "choices": ["a", "b"], "label": 0}\n'


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", LINE + '{"context": "x", "choices": ["a", "b"], "label": 2}', "line 2 has the label 2 and 2 choi"),
        ("a.jsonl", '{"context": "x", "choices": ["a", "b"], "label": -1}', "line 1 has the label -1 .* 0 to 1"),
        ("a.jsonl", '{"context": "x", "choices": ["a", "b"], "label": "A"}', "line 1 has the label 'A': expected the"),
        ("a.jsonl", '{"context": "x", "choices": ["a"]}', r"line 1 has 1 choice\(s\): expected at least two"),
        ("a.jsonl", '{"context": "x", "choices": ["a", ""]}', "line 1: choice 1 is empty"),
        ("a.jsonl", '{"context": "  ", "choices": ["a", "b"]}', "line 1: context is empty"),
        ("a.jsonl", '{"text": "x", "choices": ["a", "b"]}', "line 1 has no context or sent1 .*it has text, choices"),
        ("a.jsonl", '{"context": "x", "choices": "ab"}', "line 1: context, question and choices must be texts"),
        ("a.jsonl", "[1]", "line 1 holds .1.: expected"),
        ("a.jsonl", "{", "line 1 is not JSON"),
        ("a.jsonl", "", "holds no examples"),
        ("a.tsv", "o\tHe\ta\tb\tc\td\n", "line 1 has 6 columns: expected 7"),
        ("a.tsv", "o\tHe\ta\tb\tc\td\t4\n", "line 1 has the label 4 and 4 choices"),
        ("a.csv", "text,label\nx,1\n", "line 1 names the columns text, label: expected at least ending0"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text, "utf-8")
    with pytest.raises(BertJaxError, match=f"{name}.*{message}"):
        list(read_choices(str(path), TaskData()))


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(SWAG, "utf-8")
    for data, message in [(TaskData(label="gold"), "no column gold"), (TaskData(text="99"), "no 99")]:
        with pytest.raises(BertJaxError, match=f"line 2 has {message}"):
            list(read_choices(str(path), data))


def test_examples_that_cannot_be_used_can_be_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(LINE + LINE.replace("0", "5") + LINE, "utf-8")
    assert len(list(read_choices(str(path), TaskData(on_error="skip")))) == 2
    assert "1 of 3 examples" in caplog.text and "line 2 has the label 5" in caplog.text


def test_bytes_that_are_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(b"o\t\xff\n")
    with pytest.raises(BertJaxError, match="line 1 is not UTF-8 at byte 2"):
        list(read_choices(str(path), TaskData()))
