"""Fine-tuning steps: the encoder with a task's head and loss, of one run or of several side by side.

Runs side by side differ in seed and learning rate only. They are one program: the step of one run, mapped over a
leading axis of state and batch (S runs), so that a device does the work of all with the calls of one. Letters as in
`tasks.task`: B batch, K sequences per example, T position.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from bert_jax import compat
from bert_jax.compat import threefry_2x32
from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import FinetuneConfig
from bert_jax.model.bert import OF_EXAMPLES, Bert, abstract_parameters, apply
from bert_jax.model.dropout import Dropout
from bert_jax.train.metrics import Measures
from bert_jax.train.optimizer import path_name
from bert_jax.train.program import abstract_state, check_parameters, state_shardings
from bert_jax.train.schedule import schedule_of
from bert_jax.train.sharding import BATCH, REPLICATED, gather_outside_encoder, rows_per_split
from bert_jax.train.state import Choice, State, init_state
from bert_jax.train.step import DROPOUT, Metrics, make_update, token_counts

Tree = Any
Batch = Mapping[str, jax.Array]
Outputs = Mapping[str, jax.Array]
_NARROW = {np.dtype(np.int64): np.int32, np.dtype(np.uint64): np.uint32, np.dtype(np.float64): np.float32}
_SEQUENCES = ("input_ids", "input_mask", "segment_ids")
_OF_EXAMPLES = ("pooled_output", *(f"{head}_logits" for head in OF_EXAMPLES))


class Member(NamedTuple):
    """One of several runs side by side: its name, seed and peak learning rate."""

    label: str
    seed: int
    learning_rate: float


class Learned(NamedTuple):
    """What a task adds to an encoder: the module with its head, the loss (B,) of each example, what is predicted from.

    Both functions are given (outputs of the model, batch), pure.
    """

    model: Bert
    loss: Callable[[Outputs, Batch], jax.Array]
    answers: Callable[[Outputs, Batch], dict[str, jax.Array]]


def outputs_of(model: Bert, params: Tree, batch: Batch, dropout: Dropout | None = None) -> dict[str, Any]:
    """The model's outputs for batches of (B, T), or of (B, K, T), whose outputs then are (B, K, …) too.

    `dropout` is given the examples' ids; the K sequences of one example draw with ids of their own. Of R packed rows,
    for P examples each (see `tasks.batches.make_packed_batch`), there are those outputs that each example has, (R · P,
    …).
    """
    ids, packed = batch["input_ids"], "sequence_ids" in batch
    flat = {name: array.reshape(-1, ids.shape[-1]) if name in _SEQUENCES else array for name, array in batch.items()}
    if dropout is not None:
        example_ids = batch["example_ids"].astype(jnp.uint32)
        if ids.ndim == 3:
            places = jnp.arange(ids.shape[1], dtype=jnp.uint32)
            example_ids = (example_ids[:, None] * np.uint32(ids.shape[1]) + places).reshape(-1)
        if packed:
            example_ids = example_ids.reshape(batch["cls_positions"].shape)
        dropout = Dropout(dropout.key, example_ids, dropout.kind, dropout.always)
    outputs = apply(model, gather_outside_encoder(params, model.layout), flat, dropout)
    if packed:
        return {name: outputs[name].reshape(-1, outputs[name].shape[-1]) for name in _OF_EXAMPLES if name in outputs}
    if ids.ndim == 2:
        return outputs
    return {name: array.reshape(*ids.shape[:2], *array.shape[1:]) for name, array in outputs.items()}


def measures_of(members: Sequence[Member]) -> Measures:
    """What the steps measure: the loss, and that of each run where there are several."""
    labels = [member.label for member in members] if len(members) > 1 else []
    learned = ["loss", "grad_norm", *(f"loss_{label}" for label in labels), *(f"updates_{label}" for label in labels)]
    means: dict[str, tuple[str, str | None]] = {"loss": ("loss", None)}
    return Measures(
        tuple(learned), means | {f"loss_{label}": (f"loss_{label}", f"updates_{label}") for label in labels}
    )


def update_factors(params: Tree, config: FinetuneConfig, layers: int) -> Tree | None:
    """By how much the update of each parameter is multiplied: 0 where frozen; None where all are 1.

    Layers are counted from the embeddings (0) over the encoder's (1 … L) to pooler and head (L + 1), and
    `layer_decay` is to the power of the distance from the head (arXiv:2003.10555, appendix B).
    """
    decay, frozen = config.finetune.layer_decay, config.finetune.frozen_layers
    if decay == 1.0 and not frozen:
        return None

    def factor(path: Sequence[Any], _: Any) -> float:
        name = path_name(path)
        layer = re.match(r"encoder/layer_(\d+)/", name)
        depth = 0 if name.startswith("embeddings/") else int(layer[1]) + 1 if layer else layers + 1
        return 0.0 if frozen and depth <= frozen else decay ** (layers + 1 - depth)

    return jax.tree_util.tree_map_with_path(factor, params)


def _make_member_step(learned: Learned, config: FinetuneConfig) -> Callable[..., tuple[State, Metrics]]:
    """`step(state, batch, seed, rate, always) -> (state, metrics)` of one run."""
    model, kind = learned.model, config.finetune.generator
    update = make_update(config.optimizer)
    factors = update_factors(abstract_parameters(model), config, model.config.num_hidden_layers)

    def thawed(params: Tree) -> Tree:
        if factors is None:
            return params
        # Nothing is computed backwards below the lowest layer that learns.
        return jax.tree.map(lambda leaf, factor: leaf if factor else jax.lax.stop_gradient(leaf), params, factors)

    def step(
        state: State, batch: Batch, seed: jax.Array, rate: jax.Array, always: jax.Array | None
    ) -> tuple[State, Metrics]:
        weights = batch["weights"]
        dropout = Dropout(dropout_key_of(seed, state.step), None, kind, always)

        def loss_of(params: Tree) -> jax.Array:
            losses = learned.loss(outputs_of(model, thawed(params), batch, dropout), batch)
            losses = jnp.where(weights > 0, losses.astype(jnp.float32), 0.0)
            return jnp.sum(weights * losses) / jnp.maximum(jnp.sum(weights), 1.0)

        loss, grads = jax.value_and_grad(loss_of)(state.params)
        state, norms = update(state, grads, loss, rate, state.step + 1, factors)
        return state, {"loss": loss} | norms | _counts(batch)

    return step


def dropout_key_of(seed: jax.Array, step: jax.Array) -> jax.Array:
    """`step.dropout_key` for a seed (uint32) that is an array."""
    return jnp.stack(threefry_2x32(seed, jnp.uint32(0), step.astype(jnp.uint32), DROPOUT))


def _counts(batch: Batch) -> Metrics:
    """`token_counts` of the rows that count."""
    if "sequence_ids" in batch:  # which are all that there are
        return token_counts(batch)
    weights = batch["weights"] > 0
    mask = batch["input_mask"].astype(bool)
    if "sequence_mask" in batch:  # a sequence that is missing repeats another
        mask &= batch["sequence_mask"][..., None] > 0
    mask &= weights.reshape(-1, *[1] * (batch["input_mask"].ndim - 1))
    length = mask.shape[-1]
    return token_counts({"input_ids": batch["input_ids"].reshape(-1, length), "input_mask": mask.reshape(-1, length)})


_SUMMED = ("sequences", "real_tokens", "real_tokens_squared", "tokens")


def _over_members(metrics: Metrics, members: Sequence[Member]) -> Metrics:
    """Metrics (S,) of runs side by side as scalars: means over those whose update was finite, counts as sums."""
    good = metrics["nonfinite"] == 0
    count = jnp.maximum(jnp.sum(good), 1)
    found = {
        name: jnp.sum(values) if name in _SUMMED else jnp.sum(jnp.where(good, values, 0)) / count
        for name, values in metrics.items()
    }
    for index, member in enumerate(members):
        found[f"loss_{member.label}"] = jnp.where(good[index], metrics["loss"][index], 0.0)
        found[f"updates_{member.label}"] = good[index].astype(jnp.int32)
    return found | {"nonfinite": jnp.min(metrics["nonfinite"])}


def make_finetune_step(
    learned: Learned, config: FinetuneConfig, members: Sequence[Member]
) -> Callable[[State, Batch, jax.Array], tuple[State, Metrics]]:
    """`train_step(state, batch, seeds)`: of one run, or of S side by side, whose state and batch have a leading axis S.

    `seeds` uint32 (S,): no constant of the program, so that one serves every seed with the same learning rate.
    """
    step = _make_member_step(learned, config)
    schedules = [schedule_of(config.total_steps, config.optimizer, member.learning_rate) for member in members]

    def one(state: State, batch: Batch, seeds: jax.Array) -> tuple[State, Metrics]:
        return step(state, batch, seeds[0], schedules[0](state.step), None)

    def several(state: State, batch: Batch, seeds: jax.Array) -> tuple[State, Metrics]:
        now = state.step[0]  # the same in all
        rates = jnp.stack([schedule(now) for schedule in schedules])
        mapped = jax.vmap(step, in_axes=(0, 0, 0, 0, None))
        state, metrics = mapped(state, batch, seeds, rates, now >= 0)
        return state, _over_members(metrics, members)

    return several if len(members) > 1 else one


@dataclass(frozen=True)
class FinetuneProgram:
    """The steps of one or several runs on one mesh. Made by `make_finetune_program`; nothing waits for the device.

    With several runs side by side every array of a state, and of a training batch, has a leading axis S.
    """

    mesh: jax.sharding.Mesh
    learned: Learned
    members: tuple[Member, ...]
    choices: dict[str, Choice]
    state_shardings: State
    batch_sharding: NamedSharding
    shared_sharding: NamedSharding
    """Of batches that all members are evaluated on."""
    compiled_train_step: Any
    compiled_predict_step: Any

    @property
    def seeds(self) -> np.ndarray:
        """The members' seeds, uint32 (S,)."""
        return np.asarray([member.seed for member in self.members], np.uint32)

    @property
    def model(self) -> Bert:
        """The Flax module with the task's head."""
        return self.learned.model

    def init_state(self, params: Tree) -> State:
        """The state before step 0, of the parameters of all members (with the axis S where they are several)."""
        with compat.set_mesh(self.mesh):
            copy = jax.jit(self._state_of, out_shardings=self.state_shardings)
            return copy(self.place_params(params))

    def _state_of(self, params: Tree) -> State:
        make = jax.vmap(init_state) if len(self.members) > 1 else init_state
        return make(jax.tree.map(jnp.copy, params))

    def place_params(self, params: Tree) -> Tree:
        """Parameters laid out as the state's are. Errors: `BertJaxError` naming a path that does not fit the model."""
        check_parameters(params, self.abstract_state().params)
        return jax.tree.map(_whole, params, self.state_shardings.params)

    def abstract_state(self) -> State:
        """Shapes, dtypes and shardings of the state: what a checkpoint is restored into."""
        if len(self.members) == 1:
            return abstract_state(self.model, self.state_shardings)
        shapes = jax.eval_shape(jax.vmap(init_state), stacked_shapes(self.model, len(self.members)))
        return jax.tree.map(
            lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
            shapes,
            self.state_shardings,
        )

    def train_step(self, state: State, batch: Mapping[str, jax.Array]) -> tuple[State, Metrics]:
        """One update of all members. `state` may be donated: use the returned one."""
        with compat.set_mesh(self.mesh):
            return self.compiled_train_step(state, dict(batch), self.seeds)

    def predict_step(self, params: Tree, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """What the form predicts from, for a batch that all members share; with an axis S where they are several."""
        placed = {name: _whole(array, self.shared_sharding) for name, array in batch.items()}
        with compat.set_mesh(self.mesh):
            return self.compiled_predict_step(params, placed)

    def place(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """A whole training batch as global arrays: every process makes the same one and hands over its part."""
        return {name: _whole(array, self.batch_sharding) for name, array in batch.items()}


def stacked_shapes(model: Bert, count: int) -> Tree:
    """Shapes of the parameters of `count` runs side by side."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype), abstract_parameters(model))


def spread_by_member(members: Sequence[Member], mesh: jax.sharding.Mesh) -> bool:
    """Whether each device has some of several runs, and all their rows, rather than a part of everyone's rows."""
    return len(members) > 1 and len(members) % mesh.size == 0


def make_finetune_program(
    learned: Learned,
    config: FinetuneConfig,
    members: Sequence[Member],
    mesh: jax.sharding.Mesh,
    choices: dict[str, Choice],
) -> FinetuneProgram:
    """The steps for `members` on `mesh`.

    Several ride on the data axis: each device has some of them where their number divides by it, else a part of
    everyone's rows. Errors: `BertJaxError` for a batch that does not divide, and for several on a mesh that cuts
    parameters.
    """
    several, batch = len(members) > 1, config.finetune.batch
    if several and mesh.shape["data"] != mesh.size:
        raise BertJaxError(
            f"{len(members)} runs side by side on a mesh that cuts parameters: leave mesh.fsdp and mesh.tensor at 1, "
            "or give --finetune.side-by-side 1"
        )
    by_member = spread_by_member(members, mesh)
    if not by_member and config.finetune.packing == 1 and batch % rows_per_split(mesh):
        raise BertJaxError(
            f"finetune.batch is {batch}: expected a multiple of {rows_per_split(mesh)} (mesh data × fsdp)"
        )
    everywhere = NamedSharding(mesh, REPLICATED)
    if several:
        leading = NamedSharding(mesh, PartitionSpec("data")) if by_member else everywhere
        shapes = jax.eval_shape(jax.vmap(init_state), stacked_shapes(learned.model, len(members)))
        shardings = jax.tree.map(lambda _: leading, shapes)
        rows = leading if by_member else NamedSharding(mesh, PartitionSpec(None, *BATCH))
    else:
        shardings, rows = state_shardings(learned.model, mesh), NamedSharding(mesh, BATCH)

    def predict(params: Tree, batch: Batch) -> dict[str, jax.Array]:
        return learned.answers(outputs_of(learned.model, params, batch), batch)

    shared = everywhere if by_member else NamedSharding(mesh, BATCH)
    return FinetuneProgram(
        mesh=mesh,
        learned=learned,
        members=tuple(members),
        choices=choices,
        state_shardings=shardings,
        batch_sharding=rows,
        shared_sharding=shared,
        compiled_train_step=jax.jit(
            make_finetune_step(learned, config, members),
            in_shardings=(shardings, rows, everywhere),
            out_shardings=(shardings, everywhere),
            donate_argnums=(0,) if compat.donatable(mesh.devices.flat[0].platform) else (),
        ),
        compiled_predict_step=jax.jit(
            jax.vmap(predict, in_axes=(0, None)) if several else predict,
            in_shardings=(shardings.params, shared),
            out_shardings=everywhere,
        ),
    )


def _whole(value: Any, sharding: NamedSharding) -> jax.Array:
    """A host array that every process holds whole, laid out by `sharding`."""
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        return value
    array = np.asarray(value)
    array = array.astype(_NARROW.get(array.dtype, array.dtype), copy=False)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
