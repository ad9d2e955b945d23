"""Reports: known tables of hand-made predictions in every form; texts of all sorts, shown as they are."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt  # comes with rich

from bert_jax.tasks.report import FINDINGS, Trained, find, report_text, write_report
from bert_jax.tasks.report_parts import Bars, Findings, Matrix, Scatter, around, by_length, cut, escaped
from bert_jax.tasks.table import FORMS, TASKS
from bert_jax.tasks.task import (
    ChoiceExample,
    Prediction,
    Question,
    RelationExample,
    SimilarExample,
    SpanExample,
    TaggedExample,
    TextExample,
)


def trained(name: str, **result: Any) -> Trained:
    best = {"member": "seed-0", "step": 12, TASKS[name].score: 0.5, "majority": 0.4, "degenerate": None}
    found = {"best": best | result.pop("best", {})} | result
    return Trained(TASKS[name], "some/model", {"train": "9 examples, train.tsv"}, {"batch": 8}, found)


def findings(name: str, predictions: Sequence[Prediction], examples: Sequence[Any], **best: Any) -> Findings:
    return find(trained(name, best=best), predictions, examples)


def rows(found: Findings, title: str) -> list[tuple[Any, ...]]:
    (table,) = [table for table in found.tables if table.title == title]
    assert all(len(row) == len(table.columns) for row in table.rows)
    return [tuple(row) for row in table.rows]


def label(name: str, share: float, **others: float) -> Prediction:
    return {"label": name, "probabilities": {name: share, **others}}


def rendered(text: str) -> list[list[list[str]]]:
    """Tables → rows → the text that a reader sees in each cell."""
    tables: list[list[list[str]]] = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type == "inline" and tables and token.level > 3:
            assert token.children is not None
            assert all(child.type in ("text", "text_special") for child in token.children), token.content
            tables[-1][-1].append("".join(child.content for child in token.children))
    return tables


# --- labels, numbers, choices, vectors --------------------------------------------------------------------------------

TEXTS = [TextExample(a=f"text {i}", label=one, place=f"/d/dev.tsv, line {i}") for i, one in enumerate("xxxyz")]
LABELS = [label("x", 0.9), label("y", 0.6), label("y", 0.8), label("y", 0.7), label("x", 0.99)]


def test_labels() -> None:
    found = findings("classification", LABELS, TEXTS)
    assert rows(found, "Confusion") == [("x", 1, 2, 0), ("y", 0, 1, 0), ("z", 1, 0, 0)]
    assert rows(found, "Each label") == [
        ("x", 3, 1 / 2, 1 / 3, 2 / 5),
        ("y", 1, 1 / 3, 1.0, 1 / 2),
        ("z", 1, None, 0.0, 0.0),
    ]
    assert [(one.text, one.right, one.predicted, one.share) for one in found.mistakes] == [
        ("text 4", "z", "x", 0.99),
        ("text 2", "x", "y", 0.8),
        ("text 1", "x", "y", 0.6),
    ]
    assert found.picture == Matrix(("x", "y", "z"), [[1, 2, 0], [0, 1, 0], [1, 0, 0]])


def test_of_many_labels_the_most_confused() -> None:
    examples = [TextExample(a="t", label=str(i % 20)) for i in range(60)]
    predictions = [label("7" if i % 20 in (3, 5) and i != 5 else str(i % 20), 0.5) for i in range(60)]
    found = findings("classification", predictions, examples)
    assert rows(found, "Most confused labels") == [("3", "7", 3, 1.0), ("5", "7", 2, 2 / 3)]
    assert len(rows(found, "Each label")) == 20
    assert found.picture == Matrix(("3", "5", "7"), [[0, 0, 3], [0, 1, 2], [0, 0, 3]], 20)


def test_relations_mark_their_entities() -> None:
    examples = [RelationExample(text="The burst was caused by pressure.", first=(4, 9), second=(24, 32), label="R")]
    found = findings("relation", [label("S", 0.7) | {"probability": 0.7}], examples)
    assert found.mistakes[0].text == "The «burst» was caused by «pressure»."


def test_sets_of_labels() -> None:
    examples = [TextExample(a="t", label=("p", "q")), TextExample(a="u", label=("q",)), TextExample(a="v", label=())]
    shares = {"p": 0.9, "q": 0.1, "r": 0.8}
    predictions = [{"labels": one, "probabilities": shares} for one in (["p", "r"], ["q"], [])]
    found = findings("multi_label", predictions, examples)
    assert rows(found, "Each label") == [
        ("p", 1, 0, 0, 1.0, 1.0, 1.0),
        ("q", 2, 1, 0, 1.0, 0.5, 2 / 3),
        ("r", 0, 0, 1, 0.0, None, 0.0),
    ]
    assert rows(found, "One label instead of another") == [("q", "r", 1)]
    (worst,) = found.mistakes
    assert (worst.right, worst.predicted, worst.share) == ("p, q", "p, r", pytest.approx(0.9))


def test_numbers() -> None:
    examples = [TextExample(a=f"t{value}", b="other", label=value) for value in (0.0, 1.0, 4.5, 5.0)]
    found = findings("stsb", [{"score": value} for value in (1.0, 1.0, 4.0, 3.0)], examples)
    assert rows(found, "Error by range") == [
        ("0 to 1", 1, 1.0, 1.0),
        ("1 to 2", 1, 0.0, 0.0),
        ("2 to 3", 0, None, None),
        ("3 to 4", 0, None, None),
        ("4 to 5", 2, -1.25, 1.25),
    ]
    assert [one.share for one in found.mistakes] == [-2.0, 1.0, -0.5]
    assert found.mistakes[0].text == "t5.0 ⁄ other"
    assert found.picture == Scatter([0.0, 1.0, 4.5, 5.0], [1.0, 1.0, 4.0, 3.0], "score")


def test_choices() -> None:
    examples = [
        ChoiceExample(context="c", choices=("p", "q"), label=0),
        ChoiceExample(context="c", choices=("p", "q", "r", "s"), label=3, question="Why"),
        ChoiceExample(context="c", choices=("p", "q", "r", "s"), label=0),
        ChoiceExample(context="c", choices=("p", "q")),  # of unknown answer: it takes no part
    ]
    predictions = [{"choice": 0, "text": "p", "probabilities": [0.7, 0.1, 0.1, 0.1]}] * 4
    found = findings("swag", predictions, examples)
    assert rows(found, "By number of choices") == [(2, 1, 1.0, 0.5), (4, 2, 0.5, 0.25)]
    assert rows(found, "By place of the right choice") == [(0, 2, 3, 1.0), (3, 1, 0, 0.0)]
    (worst,) = found.mistakes
    assert (worst.text, worst.right, worst.predicted, worst.share) == ("c Why", "s", "p", 0.7)


def test_ranks() -> None:
    vectors = [((1, 0), (1, 0)), ((0, 1), (0, 1)), ((1, 0.1), (-1, 0))]
    predictions = [{"similarity": 0.0, "vectors": np.array(pair, np.float32)} for pair in vectors]
    examples = [SimilarExample(texts=(f"first {i}", f"second {i}")) for i in range(3)]
    found = findings("retrieval", predictions, examples)
    assert rows(found, "Ranks")[:3] == [("1", 2, 2 / 3), ("2", 0, 0.0), ("3", 1, 1 / 3)]
    (worst,) = found.mistakes
    assert worst.right == "second 2" and worst.predicted == "second 0 (the right one is number 3)"
    assert worst.share == pytest.approx(1 / math.hypot(1, 0.1))


def test_similarity_with_scores() -> None:
    examples = [SimilarExample(texts=("a", "b"), score=value) for value in (0.0, 1.0)]
    found = findings("similarity", [{"similarity": 0.5, "vectors": np.ones((2, 2))}] * 2, examples)
    assert found.picture == Scatter([0.0, 1.0], [0.5, 0.5], "cosine")
    assert [one.share for one in found.mistakes] == [0.5, -0.5]


# --- entities and answers ---------------------------------------------------------------------------------------------


def entity(kind: str, text: str, probability: float) -> dict[str, Any]:
    return {"kind": kind, "first": 0, "past": 1, "text": text, "probability": probability}


def test_entities() -> None:
    examples = [
        TaggedExample(words=("Ann", "saw", "New", "York"), tags=("B-PER", "O", "B-LOC", "I-LOC"), place="1"),
        TaggedExample(words=("Bob", "sat"), tags=("B-PER", "O"), place="2"),
        TaggedExample(words=("It", "sat"), tags=("O", "O"), place="3"),
    ]
    predictions = [
        {"tags": ["B-PER", "O", "O", "B-LOC"], "entities": [entity("PER", "Ann", 0.9), entity("LOC", "York", 0.8)]},
        {"tags": ["B-LOC", "O"], "entities": [entity("LOC", "Bob", 0.6)]},
        {"tags": ["O", "O"], "entities": []},
    ]
    found = findings("ner", predictions, examples)
    assert rows(found, "Each kind of entity") == [
        ("LOC", 1, 1, 2, 0.0, 0.0, 0.0),
        ("PER", 2, 1, 0, 1.0, 0.5, 2 / 3),
    ]
    assert rows(found, "What was found instead of the missed ones") == [("LOC", 1, 0, 0), ("PER", 0, 1, 0)]
    assert rows(found, "Missed most often") == [("LOC", "New York", 1), ("PER", "Bob", 1)]
    assert rows(found, "Spurious most often") == [("LOC", "Bob", 1), ("LOC", "York", 1)]
    assert [(one.place, one.share) for one in found.mistakes] == [("2", 0.6), ("1", 0.8)]
    assert found.mistakes[1].text == "«Ann» saw «New York»"
    assert found.mistakes[1].right == "PER: Ann; LOC: New York"


def test_spans_that_overlap() -> None:
    examples = [SpanExample(text="aspirin pill", spans=((0, 7, "drug"), (0, 12, "dose")))]
    spans = [{"kind": "drug", "first": 0, "past": 7, "text": "aspirin", "probability": 0.9}]
    found = findings("spans", [{"spans": spans}], examples)
    assert rows(found, "Each kind of span") == [("dose", 1, 1, 0, None, 0.0, 0.0), ("drug", 1, 0, 0, 1.0, 1.0, 1.0)]
    assert rows(found, "What was found instead of the missed ones") == [("dose", 0, 1, 0)]
    assert found.mistakes[0].predicted == "drug: aspirin" and found.mistakes[0].share is None


def answer(text: str, odds: float, start: int | None = 0) -> Prediction:
    return {"answer": text, "start": start, "end": None if start is None else start + len(text), "probability": 0.6,
            "no_answer_odds": odds, "n_best": []}  # fmt: skip


QUESTIONS = [
    Question(question="who?", context="red fox ran", answers=(("red fox", 0), ("fox", 4))),
    Question(question="where did it?", context="red fox ran", answers=(("ran", 8),)),
    Question(question="when?", context="red fox ran", answers=(), impossible=True),
    Question(question="why?", context="red fox ran", answers=(), impossible=True),
]
ANSWERS = [answer("red", -5.0), answer("ran", 2.0, 8), answer("fox", 3.0, 4), answer("ran", -4.0, 8)]


def test_answers_and_none() -> None:
    found = findings("squad2", ANSWERS, QUESTIONS, no_answer_threshold=0.0)
    f1 = 100 * 2 / 3
    assert rows(found, "Answer or none") == [
        ("with an answer", 2, 1, 1, pytest.approx(f1 / 2)),
        ("without an answer", 2, 1, 1, 50.0),
    ]
    assert rows(found, "By length of the answer") == [("1", 2, 0.0, pytest.approx(f1 / 2))]
    assert rows(found, "By length of the question") == [("1", 3, pytest.approx(100 / 3), pytest.approx((f1 + 100) / 3)),
                                                        ("3", 1, 0.0, 0.0)]  # fmt: skip
    assert [(one.right, one.predicted, one.share) for one in found.mistakes] == [
        ("no answer", "ran", 0.6),
        ("ran", "no answer", None),
        ("red fox ⁄ fox", "red", 0.6),
    ]
    assert found.mistakes[0].text == "why? — red fox «ran»"


def test_answers_are_marked_as_the_task_marks_them() -> None:
    examples = [Question(question="谁？", context="战国无双", answers=(("战国无双", 0),))]
    found = findings("cmrc", [answer("国无", 0.0, 1)], examples)
    assert rows(found, "By length of the answer") == [("4", 1, 0.0, pytest.approx(100 * 2 / 3))]
    found = findings("squad1", ANSWERS[:2], QUESTIONS[:2])
    assert rows(found, "By length of the answer") == [("1", 2, 50.0, pytest.approx((100 * 2 / 3 + 100) / 2))]


# --- the page ---------------------------------------------------------------------------------------------------------

ODD = [
    "a|b\\|c",
    "*bold* _it_ `code` ~~x~~ $y$",
    "<b>&lt;&amp;</b> [x](http://y)",
    "# head",
    "two\n\nlines\r\n\t|",
    "x_y_z",
]


def test_every_form_has_its_findings_and_none_of_nothing() -> None:
    assert set(FINDINGS) | {"question_answering"} == set(FORMS)
    for name in TASKS:
        found = findings(name, [], [])
        assert found.tables == [] and "Nothing to show." in report_text(trained(name), found, picture=False)


@pytest.mark.parametrize("text", ODD)
def test_texts_are_shown_as_they_are(text: str) -> None:
    page = report_text(trained("classification"), findings("classification", [label(text, 0.9)], TEXTS[:1]), False)
    last = rendered(page)[-1]
    assert last[1][3] == " ".join(text.split()) and all(len(row) == 6 for row in last)
    assert len(last) == 2


def test_what_cannot_be_printed_is_replaced() -> None:
    assert escaped("a\x00b\x1b[31m\ud800\u202ec") == "a\ufffdb\ufffd\\[31m\ufffd\ufffdc"
    assert escaped("क्\u200dष") == "क्\u200dष"


def test_long_texts_are_cut_to_a_line() -> None:
    example = [TextExample(a="word " * 100_000, b="字" * 100_000, label="x")]
    found = findings("classification", [label("y" * 10_000, 0.9)], example)
    page = report_text(trained("classification"), found, False)
    assert max(map(len, page.splitlines())) < 1200
    (mistake,) = rendered(page)[-1][1:]
    assert len(mistake[1]) < 200 and len(mistake[3]) <= 160
    assert cut("字" * 50, 10) == "字" * 8 + " …"
    text = "x " * 1000 + "here" + " y" * 1000
    assert "«here»" in around(text, [(2000, 2004)]) and len(around(text, [(2000, 2004)])) < 200


def test_what_is_marked_is_shown_however_far_or_long() -> None:
    assert around("one two three", [(4, 7)]) == "one «two» three"
    assert around("one two three", [(4, 7), (4, 13), (8, 13)]) == "one «two» «three»"
    assert around("ab cd ef gh ij kl mn", [(12, 14)], 10) == "… gh «ij» kl mn"
    assert around("x " * 200, [(0, 399)], 20).startswith("«x x x x x x x x x …»")
    assert around("nothing here", []) == "nothing here" and around("", []) == ""


def test_members_and_the_degenerate_among_them() -> None:
    members = {
        "seed-0": {"step": 8, "accuracy": 0.5, "macro_f1": None, "degenerate": "the same prediction | for all"},
        "seed-1": {"step": 9, "accuracy": 0.9, "macro_f1": 0.9, "degenerate": None},
        "seed-2": {"step": 7, "accuracy": 0.8, "macro_f1": 0.8, "degenerate": None},
    }
    told = trained("classification", members=members, best={"member": "seed-1", "macro_f1": 0.9}, test_accuracy=None)
    page = report_text(told, Findings(), picture=True)
    scores, table = rendered(page)
    assert scores == [["score", "dev", "test"], ["accuracy", "0.5000", "–"], ["macro_f1", "0.9000", "–"]]
    assert table[1] == ["seed-0", "8", "0.5000", "–", "degenerate: the same prediction | for all"]
    assert [row[-1] for row in table[2:]] == ["best", ""]
    assert "0.7333 ± 0.2082 of 3 runs." in page and "Without the degenerate: 0.8500 ± 0.0707 of 2 runs." in page
    assert "![picture of the predictions](report.png)" in page


def test_a_degenerate_best_and_no_best_at_all() -> None:
    page = report_text(trained("classification", best={"degenerate": "all the same"}), Findings(), False)
    assert "**Degenerate**: all the same." in page
    page = report_text(Trained(TASKS["classification"], "m", {}, {}, {}), Findings(), False)
    assert "No model was kept" in page


def test_scores_that_are_not_finite_come_first_and_break_nothing() -> None:
    examples = [TextExample(a=str(i), label=float(i)) for i in range(3)]
    found = findings("stsb", [{"score": value} for value in (0.5, math.nan, math.inf)], examples)
    page = report_text(trained("stsb", best={"spearman": None}), found, False)
    assert {one.text for one in found.mistakes[:2]} == {"1", "2"}
    assert "| spearman | – |" in page and "nan |" in page


def test_one_class_and_one_example() -> None:
    found = findings("classification", LABELS[:1], TEXTS[:1])
    assert rows(found, "Confusion") == [("x", 1)] and found.mistakes == []
    assert "None." in report_text(trained("classification"), found, False)
    assert rows(findings("stsb", [{"score": 1.0}], [TextExample(a="t", label=2.0)]), "Error by range")[0][1] == 1


def test_groups_of_like_length() -> None:
    bars = by_length([1, 1, 1, 2, 9], [1.0, 0.0, 0.5, 1.0, 0.0], "characters", "F1", most=2)
    assert (bars.groups, bars.values, bars.counts) == (["1", "2–9"], [0.5, 0.5], [3, 2])
    assert by_length([], [], "characters", "F1").groups == []


# --- the picture ------------------------------------------------------------------------------------------------------

PICTURES = [
    Matrix(("a$x$", "b_" * 40, "字"), [[3, 0, 1], [0, 0, 0], [1, 2, 3]]),
    Scatter([0.0, 1.0], [0.1, math.nan], "score"),
    Scatter([], [], "score"),
    Bars(["1–2", "3"], [0.5, None], [3, 0], "characters", "F1"),
    Bars([], [], [], "characters", "F1"),
]


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: type(picture).__name__)
def test_pictures(picture: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from bert_jax.tasks.report_picture import write_picture

    assert write_picture(picture, "a $title$", tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_without_matplotlib_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with caplog.at_level("INFO"):
        write_report(tmp_path, trained("classification"), LABELS, TEXTS)
    assert "pip install 'bert-jax[plot]'" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]
    assert "report.png" not in (tmp_path / "report.md").read_text()


def test_both_files(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_report(tmp_path, trained("classification"), LABELS, TEXTS)
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", "report.png"}
    assert "| 1 | text 4 | z | x | 0.9900 | dev.tsv, line 4 |" in (tmp_path / "report.md").read_text()
