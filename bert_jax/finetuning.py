"""Fine-tuning put together from the rooms: examples → form → rows → program → the training loop → run directory.

```
run.json                 as of every run, with the facts of the task: labels, options, members
models/LABEL.safetensors the best parameters of each member (see train/best.py)
groups/LABEL/            a run directory of its own for each group of members, where not all fit into one program
predictions/dev.jsonl    what the best model says of the dev set (and of the test set)
report.md, report.png    how well it does, where it goes wrong, and its worst mistakes (see tasks/report.py)
```

A *member* is one seed with one learning rate. Members are trained side by side, or in groups one after the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import jax

from bert_jax.bert_config import BertConfig
from bert_jax.config_files import bound_names, find_config, load_config, override, to_dict
from bert_jax.console import log
from bert_jax.errors import BertJaxError
from bert_jax.files import require_absent
from bert_jax.finetune_config import FinetuneConfig
from bert_jax.formats.model import LoadedModel, load_model
from bert_jax.tasks.examples import Split, read_splits
from bert_jax.tasks.members import groups_of, members_of
from bert_jax.tasks.results import member_scores
from bert_jax.tasks.table import FORMS, find_task
from bert_jax.tasks.task import Form, Task
from bert_jax.tasks.training import Material, OnMetrics, Training
from bert_jax.text.interface import Tokenizer
from bert_jax.text.tokenizer import load_tokenizer
from bert_jax.train.reconcile import reconcile
from bert_jax.train.run import Run, create_run, is_run, on_first_process, open_run, restore_tokenizer
from bert_jax.train.sharding import make_mesh, rows_per_split
from bert_jax.train.supervised import Member


def finetune(
    config: str | FinetuneConfig,
    path: Path,
    *,
    init: str | None = None,
    task: Task | None = None,
    change: bool = False,
    overrides: Sequence[str] = (),
    on_metrics: OnMetrics | None = None,
) -> dict[str, Any]:
    """Train the run at `path` to the end of `config`; the arguments are those of `bert_jax.finetune`."""
    if task is None and not isinstance(config, FinetuneConfig):
        task = bound_names(find_config(config)).get("task")
    config = load_config(config, FinetuneConfig)
    if overrides:
        config = _with_own_dev(config, override(config, list(overrides)))
    task = find_task(config.task.name) if task is None else task
    existing = open_run(path) if is_run(path) else None
    start = _start(existing, init)
    tokenizer = start.tokenizer
    model = _model_config(config, start.config)

    # Whatever is wrong with the examples or the settings is said before a run directory is made.
    splits = read_splits(task, config.data)
    form = _form(config, task, tokenizer, model, splits["train"])
    mesh = make_mesh(config.mesh)
    material = Material.of(config, task, form, splits, rows_per_split(mesh))
    config = material.config
    members = members_of(config)
    training = Training(config, material, model, start.loaded, mesh)
    groups = groups_of(existing, members, config, mesh, model)
    for group in (groups[0], groups[0][:1]):  # the second predicts with the best
        training.program(group)
    run = _open(path, existing, training, groups, init, change)
    for name, choice in training.choices.items():
        log(f"{name}: {choice.value} ({choice.reason})")

    with run.lock() if jax.process_index() == 0 else nullcontext():  # all groups of members, and the predictions
        return _train(run, training, groups, splits, on_metrics)


def _train(
    run: Run,
    training: Training,
    groups: Sequence[tuple[Member, ...]],
    splits: dict[str, Split],
    on_metrics: OnMetrics | None,
) -> dict[str, Any]:
    """Train group after group, and predict with the best; what `finetune` returns."""
    task, material = training.task, training.material
    stopped, summary = False, {}
    asked: list[str] = []
    for group in groups:
        own = run if len(groups) == 1 else _group_run(run, group, training)
        summary = training.train(own, run.path / "models", group, on_metrics, asked)
        stopped = bool(summary["stopped"])
        if asked and not stopped and group is not groups[-1]:  # at the last step of this group: the next ones wait
            log(f"{asked[0]}: stopping behind {', '.join(member.label for member in group)}")
            stopped = True
        if stopped:
            break
    found = {"run": str(run.path), "task": task.name, **summary, **member_scores(run, task, material.dev.examples)}
    found["stopped"] = stopped
    if not stopped:
        found |= training.predict_with_best(run, splits, found)
    return found


def _with_own_dev(before: FinetuneConfig, after: FinetuneConfig) -> FinetuneConfig:
    """`after`, but for the dev set of a CONFIG whose training data was replaced: that may hold the same examples."""
    replaced = bool(before.data.train) and before.data.train != after.data.train
    if not replaced or not after.data.dev or before.data.dev != after.data.dev:
        return after
    log(
        f"data.dev {', '.join(after.data.dev)} goes with other training data than data.train: give --data.dev; held out"
    )
    return dataclasses.replace(after, data=dataclasses.replace(after.data, dev=()))


class _Start(NamedTuple):
    """What a run starts from: the model, or of one that goes on only its shape."""

    config: BertConfig
    tokenizer: Tokenizer
    loaded: LoadedModel | None


def _start(existing: Run | None, init: str | None) -> _Start:
    if existing is not None:
        if not isinstance(existing.config, FinetuneConfig):
            raise BertJaxError(f"{existing.path} is a pre-training run: give another --run")
        if init is not None and init != existing.initialized_from:
            raise BertJaxError(
                f"{existing.path} was begun from {existing.initialized_from}, not from --init {init}: leave --init out "
                "to continue it, or give another --run"
            )
        assert existing.initialized_from is not None, existing.path
        if len(existing.facts["groups"]) == 1 and existing.newest_step:
            tokenizer = load_tokenizer(existing.tokenizer)
            return _Start(BertConfig.from_dict(existing.facts["model"]), tokenizer, None)
        init = existing.initialized_from
    if init is None:
        raise BertJaxError("--init MODEL is missing: a fine-tuned model starts from a pre-trained one")
    loaded = load_model(init, partial=True)
    return _Start(loaded.config.with_vocab_size(loaded.config.known_vocab_size), loaded.tokenizer, loaded)


def _model_config(config: FinetuneConfig, start: BertConfig) -> BertConfig:
    """The model's own configuration with the dropout that was asked for."""
    own = config.finetune
    hidden = start.hidden_dropout_prob if own.dropout is None else own.dropout
    shares = start.attention_probs_dropout_prob if own.attention_dropout is None else own.attention_dropout
    return dataclasses.replace(start, hidden_dropout_prob=hidden, attention_probs_dropout_prob=shares)


