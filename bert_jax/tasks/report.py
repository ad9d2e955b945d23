"""What a person reads after fine-tuning: `RUN/report.md`, and `RUN/report.png` where matplotlib is installed.

From top to bottom: what was trained on what, the scores, each member, where the best model goes wrong on dev (tables
by kind of task), and its worst mistakes. `predictions/dev.jsonl` has every example.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bert_jax.console import log
from bert_jax.files import write_text
from bert_jax.tasks import report_labels as labels
from bert_jax.tasks import report_spans as spans
from bert_jax.tasks.degenerate import MAJORITY
from bert_jax.tasks.report_parts import Findings, Table, cell, cut, escaped, number, table_text
from bert_jax.tasks.report_picture import write_picture
from bert_jax.tasks.task import Prediction, Task

WORST = 20
_OF_ONE = ("precision_", "recall_", "f1_")  # scores of one kind or relation: the tables have them
_NO_SCORES = ("member", "step", "degenerate", MAJORITY)

FINDINGS: dict[str, Callable[[Sequence[Prediction], Sequence[Any]], Findings]] = {
    "classification": labels.label_findings,
    "first_token": labels.label_findings,
    "relation": labels.label_findings,
    "multi_label": labels.label_set_findings,
    "regression": labels.score_findings,
    "multiple_choice": labels.choice_findings,
    "similarity": labels.similarity_findings,
    "tagging": spans.tagging_findings,
    "pointers": spans.pointer_findings,
}


@dataclass(frozen=True)
class Trained:
    """What the report says of the training itself.

    `began_from`: the MODEL. `data` and `settings`: lines by name, as they are to be read. `result`: what `finetune`
    returns: `best` (member, step, scores, degenerate) and, of several, `members`; scores of a test set as `test_…`.
    """

    task: Task
    began_from: str
    data: Mapping[str, str]
    settings: Mapping[str, Any]
    result: Mapping[str, Any]


def write_report(folder: Path, trained: Trained, predictions: Sequence[Prediction], examples: Sequence[Any]) -> None:
    """Write `report.md` and `report.png` into `folder`: `predictions` are the best model's of the dev examples."""
    found = find(trained, predictions, examples)
    drawn = found.picture is not None and write_picture(found.picture, _name(trained.task), folder / "report.png")
    write_text(folder / "report.md", report_text(trained, found, picture=drawn))
    log(f"report: {folder / 'report.md'}" + (" and report.png" if drawn else ""))


def find(trained: Trained, predictions: Sequence[Prediction], examples: Sequence[Any]) -> Findings:
    """What the predictions show, by kind of task, the worst mistakes first."""
    task = trained.task
    pairs = [pair for pair in zip(predictions, examples, strict=True) if _says_what_is_right(pair[1])]
    if not pairs:
        return Findings()
    predictions, examples = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    if task.head == "question_answering":
        threshold = trained.result.get("best", {}).get("no_answer_threshold")
        found = spans.answer_findings(predictions, examples, task.metric, threshold)
    else:
        found = FINDINGS[task.head](predictions, examples)
    found.mistakes.sort(
        key=lambda mistake: tuple(math.inf if math.isnan(x) else x for x in mistake.badness), reverse=True
    )
    return found


def _says_what_is_right(example: Any) -> bool:
    names = ("label", "tags", "spans", "answers", "texts")
    return any(getattr(example, name, None) is not None for name in names)


def report_text(trained: Trained, found: Findings, picture: bool) -> str:
    """The report in Markdown."""
    result = trained.result
    head = {"Kind of task": trained.task.head.replace("_", " "), "Began from": trained.began_from}
    lines = [f"# Fine-tuning: {escaped(trained.task.name)}", ""]
    lines += [
        f"- {name}: {cell(value)}" for name, value in (head | dict(trained.data) | dict(trained.settings)).items()
    ]
    lines += ["", "## Scores", "", *_best_lines(trained), table_text(_scores(trained))]
    if result.get("members"):
        lines += ["## Members", "", *_member_lines(trained)]
    lines += ["## Where it goes wrong (dev)", ""]
    if picture:
        lines += ["![picture of the predictions](report.png)", ""]
    lines += [table_text(table) for table in found.tables] or ["Nothing to show.", ""]
    lines += ["## Worst mistakes (dev)", "", *_mistake_lines(found)]
    return "\n".join(lines).rstrip("\n") + "\n"


