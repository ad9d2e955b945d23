"""What reports say of labels, sets of labels, numbers, choices and vectors."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bert_jax.tasks.classification import in_order
from bert_jax.tasks.report_parts import (
    LINE,
    Bars,
    Findings,
    Matrix,
    Mistake,
    Scatter,
    Table,
    around,
    bars_table,
    by_length,
    counted,
    cut,
    mean,
    plain,
    rates,
)
from bert_jax.tasks.similarity import ranks_of
from bert_jax.tasks.task import ChoiceExample, Prediction, RelationExample, SimilarExample, TextExample

MOST_CLASSES = 15  # of which all are set against all
PAIRS = 20
_RANKS = ((1, 1), (2, 2), (3, 3), (4, 5), (6, 10), (11, 100), (101, None))


def text_of(example: TextExample | RelationExample) -> str:
    """The text on a line, both sides of a pair; a relation's entities in «marks»."""
    if isinstance(example, RelationExample):
        return around(example.text, (example.first, example.second))
    if example.b is None:
        return cut(example.a)
    return f"{cut(example.a, LINE // 2)} ⁄ {cut(example.b, LINE // 2)}"


def length_of(example: TextExample | RelationExample) -> int:
    """Characters of all its text."""
    return len(example.text) if isinstance(example, RelationExample) else len(example.a) + len(example.b or "")


def label_findings(predictions: Sequence[Prediction], examples: Sequence[TextExample | RelationExample]) -> Findings:
    """One label of several: the confusion table, each label's scores, and the most confident mistakes."""
    pairs = [(str(example.label), str(p["label"])) for p, example in zip(predictions, examples, strict=True)]
    confused = Counter(pairs)
    labels = in_order({label for pair in pairs for label in pair})
    wanted, found = Counter(true for true, _ in pairs), Counter(said for _, said in pairs)
    found_in = Findings(tables=[_confusion(confused, labels, wanted), _each_label(confused, labels, wanted, found)])
    for (true, said), p, example in zip(pairs, predictions, examples, strict=True):
        if true != said:
            share = p.get("probabilities", {}).get(said)
            found_in.mistakes.append(Mistake((share or 0.0,), text_of(example), true, said, share, example.place))
    if len(labels) <= MOST_CLASSES:
        found_in.picture = Matrix(labels, [[confused[true, said] for said in labels] for true in labels])
    else:  # the labels that take part in most mistakes
        busy = Counter(label for (true, said), n in confused.items() if true != said for label in (true, said) * n)
        most = in_order(label for label, _ in busy.most_common(MOST_CLASSES))
        found_in.picture = Matrix(most, [[confused[true, said] for said in most] for true in most], len(labels))
    return found_in


def _confusion(confused: Mapping[tuple[str, str], int], labels: Sequence[str], wanted: Mapping[str, int]) -> Table:
    if len(labels) <= MOST_CLASSES:
        rows: list[tuple[Any, ...]] = [(true, *(confused.get((true, said), 0) for said in labels)) for true in labels]
        return Table("Confusion", ("true ╲ predicted", *labels), rows)
    worst = sorted(((n, pair) for pair, n in confused.items() if pair[0] != pair[1]), key=lambda one: (-one[0], one[1]))
    rows = [(true, said, n, n / wanted[true]) for n, (true, said) in worst[:PAIRS]]
    columns = ("true", "predicted", "examples", "share of the true label")
    return Table("Most confused labels", columns, rows, f"The {len(rows)} commonest of {len(worst)} kinds of mistake.")


def _each_label(
    confused: Mapping[tuple[str, str], int], labels: Sequence[str], wanted: Mapping[str, int], found: Mapping[str, int]
) -> Table:
    rows = [
        (
            label,
            wanted.get(label, 0),
            *rates(confused.get((label, label), 0), found.get(label, 0), wanted.get(label, 0)),
        )
        for label in labels
    ]
    return Table("Each label", ("label", "examples", "precision", "recall", "F1"), rows)


