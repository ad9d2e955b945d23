"""Questions are read as their sets publish them; what cannot be used is counted, named, and ends the reading or not."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import TaskData
from bert_jax.tasks.squad import nearest_place, read_squad
from bert_jax.tasks.task import Question

CONTEXT = "The cat sat on the mat. The dog ran."
SKIP = TaskData(on_error="skip")


def write(path: Path, qas: list[dict[str, Any]], context: str | None = CONTEXT) -> str:
    paragraph = {"qas": qas} if context is None else {"qas": qas, "context": context}
    path.write_text(json.dumps({"data": [{"title": "Pets", "paragraphs": [paragraph]}]}), "utf-8")
    return str(path)


def ask(name: str = "q1", text: str = "cat", start: int = 4, **more: Any) -> dict[str, Any]:
    return {"id": name, "question": "Who sat?", "answers": [{"text": text, "answer_start": start}], **more}


@pytest.mark.parametrize(
    ("name", "count", "impossible", "answers"),
    [
        ("squad/dev-v1.1.json", 10_570, 0, 34_726),
        ("squad/dev-v2.0.json", 11_873, 5_945, 20_302),
        ("squad/cs224n-dev-v2.0.json", 6_078, 3_168, None),
        ("zh/drcd/DRCD_dev.json", 3_524, 0, None),
        ("zh/drcd/DRCD_test.json", 3_493, 0, None),
    ],
)
def test_published_sets_are_read_whole(
    data_dir: Path, name: str, count: int, impossible: int, answers: int | None
) -> None:
    questions = list(read_squad(str(data_dir / name), TaskData()))
    assert (len(questions), sum(question.impossible for question in questions)) == (count, impossible)
    for question in questions:
        assert question.answers is not None and bool(question.answers) != question.impossible
        assert all(question.context.startswith(text, start) for text, start in question.answers)
    if answers is not None:
        assert sum(len(question.answers or ()) for question in questions) == answers


def test_answers_of_cmrc_that_are_not_at_their_offsets_stop_or_are_reported(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = str(data_dir / "zh/cmrc2018/cmrc2018_dev.json")
    with pytest.raises(BertJaxError, match="question DEV_6_QUERY_2: the answer .* at character -1 .* 200 answers"):
        list(read_squad(path, TaskData()))
    questions = list(read_squad(path, SKIP))
    assert len(questions) == 3_219
    assert "200 of 9657 answers" in caplog.text and "7 moved to the nearest place" in caplog.text
    starts = Counter(start < 0 for question in questions for _, start in question.answers or ())
    assert starts == {False: 9_464, True: 193}
    assert all(any(start >= 0 for _, start in question.answers or ()) for question in questions), "all can be learned"


def test_answers_of_cmrcs_trial_file_are_looked_for(data_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = str(data_dir / "zh/cmrc2018/cmrc2018_trial.json")
    with pytest.raises(BertJaxError, match="question TRIAL_776_QUERY_4 is empty"):
        list(read_squad(path, TaskData()))
    questions = list(read_squad(path, SKIP))
    assert len(questions) == 1_000 and "2 of 1002 questions left out" in caplog.text
    for question in questions:
        assert question.answers is not None
        assert all(question.context.find(text) == start for text, start in question.answers)


def test_fields(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [ask(), {"id": "q2", "question": "Why?"}, ask("q3", is_impossible=True)])
    place = f"{path}, question q1"
    first, asked, impossible = read_squad(path, TaskData())
    assert first == Question(place=place, id="q1", question="Who sat?", context=CONTEXT, answers=(("cat", 4),))
    assert asked.answers is None and not asked.impossible
    assert impossible.answers == () and impossible.impossible


def test_a_glob_is_read_in_order_and_ids_are_unique_over_its_files(tmp_path: Path) -> None:
    write(tmp_path / "b.json", [ask("q2")])
    write(tmp_path / "a.json", [ask("q1")])
    assert [question.id for question in read_squad(str(tmp_path / "*.json"), TaskData())] == ["q1", "q2"]
    write(tmp_path / "c.json", [ask("q1")])
    with pytest.raises(BertJaxError, match=r"c\.json, question q1 is there twice"):
        list(read_squad(str(tmp_path / "*.json"), TaskData()))


@pytest.mark.parametrize(
    ("entry", "context", "message"),
    [
        (ask(), None, "question q1 has no context"),
        (ask(), "  ", "question q1 has no context"),
        (ask(question=" "), CONTEXT, "question q1 is empty: expected the text of a question, got ' '"),
        (ask(question=None), CONTEXT, "question q1 is empty: .* got None"),
        (ask(is_impossible=False, answers=[]), CONTEXT, "has no answer and is not marked impossible"),
        (ask(text="bird"), CONTEXT, "q1: the answer 'bird' is not at character 4 of its context"),
        (ask(start=5), CONTEXT, "q1: the answer 'cat' is not at character 5 of its context"),
    ],
)
def test_what_cannot_be_used_stops_with_one_line(
    tmp_path: Path, entry: dict[str, Any], context: str | None, message: str
) -> None:
    path = write(tmp_path / "a.json", [entry], context)
    with pytest.raises(BertJaxError, match=message) as caught:
        list(read_squad(path, TaskData()))
    assert "--data.on-error skip" in str(caught.value) and "\n" not in str(caught.value)


def test_skipping_leaves_out_what_cannot_be_asked_and_moves_answers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    qas = [ask("q1", "The", 20), ask("q2", question=""), ask("q1"), ask("q3", "bird", 4)]
    moved, lost = read_squad(write(tmp_path / "a.json", qas), SKIP)
    assert moved.answers == (("The", 24),)
    assert lost.answers == (("bird", -1),), "kept for scoring"
    assert "2 of 4 questions left out" in caplog.text and "1 moved" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("{}", r"is no set of questions: expected SQuAD's"),
        ('{"data": [3]}', "entry 1 is '3': expected an object"),
        ('{"data": [{"paragraphs": [{"context": "x"}]}]}', "entry 1 has a paragraph without questions"),
        ('{"data": [{"paragraphs": 3}]}', "entry 1 has no list of paragraphs"),
        ('{"data": []}', "holds no question that can be used"),
        (
            '{"data": [{"context": "x", "qas": [{"id": 1, "question": "y", "answers": [{"text": "x"}, 5]}]}]}',
            'question 1 has the answer 5: expected {"text": …, "answer_start": number}',
        ),
    ],
)
def test_files_of_another_form(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, "utf-8")
    with pytest.raises(BertJaxError, match=message):
        list(read_squad(str(path), TaskData()))


@pytest.mark.parametrize(
    ("source", "message"), [("no.json", "no file at no.json"), ("tfds:squad:train", "reads files")]
)
def test_missing_files(source: str, message: str) -> None:
    with pytest.raises(BertJaxError, match=message):
        list(read_squad(source, TaskData()))


@pytest.mark.parametrize(
    ("text", "start", "place"),
    [("a", 0, 0), ("a", 4, 3), ("a", 5, 6), ("a", 99, 9), ("a", -1, 0), ("b", 0, -1), ("", 3, -1)],
)
def test_nearest_place(text: str, start: int, place: int) -> None:
    assert nearest_place("a..a..a..a", text, start) == place
