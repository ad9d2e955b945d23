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
import functools
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from bert_jax.bert_config import BertConfig
from bert_jax.config import Train
from bert_jax.config_files import bound_names, find_config, load_config, override, to_dict
from bert_jax.console import log, warn
from bert_jax.errors import BertJaxError
from bert_jax.files import atomic_writer, require_absent, to_json
from bert_jax.finetune_config import FinetuneConfig
from bert_jax.formats.model import LoadedModel, load_model
from bert_jax.model.bert import abstract_parameters, make_model
from bert_jax.model.flops import peak_flops, training_flops
from bert_jax.model.parameters import flatten, unflatten
from bert_jax.tasks.batches import TrainingRows, bucket_lengths
from bert_jax.tasks.degenerate import MAJORITY, degenerate, majority
from bert_jax.tasks.examples import Split, encode_all, read_splits
from bert_jax.tasks.predicting import PredictionRows
from bert_jax.tasks.report import Trained, write_report
from bert_jax.tasks.table import FORMS, find_task
from bert_jax.tasks.task import Form, Prediction, Task
from bert_jax.text.interface import Tokenizer
from bert_jax.text.tokenizer import load_tokenizer
from bert_jax.train.best import Best, best_models, read_best
from bert_jax.train.loop import train
from bert_jax.train.reconcile import reconcile
from bert_jax.train.run import Run, create_run, is_run, on_first_process, open_run, restore_tokenizer
from bert_jax.train.sharding import make_layout, make_mesh, rows_per_split
from bert_jax.train.starting import starting_parameters
from bert_jax.train.state import resolve
from bert_jax.train.supervised import FinetuneProgram, Learned, Member, make_finetune_program, measures_of

OnMetrics = Callable[[dict[str, Any]], None]


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
        config = override(config, list(overrides))
    task = find_task(config.task.name) if task is None else task
    existing = open_run(path) if is_run(path) else None
    start = _start(existing, init)
    tokenizer = start.tokenizer
    model = _model_config(config, start.config)

    # Whatever is wrong with the examples or the settings is said before a run directory is made.
    splits = read_splits(task, config.data)
    form = _form(config, task, tokenizer, model, splits["train"])
    material = _Material.of(config, task, form, splits)
    config = material.config
    members = members_of(config)
    mesh = make_mesh(config.mesh)
    shop = _Workshop(config, material, model, start, mesh)
    groups = _groups(existing, members, config, mesh, model)
    shop.program(groups[0])
    run = _open(path, existing, shop, groups, init, change)

    stopped, summary = False, {}
    for group in groups:
        own = run if len(groups) == 1 else _group_run(run, group, shop)
        summary = shop.train(own, run.path / "models", group, on_metrics)
        stopped = bool(summary["stopped"])
        if stopped:
            break
    found = {"run": str(run.path), "task": task.name, **summary, **member_scores(run, task, material.dev.examples)}
    if not stopped:
        found |= shop.predict_with_best(run, splits, found)
    return found


def members_of(config: FinetuneConfig) -> tuple[Member, ...]:
    """Every seed with every learning rate."""
    own = config.finetune
    rates = own.learning_rates or (config.optimizer.learning_rate,)
    if len(set(rates)) < len(rates):
        raise BertJaxError(f"finetune.learning_rates are {', '.join(map(str, rates))}: expected different ones")
    return tuple(
        Member(f"seed-{seed}" + (f"-lr-{rate:g}" if len(rates) > 1 else ""), seed, rate)
        for rate in rates
        for seed in range(own.seed, own.seed + own.seeds)
    )


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
    loaded = load_model(init)
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
    labels = kind.labels_of(train.examples) if task.labels is None else task.labels
    return kind(tokenizer, labels, config.task)


@dataclasses.dataclass(frozen=True)
class _Material:
    """The examples as rows, and the configuration with the steps that follow from them."""

    config: FinetuneConfig
    task: Task
    form: Form
    rows: list[Any]
    dev: PredictionRows
    fingerprints: dict[str, str]
    steps_per_epoch: int

    @classmethod
    def of(cls, config: FinetuneConfig, task: Task, form: Form, splits: dict[str, Split]) -> _Material:
        _, rows = encode_all(splits["train"], form, config.data)
        buckets = bucket_lengths(config.finetune.buckets, config.task.length)
        dev = PredictionRows(*encode_all(splits["dev"], form, config.data), form, buckets)
        flat = [row for own in rows for row in own]
        epochs = TrainingRows(flat, form, buckets, config.finetune.batch, [config.finetune.seed])
        each = epochs.steps_per_epoch
        steps = config.finetune.steps or max(1, round(config.finetune.epochs * each))
        every = config.evaluate.every or min(each, steps)
        config = dataclasses.replace(
            config,
            finetune=dataclasses.replace(config.finetune, steps=steps),
            evaluate=dataclasses.replace(config.evaluate, every=every),
        )
        log(
            f"{len(flat)} rows, {each} steps per epoch, {steps} steps; padding {epochs.padding_share:.1%} of the places"
        )
        fingerprints = {"tokenizer": form.tokenizer.fingerprint}
        fingerprints |= {name: splits[name].fingerprint for name in ("train", "dev")}
        return cls(config, task, form, flat, dev, fingerprints, each)