def label_set_findings(predictions: Sequence[Prediction], examples: Sequence[TextExample]) -> Findings:
    """Any number of labels: each label's scores, which stand for which, and the sets that are least alike."""
    wanted: Counter[str] = Counter()
    found: Counter[str] = Counter()
    right: Counter[str] = Counter()
    instead: Counter[tuple[str, str]] = Counter()
    marks, result = [], Findings()
    for p, example in zip(predictions, examples, strict=True):
        label = example.label
        true = {label} if isinstance(label, str) else set(label or ()) if isinstance(label, tuple) else set()
        said = set(p["labels"])
        wanted.update(true)
        found.update(said)
        right.update(true & said)
        instead.update((missed, spurious) for missed in true - said for spurious in said - true)
        mark = 2 * len(true & said) / (len(true) + len(said)) if true or said else 1.0
        marks.append(mark)
        if true != said:
            shares = p.get("probabilities", {})
            wrong = {name: abs(shares.get(name, 0.0) - (name in true)) for name in true ^ said}
            one, other = (", ".join(in_order(names)) or "none" for names in (true, said))
            badness = (1 - mark, max(wrong.values()))
            result.mistakes.append(Mistake(badness, text_of(example), one, other, max(wrong.values()), example.place))
    rows = [counted(label, right[label], found[label], wanted[label]) for label in in_order({*wanted, *found})]
    columns = ("label", "examples", "missed", "spurious", "precision", "recall", "F1")
    result.tables.append(Table("Each label", columns, rows))
    most = sorted(instead.items(), key=lambda one: (-one[1], one[0]))[:PAIRS]
    pairs = [(*pair, n) for pair, n in most]
    result.tables.append(
        Table("One label instead of another", ("missed", "predicted in the same example", "examples"), pairs)
    )
    bars = by_length([length_of(example) for example in examples], marks, "characters", "F1")
    result.tables.append(bars_table("By length of the text", bars))
    result.picture, result.share = bars, "error of the surest label"
    return result


def score_findings(predictions: Sequence[Prediction], examples: Sequence[TextExample]) -> Findings:
    """Numbers: the error by range of the right score, and the examples that are farthest off."""
    right = [float(example.label) for example in examples if isinstance(example.label, int | float)]
    return _numbers(right, [p["score"] for p in predictions], list(map(text_of, examples)), examples, "score")


def _numbers(
    right: Sequence[float], said: Sequence[float], texts: Sequence[str], examples: Sequence[Any], name: str
) -> Findings:
    result = Findings(picture=Scatter(right, said, name), share="difference")
    if not right:
        return result
    edges = np.linspace(min(right), max(right), 6) if min(right) < max(right) else np.array([right[0]] * 2)
    places = np.clip(np.searchsorted(edges, right, side="right") - 1, 0, len(edges) - 2)
    rows = []
    for index, (low, high) in enumerate(itertools.pairwise(edges.tolist())):
        errors = [s - r for s, r, place in zip(said, right, places, strict=True) if place == index]
        rows.append((f"{low:.3g} to {high:.3g}", len(errors), mean(errors), mean(list(map(abs, errors)))))
    columns = (f"right {name}", "examples", "mean error", "mean absolute error")
    result.tables.append(Table("Error by range", columns, rows, "Errors are predicted − right."))
    for text, r, s, example in zip(texts, right, said, examples, strict=True):
        if r != s:
            badness = abs(s - r) if np.isfinite(s) else float("inf")
            result.mistakes.append(Mistake((badness,), text, f"{r:.4g}", f"{s:.4g}", s - r, example.place))
    return result


