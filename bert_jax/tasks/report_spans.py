"""What reports say of entities and spans, and of answers to questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from bert_jax.tasks.chinese_answer_metric import chinese_scores, run_f1, segments, without_signs
from bert_jax.tasks.entities import entities_of
from bert_jax.tasks.report_parts import (
    LINE,
    Findings,
    Mistake,
    Table,
    around,
    bars_table,
    by_length,
    counted,
    cut,
    mean,
)
from bert_jax.tasks.squad_metric import Marks, marks_1, marks_2, with_threshold
from bert_jax.tasks.task import Metric, Prediction, Question, SpanExample, TaggedExample

Span = tuple[str, int, int]
"""(kind, first, past)"""
MOST = 15  # entities missed or made up most often


def tagging_findings(predictions: Sequence[Prediction], examples: Sequence[TaggedExample]) -> Findings:
    """Entities, by their words."""
    each = []
    for p, example in zip(predictions, examples, strict=True):
        said = [(entity.kind, entity.first, entity.past) for entity in entities_of(p["tags"])]
        shares = {span: one["probability"] for span, one in zip(said, p["entities"], strict=True)}
        true = {(entity.kind, entity.first, entity.past) for entity in entities_of(example.tags or ())}
        words = example.words
        texts = {span: " ".join(words[span[1] : span[2]]) for span in true | set(said)}
        starts = [0]
        for word in words:
            starts.append(starts[-1] + len(word) + 1)
        marks = [(starts[first], starts[past] - 1) for _, first, past in true]
        each.append((" ".join(words), marks, true, shares, texts, example.place))
    return _spans(each, "entity")


def pointer_findings(predictions: Sequence[Prediction], examples: Sequence[SpanExample]) -> Findings:
    """Spans, by their characters."""
    each = []
    for p, example in zip(predictions, examples, strict=True):
        shares = {(one["kind"], one["first"], one["past"]): one["probability"] for one in p["spans"]}
        true = {(kind, first, past) for first, past, kind in example.spans or ()}
        texts = {span: example.text[span[1] : span[2]] for span in true | set(shares)}
        marks = [(first, past) for _, first, past in true]
        each.append((example.text, marks, true, shares, texts, example.place))
    return _spans(each, "span")


def _spans(
    each: Sequence[tuple[str, list[tuple[int, int]], set[Span], Mapping[Span, float], Mapping[Span, str], str]],
    name: str,
) -> Findings:
    wanted: Counter[str] = Counter()
    found: Counter[str] = Counter()
    right: Counter[str] = Counter()
    how: dict[str, Counter[str]] = {}
    missed: Counter[tuple[str, str]] = Counter()
    spurious: Counter[tuple[str, str]] = Counter()
    marks, result = [], Findings()
    for text, places, true, shares, texts, place in each:
        said = set(shares)
        wanted.update(kind for kind, _, _ in true)
        found.update(kind for kind, _, _ in said)
        right.update(kind for kind, _, _ in true & said)
        for span in true - said:
            how.setdefault(span[0], Counter())[_how_missed(span, said)] += 1
            missed[span[0], texts[span]] += 1
        spurious.update((span[0], texts[span]) for span in said - true)
        mark = 2 * len(true & said) / (len(true) + len(said)) if true or said else 1.0
        marks.append(mark)
        if true != said:
            shown = ["; ".join(f"{span[0]}: {texts[span]}" for span in _in_order(some)) for some in (true, said)]
            share = max((shares[span] for span in said - true), default=None)
            badness = (1 - mark, float(len(true ^ said)), share or 0.0)
            result.mistakes.append(
                Mistake(badness, around(text, places), cut(shown[0]) or "none", cut(shown[1]) or "none", share, place)
            )
    kinds = sorted({*wanted, *found})
    rows: list[tuple[Any, ...]] = [counted(kind, right[kind], found[kind], wanted[kind]) for kind in kinds]
    columns = ("kind", "there", "missed", "spurious", "precision", "recall", "F1")
    result.tables.append(Table(f"Each kind of {name}", columns, rows))
    ways = ("other bounds", "other kind", "nothing there")
    rows = [(kind, *(how[kind][way] for way in ways)) for kind in kinds if kind in how]
    result.tables.append(Table("What was found instead of the missed ones", ("kind", *ways), rows))
    for title, counts in (("Missed most often", missed), ("Spurious most often", spurious)):
        most = sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:MOST]
        rows = [(kind, cut(text, LINE // 2), count) for (kind, text), count in most]
        result.tables.append(Table(title, ("kind", "text", "times"), rows))
    bars = by_length([len(one[0]) for one in each], marks, "characters", "F1 of an example, mean")
    result.tables.append(bars_table("By length of the text", bars))
    result.picture, result.share = bars, "probability of the surest wrong one"
    return result


def _in_order(spans: set[Span]) -> list[Span]:
    return sorted(spans, key=lambda span: (span[1], span[2], span[0]))


def _how_missed(span: Span, said: set[Span]) -> str:
    """What stands where a missed span is: the same words as another kind, the kind with other bounds, or neither."""
    kind, first, past = span
    touching = [other for other in said if other[1] < past and first < other[2]]
    if any(other[0] == kind for other in touching):
        return "other bounds"
    return "other kind" if touching else "nothing there"


# --- questions --------------------------------------------------------------------------------------------------------


def answer_findings(
    predictions: Sequence[Prediction], examples: Sequence[Question], metric: Metric, threshold: float | None
) -> Findings:
    """Scores by length of answer and question, questions without an answer, and the worst answers.

    `threshold`: no-answer odds above which nothing is answered, where the metric has tuned it on these examples.
    """
    chinese = metric is chinese_scores
    marks, said = _marks(predictions, examples, chinese, threshold)
    result = Findings()
    size = (lambda text: len(segments(text))) if chinese else (lambda text: len(text.split()))
    unit = "segments" if chinese else "words"
    lengths = [min((size(text) for text, _ in example.answers or ()), default=0) for example in examples]
    if any(example.impossible for example in examples):
        result.tables.append(_no_answers(said, examples, marks))
    asked = [size(example.question) for example in examples]
    known = [index for index, example in enumerate(examples) if not example.impossible]
    for title, across, kept, sizes in (
        ("By length of the answer", f"{unit} of the shortest right answer", known, lengths),
        ("By length of the question", f"{unit} of the question", range(len(examples)), asked),
    ):
        exact, f1 = (
            by_length([sizes[i] for i in kept], [100 * kind[i] for i in kept], across, name)
            for kind, name in ((marks.exact, "exact match"), (marks.f1, "F1"))
        )
        rows = list(zip(exact.groups, exact.counts, exact.values, f1.values, strict=True))
        result.tables.append(Table(title, (across, "questions", "exact match", "F1"), rows))
        result.picture = result.picture or f1
    for p, answer, example, mark in zip(predictions, said, examples, marks.f1, strict=True):
        if mark < 1:
            rights = list(dict.fromkeys(text for text, _ in example.answers or ()))
            right = " ⁄ ".join(rights) if rights and not example.impossible else "no answer"
            share = p.get("probability") if answer else None
            text = f"{cut(example.question, LINE // 2)} — {_passage(example, p if answer else {})}"
            badness = (1 - mark, share or 0.0)
            predicted = cut(answer) if answer else "no answer"
            result.mistakes.append(Mistake(badness, text, cut(right), predicted, share, example.place))
    return result


def _marks(
    predictions: Sequence[Prediction], examples: Sequence[Question], chinese: bool, threshold: float | None
) -> tuple[Marks, list[str]]:
    """Marks of each answer, and the answers, where none is given as ''."""
    answers = [str(prediction["answer"] or "") for prediction in predictions]
    if chinese:
        rights = [[text for text, _ in example.answers or ()] for example in examples]
        exact = [
            float(without_signs(answer) in map(without_signs, right))
            for answer, right in zip(answers, rights, strict=True)
        ]
        f1 = [max((run_f1(a, text) for text in right), default=0.0) for a, right in zip(answers, rights, strict=True)]
        return Marks(exact, f1), answers
    if not any(example.impossible for example in examples):
        return marks_1(answers, examples), answers
    marks = marks_2(answers, examples)
    if threshold is None or any(p.get("no_answer_threshold") is not None for p in predictions):
        return marks, answers
    odds = [p["no_answer_odds"] for p in predictions]
    known = [not example.impossible for example in examples]
    marks = Marks(*(with_threshold(kind, odds, known, threshold) for kind in marks))
    return marks, ["" if odd > threshold else answer for odd, answer in zip(odds, answers, strict=True)]


def _no_answers(said: Sequence[str], examples: Sequence[Question], marks: Marks) -> Table:
    rows = []
    for name, impossible in (("with an answer", False), ("without an answer", True)):
        own = [index for index, example in enumerate(examples) if example.impossible == impossible]
        silent = sum(not said[index] for index in own)
        f1 = mean([marks.f1[index] for index in own])
        rows.append((name, len(own), len(own) - silent, silent, None if f1 is None else 100 * f1))
    columns = ("questions", "there are", "answered", "left unanswered", "F1")
    return Table("Answer or none", columns, rows)


def _passage(example: Question, p: Mapping[str, Any]) -> str:
    """The context around the answer given, else around the right one."""
    start, end = p.get("start"), p.get("end")
    if start is None or end is None:
        text, start = next(((text, at) for text, at in example.answers or () if at >= 0), ("", 0))
        end = start + len(text)
    return around(example.context, [(start, end)] if end > start else [], LINE)