def _name(task: Task) -> str:
    return f"{task.name}: predictions for dev"


def _scores(trained: Trained) -> Table:
    best, names = trained.result.get("best", {}), _score_names(trained)
    tests = {name: value for name, value in trained.result.items() if name.startswith("test_")}
    columns = ("score", "dev", "test") if tests else ("score", "dev")
    rows = [(name, best[name], tests.get(f"test_{name}"))[: len(columns)] for name in names]
    return Table("Best on dev", columns, rows)


def _score_names(trained: Trained) -> list[str]:
    """The score that chooses first; those of single kinds are left to the tables below."""
    names = [name for name in trained.result.get("best", {}) if name not in _NO_SCORES]
    few = [name for name in names if not name.startswith(_OF_ONE) or name.startswith("recall_at_")]
    return sorted(few, key=lambda name: name != trained.task.score)


def _best_lines(trained: Trained) -> list[str]:
    best = trained.result.get("best")
    if not best:
        return ["No model was kept: no evaluation had a score.", ""]
    lines = [f"{escaped(best['member'])} at step {best['step']}, chosen by {escaped(trained.task.score)}.", ""]
    if best.get("degenerate"):
        lines += [f"**Degenerate**: {escaped(best['degenerate'])}. Nothing below is worth much.", ""]
    return lines


def _member_lines(trained: Trained) -> list[str]:
    """A table of the members, then the mean of all, and of those that are not degenerate."""
    score, members = trained.task.score, trained.result["members"]
    names = _score_names(trained)[:4]
    best = trained.result["best"]["member"]
    rows = [
        (
            label,
            own["step"],
            *(own.get(name) for name in names),
            f"degenerate: {own['degenerate']}" if own.get("degenerate") else "best" if label == best else "",
        )
        for label, own in members.items()
    ]
    table = table_text(Table("Each at its best step", ("member", "step", *names, "remark"), rows))
    known = [own[score] for own in members.values() if own.get(score) is not None]
    sound = [own[score] for own in members.values() if own.get(score) is not None and not own.get("degenerate")]
    lines = [table, f"Mean ± standard deviation of {escaped(score)}: {_mean_and_deviation(known)}."]
    if len(sound) < len(known):
        lines.append(f"Without the degenerate: {_mean_and_deviation(sound)}.")
    return [*lines, ""]


def _mean_and_deviation(values: Sequence[float]) -> str:
    if not values:
        return "none is left"
    spread = number(statistics.stdev(values)) if len(values) > 1 else "–"
    return f"{number(statistics.fmean(values))} ± {spread} of {len(values)} runs"


def _mistake_lines(found: Findings) -> list[str]:
    if not found.mistakes:
        return ["None.", ""]
    worst = found.mistakes[:WORST]
    lines = [f"The worst {len(worst)} of {len(found.mistakes)} examples that are not wholly right.", ""]
    lines += [
        f"| | text | right | predicted | {escaped(found.share)} | where |",
        "| ---: | --- | --- | --- | ---: | --- |",
    ]
    for index, mistake in enumerate(worst, start=1):
        # Forms cut their texts, at the place that matters; labels and such are as long as users make them.
        right, predicted = cut(mistake.right), cut(mistake.predicted)
        where = mistake.place.rpartition("/")[2]
        cells = (index, mistake.text, right, predicted, mistake.share, where)
        lines.append(f"| {' | '.join(map(cell, cells))} |")
    return [*lines, ""]
