"""The steps of one training phase, compiled for a mesh, and the arrays they take: born, placed and laid out there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from bert_jax import compat
from bert_jax.config import Config
from bert_jax.errors import BertJaxError
from bert_jax.model.bert import Bert, abstract_parameters, init_parameters, make_model
from bert_jax.train.masking import Vocabulary
from bert_jax.train.memory import accumulated
from bert_jax.train.optimizer import path_name
from bert_jax.train.sharding import BATCH, REPLICATED, check_divisible, make_layout, parameter_shardings, rows_per_split
from bert_jax.train.state import Choice, State, init_state, resolve, resolve_attention
from bert_jax.train.step import Metrics, make_evaluate_step, make_train_step

Tree = Any
_NARROW = {np.dtype(np.int64): np.int32, np.dtype(np.uint64): np.uint32, np.dtype(np.float64): np.float32}


@dataclass(frozen=True)
class Program:
    """One phase of training on one mesh. Made by `make_program`; nothing here waits for the device."""

    mesh: jax.sharding.Mesh
    model: Bert
    config: Config
    phase_index: int
    choices: dict[str, Choice]
    """What was resolved from the machine (dtype, scan_layers, vocab_multiple, attention; accumulation where there is
    any), and why: for the log."""
    state_shardings: State
    compiled_init: Any
    """The jitted drawing of a state from a key."""
    compiled_train_step: Any
    """The jitted step itself, to lower and compile by hand; call `train_step` instead."""
    compiled_evaluate_step: Any
    """The jitted evaluation step itself."""

    def init_state(self, params: Tree | None = None) -> State:
        """The state before step 0, each device making only its own part.

        `params`: start from these (copied, never donated) instead of drawing them from `train.seed`; their paths and
        shapes must be the model's. Errors: `BertJaxError` naming a path that is missing, unknown or of another shape.
        """
        with compat.set_mesh(self.mesh):
            if params is None:
                return self.compiled_init(jax.random.key(self.config.train.seed))
            placed = self.place_params(params)
            copy = jax.jit(lambda tree: init_state(jax.tree.map(jnp.copy, tree)), out_shardings=self.state_shardings)
            return copy(placed)

    def place_params(self, params: Tree) -> Tree:
        """Parameters laid out as the state's are, each process handing over its own part of what it holds whole.

        Errors: `BertJaxError` naming a path that is missing, unknown or of another shape.
        """
        check_parameters(params, abstract_parameters(self.model))
        return jax.tree.map(_from_host, params, self.state_shardings.params)

    def abstract_state(self) -> State:
        """Shapes, dtypes and shardings of the state, nothing allocated: what a checkpoint is restored into."""
        return abstract_state(self.model, self.state_shardings)

    def train_step(self, state: State, batch: Mapping[str, jax.Array]) -> tuple[State, Metrics]:
        """One update. `state` may be donated: use the returned one. `batch` in either schema, from `place`."""
        with compat.set_mesh(self.mesh):
            return self.compiled_train_step(state, dict(batch))

    def evaluate_step(self, params: Tree, batch: Mapping[str, jax.Array]) -> Metrics:
        """Sums over one batch, without dropout, under the masks every evaluation uses."""
        with compat.set_mesh(self.mesh):
            return self.compiled_evaluate_step(params, dict(batch))

    def place(self, host_batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """This process's rows of a batch as global arrays, rows over (data, fsdp).

        Errors: `BertJaxError` when the rows do not divide by what this process's devices take.
        """
        sharding = NamedSharding(self.mesh, BATCH)
        processes = jax.process_count()
        split = rows_per_split(self.mesh)

        def put(name: str, array: np.ndarray) -> jax.Array:
            array = np.asarray(array)
            rows = array.shape[0] * processes
            if rows % split:
                raise BertJaxError(f"batch key {name!r} has {rows} rows: not a multiple of mesh data × fsdp = {split}")
            array = array.astype(_NARROW.get(array.dtype, array.dtype), copy=False)
            return jax.make_array_from_process_local_data(sharding, array, (rows, *array.shape[1:]))

        return {name: put(name, array) for name, array in host_batch.items()}


def make_program(config: Config, phase_index: int, mesh: jax.sharding.Mesh, vocabulary: Vocabulary) -> Program:
    """The steps of one phase on one mesh (see `sharding.make_mesh`).

    `config.model.vocab_size` unset means the vocabulary's. Errors: `BertJaxError` for whatever does not divide, and
    for a vocabulary of another size than the model's.
    """
    own = config.train
    config = dataclasses.replace(config, model=config.model.with_vocab_size(vocabulary.size))
    config, accumulation = accumulated(config, phase_index, mesh)
    check_divisible(config, phase_index, mesh)
    phase, train = config.phases[phase_index], config.train
    if phase.length > config.model.max_position_embeddings:
        raise BertJaxError(
            f"phase {phase_index} has sequences of {phase.length} tokens: the model has "
            f"{config.model.max_position_embeddings} positions; raise model.max_position_embeddings"
        )
    if train.objective != "mlm" and config.model.type_vocab_size < 2:
        raise BertJaxError(
            f"train.objective {train.objective} needs two segments: model.type_vocab_size is "
            f"{config.model.type_vocab_size}"
        )
    choices = resolve(train, mesh)
    choices["attention"] = resolve_attention(train.attention, config.model, phase.length, mesh)
    if accumulation.value > 1 or own.sequences_per_chip is not None:
        choices["accumulation"] = accumulation
    model = make_model(
        config.model,
        heads=("masked_lm",) if train.objective == "mlm" else ("masked_lm", "next_sentence"),
        dtype=choices["dtype"].value,
        attention=train.attention,
        scan_layers=choices["scan_layers"].value,
        remat=train.remat,
        vocab_multiple=choices["vocab_multiple"].value,
        layout=make_layout(mesh),
    )
    shardings = state_shardings(model, mesh)
    rows, everywhere = NamedSharding(mesh, BATCH), NamedSharding(mesh, REPLICATED)
    return Program(
        mesh=mesh,
        model=model,
        config=config,
        phase_index=phase_index,
        choices=choices,
        state_shardings=shardings,
        compiled_init=jax.jit(lambda key: init_state(init_parameters(model, key)), out_shardings=shardings),
        compiled_train_step=jax.jit(
            make_train_step(model, config, phase_index, vocabulary, mesh),
            in_shardings=(shardings, rows),
            out_shardings=(shardings, everywhere),
            donate_argnums=(0,) if compat.donatable(mesh.devices.flat[0].platform) else (),
        ),
        compiled_evaluate_step=jax.jit(
            make_evaluate_step(model, config, phase_index, vocabulary),
            in_shardings=(shardings.params, rows),
            out_shardings=everywhere,
        ),
    )


def state_shardings(model: Bert, mesh: jax.sharding.Mesh) -> Any:
    """A `State` of shardings: moments lie where their parameters lie, scalars everywhere."""
    everywhere = NamedSharding(mesh, REPLICATED)
    params = parameter_shardings(abstract_parameters(model), mesh)
    shapes = jax.eval_shape(init_state, abstract_parameters(model))
    layout = jax.tree.map(lambda _: everywhere, shapes)
    return layout._replace(params=params, opt_state=type(shapes.opt_state)(*(params for _ in shapes.opt_state)))


def abstract_state(model: Bert, shardings: State) -> State:
    """Shapes and dtypes of the state of `model`, with `shardings` attached."""
    shapes = jax.eval_shape(init_state, abstract_parameters(model))
    return jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding), shapes, shardings
    )


def check_parameters(params: Tree, expected: Tree) -> None:
    """Compare paths and shapes. Errors: `BertJaxError` naming the first difference and how many there are."""

    def shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
        return {path_name(path): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}

    given, wanted = shapes(params), shapes(expected)
    wrong = sorted(path for path in given.keys() | wanted.keys() if given.get(path) != wanted.get(path))
    if wrong:
        path = wrong[0]
        raise BertJaxError(
            f"{len(wrong)} parameters do not fit the model; the first, {path!r}, has shape "
            f"{given.get(path, 'none (it is missing)')}: expected {wanted.get(path, 'no such parameter')}"
        )


def _from_host(value: Any, sharding: NamedSharding) -> jax.Array:
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        return value
    array = np.asarray(value, np.float32)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
