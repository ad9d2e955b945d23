"""The tasks, one row each, and the forms that they share."""

from __future__ import annotations

import difflib

from bert_jax.errors import BertJaxError
from bert_jax.tasks import metrics
from bert_jax.tasks.chinese_answer_metric import chinese_scores
from bert_jax.tasks.choices import read_choices
from bert_jax.tasks.classification import Classification, FirstToken, MultiLabel, Regression
from bert_jax.tasks.entities import entity_scores
from bert_jax.tasks.glue import LAYOUTS, read_classes, read_label_sets, read_scores, reader_of
from bert_jax.tasks.multiple_choice import MultipleChoice, choice_accuracy
from bert_jax.tasks.pointers import Pointers, span_scores
from bert_jax.tasks.question_answering import QuestionAnswering
from bert_jax.tasks.relation import Relation, relation_scores
from bert_jax.tasks.relation_files import SEMEVAL_LABELS, read_relations
from bert_jax.tasks.similarity import Similarity, read_similar, similarities
from bert_jax.tasks.span_files import read_spans, read_tagged_spans
from bert_jax.tasks.squad import read_squad
from bert_jax.tasks.squad_metric import squad_scores
from bert_jax.tasks.tagged_words import read_tagged
from bert_jax.tasks.tagging import Tagging
from bert_jax.tasks.task import Form, Metric, Reader, Task

FORMS: dict[str, type[Form]] = {
    "classification": Classification,
    "first_token": FirstToken,
    "regression": Regression,
    "multi_label": MultiLabel,
    "tagging": Tagging,
    "relation": Relation,
    "pointers": Pointers,
    "question_answering": QuestionAnswering,
    "multiple_choice": MultipleChoice,
    "similarity": Similarity,
}


def _task(
    name: str, head: str, read: Reader, metric: Metric, score: str, labels: tuple[str, ...] | None = None
) -> Task:
    return Task(name=name, head=head, read=read, metric=metric, score=score, labels=labels)


def _published(name: str, metric: Metric, score: str) -> Task:
    """A task of `glue.LAYOUTS`, its classes known."""
    labels = LAYOUTS[name].classes
    return _task(name, "classification" if labels else "regression", reader_of(name), metric, score, labels or None)


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        _task("classification", "classification", read_classes, metrics.classes, "accuracy"),
        _task("regression", "regression", read_scores, metrics.correlations, "spearman"),
        _task("multi_label", "multi_label", read_label_sets, metrics.label_sets, "micro_f1"),
        _task("similarity", "similarity", read_similar, similarities, "spearman"),
        _task("retrieval", "similarity", read_similar, similarities, "recall_at_1"),
        _published("cola", metrics.acceptability, "matthews"),
        _published("sst2", metrics.correct, "accuracy"),
        _published("mrpc", metrics.accuracy_and_f1("equivalent"), "f1"),
        _published("stsb", metrics.correlations, "spearman"),
        _published("qqp", metrics.accuracy_and_f1("duplicate"), "f1"),
        _published("mnli", metrics.correct, "accuracy"),
        _published("qnli", metrics.correct, "accuracy"),
        _published("rte", metrics.correct, "accuracy"),
        _published("wnli", metrics.correct, "accuracy"),
        _published("chnsenticorp", metrics.correct, "accuracy"),
        _published("lcqmc", metrics.correct, "accuracy"),
        _task("ner", "tagging", read_tagged, entity_scores, "f1"),
        _task("span_tagging", "tagging", read_tagged_spans, entity_scores, "f1"),
        _task("spans", "pointers", read_spans, span_scores, "f1"),
        _task("relation", "relation", read_relations, relation_scores, "macro_f1"),
        _task("semeval", "relation", read_relations, relation_scores, "macro_f1", SEMEVAL_LABELS),
        _task("squad1", "question_answering", read_squad, squad_scores, "f1"),
        _task("squad2", "question_answering", read_squad, squad_scores, "f1"),
        _task("cmrc", "question_answering", read_squad, chinese_scores, "average"),
        _task("drcd", "question_answering", read_squad, chinese_scores, "average"),
        _task("swag", "multiple_choice", read_choices, choice_accuracy, "accuracy"),
        _task("codah", "multiple_choice", read_choices, choice_accuracy, "accuracy"),
    )
}


def find_task(name: str) -> Task:
    """The task of that name. Errors: `BertJaxError` that lists them."""
    if name in TASKS:
        return TASKS[name]
    close = difflib.get_close_matches(name, TASKS, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise BertJaxError(
        f"task.name is {name!r}: {hint}expected one of {', '.join(TASKS)}, or the name of a Task that the CONFIG binds"
    )