def choice_findings(predictions: Sequence[Prediction], examples: Sequence[ChoiceExample]) -> Findings:
    """Accuracy by the number of choices and by the place of the right one, and the most confident mistakes."""
    result = Findings()
    counts: dict[int, list[float]] = {}
    places: dict[int, list[float]] = {}
    chosen: Counter[int] = Counter()
    marks = []
    for p, example in zip(predictions, examples, strict=True):
        label, said = example.label or 0, p["choice"]
        marks.append(float(label == said))
        counts.setdefault(len(example.choices), []).append(marks[-1])
        places.setdefault(label, []).append(marks[-1])
        chosen[said] += 1
        if label != said:
            share = p["probabilities"][said] if "probabilities" in p else None
            text = cut(f"{example.context} {example.question}".strip())
            one, other = (cut(example.choices[index], LINE // 2) for index in (label, said))
            result.mistakes.append(Mistake((share or 0.0,), text, one, other, share, example.place))
    rows: list[tuple[Any, ...]] = [(count, len(own), mean(own), 1 / count) for count, own in sorted(counts.items())]
    result.tables.append(
        Table("By number of choices", ("choices", "examples", "accuracy", "accuracy of guessing"), rows)
    )
    rows = [(at, len(places.get(at, ())), chosen[at], mean(places.get(at, []))) for at in sorted({*places, *chosen})]
    columns = ("place", "right there", "chosen", "accuracy where right there")
    result.tables.append(Table("By place of the right choice", columns, rows, "Places are counted from 0."))
    lengths = [len(example.context) + len(example.question) + max(map(len, example.choices)) for example in examples]
    result.picture = by_length(lengths, marks, "characters", "accuracy")
    result.tables.append(bars_table("By length of the text", result.picture))
    return result


def similarity_findings(predictions: Sequence[Prediction], examples: Sequence[SimilarExample]) -> Findings:
    """With scores the error of the cosine; without, how far down the right text ranks."""
    if examples and all(example.score is not None for example in examples):
        texts = [" ⁄ ".join(cut(text, LINE // 2) for text in example.texts[:2]) for example in examples]
        scores = [float(example.score or 0) for example in examples]
        return _numbers(scores, [p["similarity"] for p in predictions], texts, examples, "cosine")
    result = Findings(share="cosine")
    ranks = ranks_of([p["vectors"] for p in predictions], [example.texts[1] for example in examples])
    if ranks is None:
        return result
    names = [f"{low}" if low == high else f"{low} to {high}" if high else f"{low} and more" for low, high in _RANKS]
    counts = [int(np.sum((ranks >= low) & (ranks <= (high or ranks.max())))) for low, high in _RANKS]
    shares = [count / len(ranks) for count in counts]
    rows = list(zip(names, counts, shares, strict=True))
    columns = ("rank of the right text", "examples", "share")
    result.tables.append(Table("Ranks", columns, rows, "Rank 1: no other second text is as near."))
    result.picture = Bars(names, shares, counts, "rank of the right text", "share of the examples")
    for index in np.argsort(-ranks, kind="stable")[:PAIRS].tolist():
        if ranks[index] > 1:
            example = examples[index]
            nearest, cosine = _nearest(index, predictions, examples)
            shown = [cut(text, LINE // 2) for text in (example.texts[1], nearest)]
            said = f"{shown[1]} (the right one is number {ranks[index]})"
            badness = (float(ranks[index]),)
            result.mistakes.append(Mistake(badness, cut(example.texts[0]), shown[0], said, cosine, example.place))
    return result


def _nearest(index: int, predictions: Sequence[Prediction], examples: Sequence[SimilarExample]) -> tuple[str, float]:
    """The other second text that is nearest to a first one, and its cosine."""
    first = np.asarray(predictions[index]["vectors"][0], np.float64)
    best, text = -2.0, ""
    for p, example in zip(predictions, examples, strict=True):
        if example.texts[1] != examples[index].texts[1]:
            second = np.asarray(p["vectors"][1], np.float64)
            cosine = float(first @ second) / max(1e-12, float(np.linalg.norm(first) * np.linalg.norm(second)))
            if cosine > best:
                best, text = cosine, example.texts[1]
    return plain(text), best
