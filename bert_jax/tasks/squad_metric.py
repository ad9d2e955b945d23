"""EM and F1 of answers, exactly as the official scripts: SQuAD's evaluate-v1.1.py and evaluate-v2.0.py.

Scores are percentages. The functions of texts take answers and right answers as plain strings; `squad_scores` is the
metric of the task. Sums are taken in the order of the examples, so that the last digit is the scripts' own.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bert_jax.errors import BertJaxError
from bert_jax.tasks.task import Prediction, Question, Scores

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Marks(NamedTuple):
    """What each answer is worth, 0 … 1: in the order of the questions."""

    exact: list[float]
    f1: list[float]


def normalise_answer(text: str) -> str:
    """Lower case, without ASCII punctuation and English articles, one blank between words.

    >>> normalise_answer("The  Eiffel-Tower, a landmark!")
    'eiffeltower landmark'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, right: str) -> float:
    """1 where both are equal once normalised, else 0."""
    return float(normalise_answer(answer) == normalise_answer(right))


def word_f1(answer: str, right: str) -> float:
    """F1 of the bags of normalised words; 0 where they share none."""
    given, wanted = normalise_answer(answer).split(), normalise_answer(right).split()
    shared = sum((Counter(given) & Counter(wanted)).values())
    return _f1(shared, len(given), len(wanted)) if shared else 0.0


def _f1(shared: int, given: int, wanted: int) -> float:
    precision, recall = shared / given, shared / wanted
    return 2 * precision * recall / (precision + recall)


def word_f1_or_none(answer: str, right: str) -> float:
    """As `word_f1`, but 1 where neither has a word: version 2.0's, in which no answer may be right."""
    if not normalise_answer(answer) or not normalise_answer(right):
        return float(normalise_answer(answer) == normalise_answer(right))
    return word_f1(answer, right)


def marks_1(answers: Sequence[str | None], examples: Sequence[Question]) -> Marks:
    """Marks as version 1.1 gives them: the best over the right answers; 0 where there is no answer (None)."""
    return _marks(answers, [_right(example) for example in examples], exact_match, word_f1)


def marks_2(answers: Sequence[str | None], examples: Sequence[Question]) -> Marks:
    """Marks as version 2.0 gives them: of impossible questions the empty answer is right."""
    right = [[text for text in _right(example) if normalise_answer(text)] or [""] for example in examples]
    return _marks(answers, right, exact_match, word_f1_or_none)


def _marks(
    answers: Sequence[str | None],
    right: Sequence[Sequence[str]],
    exact: Callable[[str, str], float],
    f1: Callable[[str, str], float],
) -> Marks:
    return Marks(*([_best(mark, *pair) for pair in zip(answers, right, strict=True)] for mark in (exact, f1)))


def _best(mark: Callable[[str, str], float], answer: str | None, right: Sequence[str]) -> float:
    return 0.0 if answer is None else max(mark(answer, text) for text in right)


def _right(example: Question) -> list[str]:
    """Texts of the right answers. Errors: `BertJaxError` where none are known."""
    if example.answers is None:
        raise BertJaxError(f"{example.place} has no answers to score against: expected a set with answers")
    return [text for text, _ in example.answers]


def percent(values: Sequence[float]) -> float | None:
    """100 · mean; None of nothing."""
    return 100.0 * sum(values) / len(values) if values else None


def with_threshold(
    marks: Sequence[float], odds: Sequence[float], has_answer: Sequence[bool], threshold: float
) -> list[float]:
    """Marks once questions whose no-answer odds are above `threshold` are left unanswered."""
    return [
        float(not known) if odd > threshold else mark for mark, odd, known in zip(marks, odds, has_answer, strict=True)
    ]


def best_threshold(
    marks: Sequence[float], answers: Sequence[str | None], odds: Sequence[float], has_answer: Sequence[bool]
) -> tuple[float, float]:
    """(greatest percentage, no-answer threshold that gives it), the lowest of equally good ones.

    As the script's find_best_thresh, from no question answered to all, in the order of their odds, with two mends: a
    threshold lies after questions of equal odds, never between them, and answering none is a number below all odds
    (the script says 0, right only where odds are probabilities).
    """
    if not marks:
        raise BertJaxError("no questions to choose a no-answer threshold by: expected some")
    order = sorted(range(len(odds)), key=odds.__getitem__)
    score: float = sum(not known for known in has_answer)
    best, threshold = score, math.nextafter(odds[order[0]], -math.inf)
    for place, index in enumerate(order):
        score += marks[index] if has_answer[index] else -1 if answers[index] else 0
        last = place + 1 == len(order) or odds[order[place + 1]] != odds[index]
        if last and score > best:
            best, threshold = score, odds[index]
    return 100.0 * best / len(marks), threshold


def squad_scores(predictions: Sequence[Prediction], examples: Sequence[Question]) -> Scores:
    """`exact` and `f1` of the task's predictions, as version 1.1 gives them.

    With impossible questions among the examples as version 2.0 does, where the predictions are best answers and their
    `no_answer_odds`: then `no_answer_threshold` is the one best for F1 on these very examples (the script's best_f1),
    `exact` and `f1` are at that threshold, `best_exact` at its own; `has_answer_exact`, `has_answer_f1` and
    `no_answer_accuracy` are of either kind of question. Predictions that hold the `no_answer_threshold` they were made
    with are scored as they are.
    """
    answers = [prediction["answer"] for prediction in predictions]
    if not any(example.impossible for example in examples):
        marks = marks_1(answers, examples)
        return {"exact": percent(marks.exact), "f1": percent(marks.f1)}
    known = [not example.impossible for example in examples]
    marks = marks_2(answers, examples)
    tuned: Scores = {}
    if not all(prediction.get("no_answer_threshold") is not None for prediction in predictions):
        odds = [prediction["no_answer_odds"] for prediction in predictions]
        best_exact, _ = best_threshold(marks.exact, answers, odds, known)
        _, threshold = best_threshold(marks.f1, answers, odds, known)
        marks = Marks(*(with_threshold(kind, odds, known, threshold) for kind in marks))
        tuned = {"best_exact": best_exact, "no_answer_threshold": threshold}
    return {**squad_2_scores(marks, known), **tuned}


def squad_2_scores(marks: Marks, has_answer: Sequence[bool]) -> Scores:
    """Version 2.0's percentages of `marks`: of all questions, of those with an answer and of those without."""
    kinds = [
        Marks(*([mark for mark, known in zip(kind, has_answer, strict=True) if known == wanted] for kind in marks))
        for wanted in (True, False)
    ]
    return {
        "exact": percent(marks.exact),
        "f1": percent(marks.f1),
        "has_answer_exact": percent(kinds[0].exact),
        "has_answer_f1": percent(kinds[0].f1),
        "no_answer_accuracy": percent(kinds[1].exact),
    }