class _Workshop:
    """Makes programs for groups of members and trains them."""

    def __init__(
        self, config: FinetuneConfig, material: _Material, model: BertConfig, start: _Start, mesh: jax.sharding.Mesh
    ):
        self.config, self.material, self.start, self.mesh = config, material, start, mesh
        self.model_config, self.form, self.task = model, material.form, material.task
        own = config.finetune
        self.choices = resolve(Train(dtype=own.dtype, scan_layers=own.scan_layers), mesh)
        self.numerics = {name: str(choice.value) for name, choice in self.choices.items()}
        self.batch = config.evaluate.batch or config.finetune.batch
        if self.batch % rows_per_split(mesh):
            raise BertJaxError(
                f"evaluate.batch is {self.batch}: expected a multiple of {rows_per_split(mesh)} (mesh data × fsdp)"
            )

    def learned(self, several: bool) -> Learned:
        """The module with the task's head, its loss and what it predicts from."""
        own, form = self.config.finetune, self.form
        model = make_model(
            self.model_config,
            heads=() if form.head is None else (form.head,),
            classes=form.classes,
            pooler=form.pooler,
            dtype=self.choices["dtype"].value,
            attention=own.attention,
            scan_layers=self.choices["scan_layers"].value,
            remat=own.remat,
            vocab_multiple=self.choices["vocab_multiple"].value,
            layout=None if several else make_layout(self.mesh),
        )
        return Learned(model, self.task.loss or form.loss, form.answers)

    @functools.cache  # noqa: B019 - as long as the run is trained
    def program(self, members: tuple[Member, ...]) -> FinetuneProgram:
        """The steps of a group."""
        return make_finetune_program(self.learned(len(members) > 1), self.config, members, self.mesh, self.choices)

    def starting_parameters(self, members: Sequence[Member]) -> Any:
        """What a group starts from: the model's parameters, with a head that each member draws from its own seed."""
        assert self.start.loaded is not None
        given = flatten(self.start.loaded.params)
        own, layers = self.config.finetune, self.model_config.num_hidden_layers
        anew = [f"encoder/layer_{index}/" for index in range(layers - own.reinit_layers, layers)]
        anew += ["pooler/"] if own.reinit_layers else []
        if own.from_scratch:
            given = {}
        given = {path: leaf for path, leaf in given.items() if not path.startswith(tuple(anew))}
        model = self.learned(False).model
        head = f"{self.form.head}/kernel"
        if head in given and tuple(given[head].shape) != tuple(flatten(abstract_parameters(model))[head].shape):
            log(f"the model's own {self.form.head} head is for other classes: it is made anew")
            given = {path: leaf for path, leaf in given.items() if not path.startswith(f"{self.form.head}/")}
        found = [
            starting_parameters(unflatten(given) if given else {}, model, member.seed, say=index == 0)
            for index, member in enumerate(members)
        ]
        if len(found) == 1:
            return found[0]
        return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *found)

    def train(
        self, run: Run, models: Path, members: tuple[Member, ...], on_metrics: OnMetrics | None
    ) -> dict[str, Any]:
        """Train one group to its end."""
        program = self.program(members)
        material, own = self.material, self.config.finetune
        buckets = bucket_lengths(own.buckets, self.config.task.length)
        rows = TrainingRows(material.rows, self.form, buckets, own.batch, [member.seed for member in members])
        begins = self.start.loaded is not None and not run.newest_step
        return train(
            self.config,
            run,
            lambda _: program,
            rows.batches,
            {"eval": self.evaluation},
            on_metrics=on_metrics,
            init_params=self.starting_parameters(members) if begins else None,
            flops=functools.partial(training_flops, self.model_config.with_vocab_size(self.form.tokenizer.vocab_size)),
            peak_flops=peak_flops(self.mesh.devices.flat[0].device_kind, self.mesh.devices.size),
            measures=measures_of(members),
            judge=Best(models, run.metrics, members, self.task.score, own.patience),
        )

    def evaluation(self, program: FinetuneProgram, params: Any) -> dict[str, Any]:
        """The scores on the dev set: of one run, or the means over several and each one's own."""
        dev, members = self.material.dev, program.members
        found = dev.predictions(functools.partial(program.predict_step, params), self.batch, len(members))
        scores = [
            {**self.task.metric(predictions, dev.examples), MAJORITY: majority(predictions, dev.examples)}
            for predictions in found
        ]
        if len(members) == 1:
            return dict(scores[0])
        line: dict[str, Any] = {}
        for name in scores[0]:
            known = [value for own in scores if (value := own[name]) is not None]
            line[name] = statistics.fmean(known) if known else None
            line |= {f"{name}_{member.label}": own[name] for member, own in zip(members, scores, strict=True)}
        return line

    def predict_with_best(self, run: Run, splits: dict[str, Split], found: dict[str, Any]) -> dict[str, Any]:
        """Write what the best model says of dev and test, and the report of it; the scores of test.

        `found`: what is known of the training, for the report.
        """
        best = next(iter(best_models(run.path / "models")))
        program = self.program((Member(best, 0, 0.0),))
        params = program.place_params(read_best(run.path / "models", best))
        buckets = bucket_lengths(self.config.finetune.buckets, self.config.task.length)
        written: dict[str, Any] = {}
        said: dict[str, list[Prediction]] = {}
        for name in ("dev", "test"):
            if name not in splits:
                continue
            rows = self.material.dev
            if name == "test":
                rows = PredictionRows(*encode_all(splits[name], self.form, self.config.data), self.form, buckets)
            predictions = rows.predictions(functools.partial(program.predict_step, params), self.batch)[0]
            said[name] = predictions
            write_predictions(run.path / "predictions" / f"{name}.jsonl", rows.examples, predictions)
            if name == "test" and all(has_label(example) for example in rows.examples):
                scores = self.task.metric(predictions, rows.examples)
                written |= {f"test_{key}": value for key, value in scores.items()}
        if jax.process_index() == 0:
            write_report(run.path, self._trained(run, splits, found | written), said["dev"], self.material.dev.examples)
        return written

    def _trained(self, run: Run, splits: dict[str, Split], result: dict[str, Any]) -> Trained:
        """What the report says of the training."""
        own, options = self.config.finetune, self.config.task
        sources = {"train": self.config.data.train, "dev": self.config.data.dev, "test": self.config.data.test}
        data = {
            name: f"{len(split.examples)} examples, {', '.join(sources[name]) or 'held out of train'}"
            for name, split in splits.items()
        }
        rates = own.learning_rates or (self.config.optimizer.learning_rate,)
        settings = {
            "steps": f"{result['step']} of {own.steps}, {self.material.steps_per_epoch} in an epoch",
            "batch": own.batch,
            "length": options.length,
            "learning rate": ", ".join(f"{rate:g}" for rate in rates),
            "labels": len(self.form.labels) or None,
        }
        kept = {name: value for name, value in settings.items() if value is not None}
        return Trained(self.task, str(run.initialized_from), data, kept, result)


