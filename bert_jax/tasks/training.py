"""One task trained: its examples as rows, the programs of its members, their training, and what the best predicts."""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.bert_config import BertConfig
from bert_jax.config import Train
from bert_jax.console import log, warn
from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import FinetuneConfig
from bert_jax.formats.model import LoadedModel
from bert_jax.model.attention import KERNELS
from bert_jax.model.bert import abstract_parameters, make_model
from bert_jax.model.flops import peak_flops, training_flops
from bert_jax.model.parameters import flatten, unflatten
from bert_jax.tasks.batches import PACKED_ROWS, TrainingRows, bucket_lengths
from bert_jax.tasks.degenerate import MAJORITY, majority
from bert_jax.tasks.examples import Split, encode_all
from bert_jax.tasks.predicting import PredictionRows
from bert_jax.tasks.report import Trained, write_report
from bert_jax.tasks.results import write_predictions
from bert_jax.tasks.task import Batch, Form, Loss, Outputs, Prediction, Task
from bert_jax.train.best import Best, best_models, read_best
from bert_jax.train.loop import train
from bert_jax.train.run import Run
from bert_jax.train.sharding import make_layout, rows_per_split
from bert_jax.train.starting import starting_parameters
from bert_jax.train.state import resolve, resolve_attention
from bert_jax.train.supervised import (
    FinetuneProgram,
    Learned,
    Member,
    make_finetune_program,
    measures_of,
    spread_by_member,
)

OnMetrics = Callable[[dict[str, Any]], None]


@dataclasses.dataclass(frozen=True)
class Material:
    """The examples as rows, and the configuration with the steps that follow from them."""

    config: FinetuneConfig
    task: Task
    form: Form
    rows: list[Any]
    dev: PredictionRows
    fingerprints: dict[str, str]
    steps_per_epoch: int

    @classmethod
    def of(cls, config: FinetuneConfig, task: Task, form: Form, splits: dict[str, Split], split: int = 1) -> Material:
        """Encode all examples and look them over; `split`: into how many parts batches are cut. Errors: `BertJaxError`
        for examples that cannot be trained or scored."""
        own = config.finetune
        train, rows = encode_all(splits["train"], form, config.data, labelled=True)
        buckets = bucket_lengths(own.buckets, config.task.length)
        dev = PredictionRows(*encode_all(splits["dev"], form, config.data, labelled=True), form, buckets, own.packing)
        form.check(train, dev.examples)
        flat = [row for own_rows in rows for row in own_rows]
        epochs = TrainingRows(flat, form, buckets, own.batch, [own.seed], own.packing, split)
        each = epochs.steps_per_epoch
        if len(flat) < own.batch and own.packing == 1:
            warn(f"finetune.batch is {own.batch} and there are {len(flat)} rows: the rest of it is padding")
        steps = own.steps or max(1, round(own.epochs * each))
        every = config.evaluate.every or min(each, steps)
        config = dataclasses.replace(
            config,
            finetune=dataclasses.replace(config.finetune, steps=steps),
            evaluate=dataclasses.replace(config.evaluate, every=every),
        )
        what = "rows" if own.packing == 1 else f"examples packed into rows of {config.task.length}"
        log(
            f"{len(flat)} {what}, {each} steps per epoch, {steps} steps; padding {epochs.padding_share:.1%} of the "
            "places"
        )
        fingerprints = {"tokenizer": form.tokenizer.fingerprint}
        fingerprints |= {name: splits[name].fingerprint for name in ("train", "dev")}
        return cls(config, task, form, flat, dev, fingerprints, each)


