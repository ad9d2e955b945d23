"""Scores of Chinese answers follow the official script: segments, longest run, signs left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import TaskData
from bert_jax.tasks.chinese_answer_metric import chinese_scores, longest_run, run_f1, segments, without_signs
from bert_jax.tasks.squad import read_squad
from bert_jax.tasks.task import Question


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("《战国无双3》由 Omega-Force 开发", [*"战国无双3由", "omegaforce", *"开发"]),
        ("1,234.5米, U.S. (2–1)", ["1,234.5", "米", ",", "u.s.", "(", "2", "–", "1", ")"]),
        ("it's 'so'... don't!", ["it", "'s", "'", "so", "'", "...", "do", "n't", "!"]),
        ("", []),
    ],
)
def test_segments(text: str, expected: list[str]) -> None:
    assert segments(text) == expected


def test_runs_have_no_gaps() -> None:
    assert longest_run("abcde", "xbcyde") == 2
    assert longest_run("", "abc") == 0
    assert run_f1("战国无双", "战国时代无双") == pytest.approx(2 * (2 / 4) * (2 / 6) / (2 / 4 + 2 / 6))
    assert run_f1("猫", "狗") == 0


def example(*answers: str) -> Question:
    return Question(place="q", question="?", context="x", answers=tuple((answer, -1) for answer in answers))


def test_scores() -> None:
    examples = [example("任天堂游戏谜之村雨城", "村雨城"), example("1999年"), example("光荣和ω-force")]
    given = [{"answer": "《村雨城》"}, {"answer": None}, {"answer": "光荣"}]
    scores = chinese_scores(given, examples)
    assert scores["exact"] == pytest.approx(100 / 3)
    assert scores["f1"] == pytest.approx(100 * (1 + 0 + 2 * (2 / 2) * (2 / 4) / 1.5) / 3)
    assert scores["average"] == pytest.approx((scores["exact"] + scores["f1"]) / 2)
    assert chinese_scores([], []) == {"exact": None, "f1": None, "average": None}
    with pytest.raises(BertJaxError, match="q has no answers to score against"):
        chinese_scores([{"answer": "x"}], [Question(place="q", question="?", context="x")])


@pytest.mark.parametrize("name", ["cmrc2018/cmrc2018_dev", "drcd/DRCD_dev", "drcd/DRCD_test"])
def test_right_answers_of_published_sets_are_right(data_dir: Path, name: str) -> None:
    examples = list(read_squad(str(data_dir / f"zh/{name}.json"), TaskData(on_error="skip")))
    right = [{"answer": one.answers[0][0]} for one in examples if one.answers]
    assert chinese_scores(right, examples) == {"exact": 100.0, "f1": 100.0, "average": 100.0}


def test_english_is_cut_as_nltk_does(data_dir: Path) -> None:
    nltk = pytest.importorskip("nltk.tokenize.destructive").NLTKWordTokenizer()
    examples = read_squad(str(data_dir / "zh/cmrc2018/cmrc2018_dev.json"), TaskData(on_error="skip"))
    texts = {text for one in examples for text in (one.context, *(answer for answer, _ in one.answers or ()))}
    for part in {part for text in texts for part in re.split("[\u4e00-\u9fa5]", without_signs(text))}:
        expected = [re.sub("``|''", '"', piece) for piece in nltk.tokenize(part)]
        assert [re.sub("''", '"', piece) for piece in segments(part)] == expected