def _groups(
    existing: Run | None,
    members: tuple[Member, ...],
    config: FinetuneConfig,
    mesh: jax.sharding.Mesh,
    model: BertConfig,
) -> list[tuple[Member, ...]]:
    """Members that are trained in one program: as the run began, else as many as asked for or as memory holds."""
    if existing is not None:
        by_label = {member.label: member for member in members}
        if sorted(by_label) != sorted(label for group in existing.facts["groups"] for label in group):
            raise BertJaxError(
                f"{existing.path} has members {', '.join(existing.facts['members'])}: give the same seeds and "
                "learning rates, or another --run"
            )
        return [tuple(by_label[label] for label in group) for group in existing.facts["groups"]]
    size = config.finetune.side_by_side or fitting_members(config, model, mesh)
    groups = [members[first : first + size] for first in range(0, len(members), size)]
    if len(members) > 1:
        log(f"{len(members)} runs: {', '.join(str(len(group)) for group in groups)} side by side")
    return groups


def fitting_members(config: FinetuneConfig, model: BertConfig, mesh: jax.sharding.Mesh) -> int:
    """How many runs one program should hold: one on CPU, where several are slower; else what fits into memory.

    A run needs its parameters five times over in float32 (themselves, two moments, gradient, update) and what the
    backward pass keeps: about 18 vectors of width D and the attention shares per token and layer.
    """
    device = mesh.devices.flat[0]
    limit = (device.memory_stats() or {}).get("bytes_limit") if device.platform != "cpu" else None
    if limit is None or mesh.shape["data"] != mesh.size:
        return 1
    d, layers, length = model.hidden_size, model.num_hidden_layers, config.task.length
    weights = model.known_vocab_size * d + layers * (4 * d * d + 2 * d * model.intermediate_size)
    kept = layers * (14 * d + 2 * model.intermediate_size + 2 * model.num_attention_heads * length)
    each = 20 * weights + 4 * config.finetune.batch * length * kept
    return max(1, int(0.8 * limit / each) * mesh.size)


