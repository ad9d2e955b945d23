"""Fine-tuned runs as models: which member's parameters, and what they were trained for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bert_jax.bert_config import BertConfig
from bert_jax.config_files import from_dict, to_dict
from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import TaskOptions
from bert_jax.formats.pooling import Pooling
from bert_jax.text.tokenizer import load_tokenizer
from bert_jax.train.best import BestModel, best_models, read_best
from bert_jax.train.run import RUN_FILE, Run


@dataclass(frozen=True, kw_only=True)
class TaskFacts:
    """What a model was fine-tuned for: the task's name, its form (a row of `tasks.table.FORMS`), names of the classes,
    the options it was trained with, which of several runs side by side it is, and what it scored on dev."""

    name: str
    form: str
    labels: tuple[str, ...]
    options: dict[str, Any]
    member: str
    scores: dict[str, Any]


def model_facts(run: Run, revision: str | None, cased: bool | None) -> dict[str, Any]:
    """The arguments of `OpenedModel` for a fine-tuned run: its best member, or `RUN@seed-3`.

    Errors: `BertJaxError` for a member that is not there, and before anything was scored on dev.
    """
    found = best_models(run.path / "models")
    chosen = _chosen(run, found, revision)
    task, head = _facts_of(run)
    tokenizer = load_tokenizer(run.tokenizer, cased)
    options = task["options"]
    pooling = Pooling(options["pooling"], True, options["length"]) if task["form"] == "similarity" else None
    labels = tuple(task["labels"])
    return {
        "config": BertConfig.from_dict(run.facts["model"]),
        "tokenizer": tokenizer,
        "kind": "run",
        "path": run.path,
        "step": chosen.step,
        "heads": () if head["name"] is None else (head["name"],),
        "classes": head["classes"],
        "pooler": head["pooler"],
        "labels": labels if len(labels) == head["classes"] else None,
        "pooling": pooling,
        "task": TaskFacts(
            name=task["name"],
            form=task["form"],
            labels=labels,
            options=options,
            member=chosen.label,
            scores=chosen.scores,
        ),
        "read": lambda partial=False, place=None: (read_best(run.path / "models", chosen.label), chosen.step),
        "provenance": {
            "created": run.created,
            "initialized_from": run.initialized_from,
            "fingerprints": run.fingerprints,
            "task": task["name"],
            "member": chosen.label,
            "scores": chosen.scores,
        },
    }


# What `run.json` holds of a fine-tuned run, by section, and the type of each.
_FACTS: dict[str, dict[str, Any]] = {
    "task": {"name": str, "form": str, "labels": list, "options": dict},
    "head": {"name": str | None, "classes": int, "pooler": bool},
}


def _facts_of(run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    """The sections `task`, its options checked and complete, and `head`. Errors: `BertJaxError` for what is no fact."""
    sections = []
    for section, fields in _FACTS.items():
        given = run.facts.get(section)
        found = dict(given) if isinstance(given, dict) else {}
        wrong = [name for name, kind in fields.items() if not isinstance(found.get(name, ...), kind)]
        if wrong:
            raise BertJaxError(
                f"{run.path / RUN_FILE}: facts.{section} has no right {' and no right '.join(wrong)}: restore the file"
            )
        sections.append(found)
    task, head = sections
    if not isinstance(run.facts.get("model"), dict) or not all(isinstance(label, str) for label in task["labels"]):
        raise BertJaxError(f"{run.path / RUN_FILE}: facts.model or the labels are not as written: restore the file")
    try:
        task["options"] = to_dict(from_dict(task["options"], TaskOptions, "facts.task.options."))
    except BertJaxError as error:
        raise BertJaxError(f"{run.path / RUN_FILE}: {error}") from error
    return task, head


def _chosen(run: Run, found: dict[str, BestModel], revision: str | None) -> BestModel:
    if not found:
        raise BertJaxError(f"{run.path} has no model yet: one is kept at the first evaluation on its dev set")
    if revision is None or revision == "best":
        return next(iter(found.values()))
    if revision not in found:
        raise BertJaxError(f"{run.path} has no {revision}: it has {', '.join(found)} (and best, the first of them)")
    return found[revision]