class Training:
    """Makes programs for groups of members, trains them, and predicts with the best."""

    def __init__(
        self,
        config: FinetuneConfig,
        material: Material,
        model: BertConfig,
        start: LoadedModel | None,
        mesh: jax.sharding.Mesh,
    ):
        self.config, self.material, self.start, self.mesh = config, material, start, mesh
        self.model_config, self.form, self.task = model, material.form, material.task
        own = config.finetune
        self.choices = resolve(Train(dtype=own.dtype, scan_layers=own.scan_layers), mesh)
        self.choices["attention"] = resolve_attention(own.attention, model, config.task.length, mesh)
        self.numerics = {name: str(choice.value) for name, choice in self.choices.items()}
        self.batch = config.evaluate.batch or config.finetune.batch
        if self.batch % rows_per_split(mesh):
            raise BertJaxError(
                f"evaluate.batch is {self.batch}: expected a multiple of {rows_per_split(mesh)} (mesh data × fsdp)"
            )

    def learned(self, several: bool) -> Learned:
        """The module with the task's head, its loss and what it predicts from."""
        own, form = self.config.finetune, self.form
        # Members side by side are cut by the partitioner, which cannot cut a kernel.
        partitioned = several and self.mesh.size > 1
        if partitioned and own.attention in KERNELS:
            raise BertJaxError(
                f"finetune.attention {own.attention} cannot run members side by side on {self.mesh.size} devices: take "
                "auto, or --finetune.side-by-side 1"
            )
        model = make_model(
            self.model_config,
            heads=() if form.head is None else (form.head,),
            classes=form.classes,
            pooler=form.pooler,
            dtype=self.choices["dtype"].value,
            attention="einsum" if partitioned and own.attention == "auto" else own.attention,
            scan_layers=self.choices["scan_layers"].value,
            remat=own.remat,
            vocab_multiple=self.choices["vocab_multiple"].value,
            layout=None if several else make_layout(self.mesh),
        )
        loss = self.task.loss or form.loss
        return Learned(model, _of_packed(loss) if own.packing > 1 else loss, form.answers)

    def program(self, members: tuple[Member, ...]) -> FinetuneProgram:
        """The steps of a group. Groups of one with the same learning rate share what is compiled."""
        return dataclasses.replace(
            self._program(members if len(members) > 1 else members[0].learning_rate), members=members
        )

    @functools.cache  # noqa: B019 - as long as the run is trained
    def _program(self, group: tuple[Member, ...] | float) -> FinetuneProgram:
        members = group if isinstance(group, tuple) else (Member("", 0, group),)
        return make_finetune_program(self.learned(len(members) > 1), self.config, members, self.mesh, self.choices)

    def starting_parameters(self, members: Sequence[Member]) -> Any:
        """What a group starts from: the model's parameters, with a head that each member draws from its own seed."""
        assert self.start is not None
        given = flatten(self.start.params)
        own, layers = self.config.finetune, self.model_config.num_hidden_layers
        anew = [f"encoder/layer_{index}/" for index in range(layers - own.reinit_layers, layers)]
        anew += ["pooler/"] if own.reinit_layers else []
        if own.from_scratch:
            given = {}
        given = {path: leaf for path, leaf in given.items() if not path.startswith(tuple(anew))}
        model = self.learned(False).model
        if f"{self.form.head}/kernel" in given:
            if self._head_fits(flatten(abstract_parameters(model)), given):
                log(f"the model's own {self.form.head} head, for the same classes, is trained on")
            else:
                log(f"the model's own {self.form.head} head is for something else: it is made anew")
                given = {path: leaf for path, leaf in given.items() if not path.startswith(f"{self.form.head}/")}
        found = [
            starting_parameters(unflatten(given) if given else {}, model, member.seed, say=index == 0)
            for index, member in enumerate(members)
        ]
        head, bias = self.form.head, self.form.head_bias(self.material.rows)
        if head is not None and bias is not None and f"{head}/kernel" not in given:
            for tree in found:
                tree[head]["bias"] = jnp.asarray(bias)
        if len(found) == 1:
            return found[0]
        return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *found)

    def _head_fits(self, wanted: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
        """Whether the head of the model to start from says the same as this task's: form, labels and shape."""
        assert self.start is not None
        kernel, task = f"{self.form.head}/kernel", self.start.task
        same_form = task is None or task.form == self.task.head
        same_labels = (self.start.labels or ()) == self.form.labels
        return same_form and same_labels and tuple(given[kernel].shape) == tuple(wanted[kernel].shape)

    def train(
        self, run: Run, models: Path, members: tuple[Member, ...], on_metrics: OnMetrics | None, asked: list[str]
    ) -> dict[str, Any]:
        """Train one group to its end. `asked` is given the signal that asked to stop meanwhile."""
        program = self.program(members)
        material, own = self.material, self.config.finetune
        buckets = bucket_lengths(own.buckets, self.config.task.length)
        seeds = [member.seed for member in members]
        split = 1 if spread_by_member(members, self.mesh) else rows_per_split(self.mesh)
        rows = TrainingRows(material.rows, self.form, buckets, own.batch, seeds, own.packing, split)
        begins = self.start is not None and not run.newest_step
        return train(
            self.config,
            run,
            lambda _: program,
            rows.batches,
            {"eval": self.evaluation},
            on_metrics=_watch(members, on_metrics),
            init_params=self.starting_parameters(members) if begins else None,
            flops=functools.partial(training_flops, self.model_config.with_vocab_size(self.form.tokenizer.vocab_size)),
            peak_flops=peak_flops(self.mesh.devices.flat[0].device_kind, self.mesh.devices.size),
            measures=measures_of(members),
            judge=Best(models, run.metrics, members, self.task.score, own.patience),
            asked=asked,
        )

    def evaluation(self, program: FinetuneProgram, params: Any) -> dict[str, Any]:
        """The scores on the dev set: of one run, or the means over several and each one's own."""
        dev, members = self.material.dev, program.members
        found = dev.predictions(functools.partial(program.predict_step, params), self.batch, len(members))
        scores = [
            {**self.task.metric(predictions, dev.examples), MAJORITY: majority(predictions, dev.examples)}
            for predictions in found
        ]
        if self.task.score not in scores[0]:
            names = ", ".join(name for name in scores[0] if name != MAJORITY)
            raise BertJaxError(f"the metric of {self.task.name} gives {names}, not its score {self.task.score}")
        if len(members) == 1:
            return dict(scores[0])
        line: dict[str, Any] = {}
        for name in dict.fromkeys(name for own in scores for name in own):  # of a kind, some runs may know nothing
            known = [value for own in scores if (value := own.get(name)) is not None]
            line[name] = statistics.fmean(known) if known else None
            line |= {f"{name}_{member.label}": own.get(name) for member, own in zip(members, scores, strict=True)}
        return line

    def predict_with_best(self, run: Run, splits: dict[str, Split], found: dict[str, Any]) -> dict[str, Any]:
        """Write what the best model says of dev and test, and the report of it; the scores of test.

        `found`: what is known of the training, for the report.
        """
        own = self.config.finetune
        best = next(iter(best_models(run.path / "models")))
        rates = own.learning_rates or (self.config.optimizer.learning_rate,)
        program = self.program((Member(best, 0, rates[0]),))
        params = program.place_params(read_best(run.path / "models", best))
        buckets = bucket_lengths(own.buckets, self.config.task.length)
        written: dict[str, Any] = {}
        said: dict[str, list[Prediction]] = {}
        self._take_threshold(run, best)
        for name in ("dev", "test"):
            if name not in splits:
                continue
            rows = self.material.dev
            if name == "test":
                found_rows = encode_all(splits[name], self.form, self.config.data)
                rows = PredictionRows(*found_rows, self.form, buckets, own.packing)
            predictions = rows.predictions(functools.partial(program.predict_step, params), self.batch)[0]
            said[name] = predictions
            write_predictions(run.path / "predictions" / f"{name}.jsonl", rows.examples, predictions)
            if name == "test" and all(map(self.form.labelled, rows.examples)):
                scores = self.task.metric(predictions, rows.examples)
                written |= {f"test_{key}": value for key, value in scores.items()}
        if jax.process_index() == 0:
            write_report(run.path, self._trained(run, splits, found | written), said["dev"], self.material.dev.examples)
        return written

    def _take_threshold(self, run: Run, best: str) -> None:
        """What was tuned on dev is applied to what is written of dev and test, not tuned again."""
        threshold = best_models(run.path / "models")[best].scores.get("no_answer_threshold")
        if threshold is not None:
            self.form.no_answer_threshold = threshold

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


def _of_packed(loss: Loss) -> Loss:
    """`loss`, given of a packed batch what there is for each example, and nothing of its rows.

    Errors: `BertJaxError` naming what it reads besides.
    """

    def of_packed(outputs: Outputs, batch: Batch) -> jax.Array:
        try:
            return loss(outputs, {name: array for name, array in batch.items() if name not in PACKED_ROWS})
        except KeyError as error:
            raise BertJaxError(
                f"the task's loss reads {error}, which examples in packed rows do not have each for itself (they have "
                f"{', '.join(outputs)} and their targets): leave finetune.packing out"
            ) from error

    return of_packed


def _watch(members: Sequence[Member], on_metrics: OnMetrics | None) -> OnMetrics:
    """Tells once of each of several runs that all updates of an interval were skipped: the others hide it."""
    told: set[str] = set()

    def watch(line: dict[str, Any]) -> None:
        for member in members if len(members) > 1 else ():
            key = f"loss_{member.label}"
            if key in line and line[key] is None and member.label not in told:
                told.add(member.label)
                warn(f"{member.label}: no update up to step {line['step']} was finite; the other runs go on")
        if on_metrics is not None:
            on_metrics(line)

    return watch