def _open(
    path: Path,
    existing: Run | None,
    shop: _Workshop,
    groups: Sequence[tuple[Member, ...]],
    init: str | None,
    change: bool,
) -> Run:
    """The run at `path`, continued where the configuration allows it, else made."""
    material, tokenizer = shop.material, shop.form.tokenizer
    facts: dict[str, Any] = {
        "task": {
            "name": shop.task.name,
            "form": shop.task.head,
            "labels": list(shop.form.labels),
            "options": to_dict(shop.config.task),
            "score": shop.task.score,
        },
        "head": {"name": shop.form.head, "classes": shop.form.classes, "pooler": shop.form.pooler},
        "model": shop.model_config.to_dict(),
        "members": [member.label for group in groups for member in group],
        "groups": [[member.label for member in group] for group in groups],
    }

    def make() -> Run:
        if existing is not None:
            if existing.facts["task"]["labels"] != facts["task"]["labels"]:
                raise BertJaxError(f"{path} was trained on other labels: give another --run")
            with existing.lock():
                run = reconcile(existing, shop.config, material.fingerprints, shop.numerics, allow_change=change)
                restore_tokenizer(run, tokenizer)
                return run
        if path.is_dir() and any(not item.name.startswith(".") for item in path.iterdir()):
            require_absent(path)
        return create_run(
            path, shop.config, tokenizer, material.fingerprints, shop.numerics, initialized_from=init, facts=facts
        )

    return on_first_process(path, make)


def _group_run(run: Run, group: Sequence[Member], shop: _Workshop) -> Run:
    """The run directory of one group of several."""
    name = group[0].label if len(group) == 1 else f"{group[0].label}..{group[-1].label}"
    path = run.path / "groups" / name

    def make() -> Run:
        if is_run(path):
            found = open_run(path)
            with found.lock():  # whether it may change was decided for the whole run
                return reconcile(found, run.config, run.fingerprints, shop.numerics, allow_change=True)
        facts = {**run.facts, "members": [member.label for member in group]}
        return create_run(
            path,
            run.config,
            shop.form.tokenizer,
            run.fingerprints,
            shop.numerics,
            initialized_from=run.initialized_from,
            facts=facts,
        )

    return on_first_process(path, make)


def member_scores(run: Run, task: Task, dev: Sequence[Any]) -> dict[str, Any]:
    """What the members scored on dev at their best step: each, their mean and standard deviation, and the best.

    `degenerate` is why a member has learned nothing, None where it has.
    """
    found = best_models(run.path / "models")
    if not found:
        return {}
    best = next(iter(found.values()))
    failed = degenerate({label: model.scores for label, model in found.items()}, task, dev)
    for label, reason in failed.items():
        if reason is not None:
            warn(f"{label} is degenerate: {reason}")
    scores = [model.score for model in found.values()]
    said: dict[str, Any] = {
        "score": task.score,
        "best": {"member": best.label, "step": best.step, **best.scores, "degenerate": failed[best.label]},
    }
    if len(run.facts["members"]) > 1:
        said["mean"] = statistics.fmean(scores)
        said["std"] = statistics.stdev(scores) if len(scores) > 1 else None
        said["members"] = {
            label: {"step": found[label].step, **found[label].scores, "degenerate": failed[label]}
            for label in run.facts["members"]
            if label in found
        }
    return said


def has_label(example: Any) -> bool:
    """Whether an example says what is right."""
    names = ("label", "tags", "spans", "answers", "score")
    return any(getattr(example, name, None) is not None for name in names)


def write_predictions(path: Path, examples: Sequence[Any], predictions: Sequence[Prediction]) -> None:
    """One JSON line per example: what it says, what is right and what was predicted; on the first process only."""
    if jax.process_index() != 0:
        return
    with atomic_writer(path, "w") as file:
        for example, prediction in zip(examples, predictions, strict=True):
            values = {item.name: getattr(example, item.name) for item in dataclasses.fields(example)}
            shown = {name: value for name, value in values.items() if value is not None and value != ""}
            file.write(to_json({**shown, "predicted": _plain(prediction)}) + "\n")


def _plain(prediction: Prediction) -> dict[str, Any]:
    return {name: value for name, value in prediction.items() if not isinstance(value, np.ndarray)}