def _form(config: FinetuneConfig, task: Task, tokenizer: Tokenizer, model: BertConfig, train: Split) -> Form:
    if config.task.length > model.max_position_embeddings:
        raise BertJaxError(
            f"task.length is {config.task.length}: the model has {model.max_position_embeddings} positions"
        )
    for name in ("frozen_layers", "reinit_layers"):
        if (count := getattr(config.finetune, name)) > model.num_hidden_layers:
            raise BertJaxError(f"finetune.{name} is {count}: the model has {model.num_hidden_layers} layers")
    kind = FORMS[task.head]
    if config.finetune.packing > 1 and not kind.packs:
        able = ", ".join(name for name, form in FORMS.items() if form.packs)
        raise BertJaxError(
            f"finetune.packing is {config.finetune.packing}, and of {task.name} ({task.head}) each row holds one "
            f"example: leave it out; {able} can be packed"
        )
    examples = train.examples
    if config.data.on_error == "skip":  # what is left out later says no label either
        examples = tuple(example for example in examples if kind.labelled(example))
    labels = kind.labels_of(examples) if task.labels is None else task.labels
    return kind(tokenizer, labels, config.task)


def _open(
    path: Path,
    existing: Run | None,
    training: Training,
    groups: Sequence[tuple[Member, ...]],
    init: str | None,
    change: bool,
) -> Run:
    """The run at `path`, continued where the configuration allows it, else made."""
    material, tokenizer = training.material, training.form.tokenizer
    facts: dict[str, Any] = {
        "task": {
            "name": training.task.name,
            "form": training.task.head,
            "labels": list(training.form.labels),
            "options": to_dict(training.config.task),
            "score": training.task.score,
        },
        "head": {"name": training.form.head, "classes": training.form.classes, "pooler": training.form.pooler},
        "model": training.model_config.to_dict(),
        "members": [member.label for group in groups for member in group],
        "groups": [[member.label for member in group] for group in groups],
    }

    def make() -> Run:
        if existing is not None:
            if existing.facts["task"]["labels"] != facts["task"]["labels"]:
                raise BertJaxError(f"{path} was trained on other labels: give another --run")
            with existing.lock():
                run = reconcile(
                    existing, training.config, material.fingerprints, training.numerics, allow_change=change
                )
                restore_tokenizer(run, tokenizer)
                return run
        if path.is_dir() and any(not item.name.startswith(".") for item in path.iterdir()):
            require_absent(path)
        return create_run(
            path,
            training.config,
            tokenizer,
            material.fingerprints,
            training.numerics,
            initialized_from=init,
            facts=facts,
        )

    return on_first_process(path, make)


def _group_run(run: Run, group: Sequence[Member], training: Training) -> Run:
    """The run directory of one group of several."""
    name = group[0].label if len(group) == 1 else f"{group[0].label}..{group[-1].label}"
    path = run.path / "groups" / name

    def make() -> Run:
        if is_run(path):
            found = open_run(path)
            with found.lock():  # whether it may change was decided for the whole run
                return reconcile(found, run.config, run.fingerprints, training.numerics, allow_change=True)
        facts = {**run.facts, "members": [member.label for member in group]}
        return create_run(
            path,
            run.config,
            training.form.tokenizer,
            run.fingerprints,
            training.numerics,
            initialized_from=run.initialized_from,
            facts=facts,
        )

    return on_first_process(path, make)
