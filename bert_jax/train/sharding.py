"""How arrays are laid out over the devices: one mesh of three axes, one table from parameter path to layout.

* `data`: each device has its own rows of the batch and a whole copy of the parameters.
* `fsdp`: each device has its own rows of the batch *and* a part of every large parameter, gathered when a layer runs.
* `tensor`: the devices share their rows; each has some of the attention heads and of the feed-forward width.

How to read a row of `PARAMETERS`: the pattern must match the whole path, and the layout names, dimension by dimension,
the mesh axis that dimension is cut along (None: not cut). `("fsdp", "tensor", None)` for a (D, N, H) kernel means: D in
as many parts as `fsdp` has devices, the N heads in as many as `tensor` has, H whole. The reader's rule for where the
axes go: `tensor` cuts the dimension a layer is wide inside (heads, F), the same one on the way in and on the way out,
so that one sum over `tensor` per sub-layer is all that is exchanged; `fsdp` cuts the other large one, D.

Optimizer moments lie where their parameters lie. The vocabulary V is never cut in the state (30,522 divides by
little): the step pads it and cuts the padded logits along `tensor`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from bert_jax import compat
from bert_jax.config import Config
from bert_jax.config import Mesh as MeshConfig
from bert_jax.errors import BertJaxError
from bert_jax.model.bert import CLASSIFIERS
from bert_jax.model.layout import Layout
from bert_jax.train.optimizer import lookup, path_name

Tree = Any

AXES = ("data", "fsdp", "tensor")
BATCH = PartitionSpec(("data", "fsdp"))
"""Layout of every array whose first dimension is the batch."""
REPLICATED = PartitionSpec()

PARAMETERS: tuple[tuple[str, PartitionSpec], ...] = (
    (r"embeddings/\w+_embeddings", PartitionSpec(None, "fsdp")),  # (V, D)
    (r"(.*/)?layer_norm/(scale|bias)", REPLICATED),  # (D,)
    (r"encoder/layer_\d+/attention/(query|key|value)/kernel", PartitionSpec("fsdp", "tensor", None)),  # (D, N, H)
    (r"encoder/layer_\d+/attention/(query|key|value)/bias", PartitionSpec("tensor", None)),  # (N, H)
    (r"encoder/layer_\d+/attention/output/kernel", PartitionSpec("tensor", None, "fsdp")),  # (N, H, D)
    (r"encoder/layer_\d+/feed_forward/intermediate/kernel", PartitionSpec("fsdp", "tensor")),  # (D, F)
    (r"encoder/layer_\d+/feed_forward/intermediate/bias", PartitionSpec("tensor")),  # (F,)
    (r"encoder/layer_\d+/feed_forward/output/kernel", PartitionSpec("tensor", "fsdp")),  # (F, D)
    (r"encoder/layer_\d+/(attention|feed_forward)/output/bias", REPLICATED),  # (D,)
    (r"(pooler|masked_lm/transform)/kernel", PartitionSpec("fsdp", None)),  # (D, D)
    (r"(pooler|masked_lm/transform)/bias", REPLICATED),  # (D,)
    (r"masked_lm/bias", REPLICATED),  # (V,)
    (rf"({'|'.join(CLASSIFIERS)})/(kernel|bias)", REPLICATED),  # (D, C), (C,)
)


def make_mesh(mesh: MeshConfig, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """The mesh of a configuration over `devices` (default: all); one axis may be -1 and takes what is left.

    Errors: `BertJaxError` when the sizes do not multiply to the number of devices, or several processes would hold the
    same rows of a batch.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = mesh_sizes(mesh, len(devices))
    wanted = _wanted(mesh)
    rows, processes = sizes[0] * sizes[1], len({device.process_index for device in devices})
    if rows % processes:
        raise BertJaxError(
            f"{wanted}: {processes} processes cannot share {rows} parts of the batch (data × fsdp); "
            "keep mesh.tensor within one process"
        )
    return compat.make_mesh(tuple(sizes), AXES, devices)


def mesh_sizes(mesh: MeshConfig, devices: int) -> list[int]:
    """The size of each axis over so many devices, -1 resolved. Errors: `BertJaxError` when the product is another."""
    sizes = [getattr(mesh, axis) for axis in AXES]
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise BertJaxError(f"{_wanted(mesh)}: each must be at least 1, or -1 for what is left (only one of them)")
    known = int(np.prod([size for size in sizes if size != -1]))
    if -1 in sizes:
        sizes[sizes.index(-1)] = devices // known
    if int(np.prod(sizes)) != devices or 0 in sizes:
        raise BertJaxError(f"{_wanted(mesh)} does not fit {devices} devices: make their product {devices}")
    return sizes


def _wanted(mesh: MeshConfig) -> str:
    return ", ".join(f"mesh.{axis} {getattr(mesh, axis)}" for axis in AXES)


def rows_per_split(mesh: jax.sharding.Mesh) -> int:
    """Into how many parts the batch is cut: data × fsdp."""
    return int(mesh.shape["data"] * mesh.shape["fsdp"])


def check_divisible(config: Config, phase_index: int, mesh: jax.sharding.Mesh) -> None:
    """Check that batch, heads and feed-forward width divide as the mesh asks.

    Errors: `BertJaxError` naming the field, its value, and what it must be a multiple of.
    """
    model, tensor = config.model, mesh.shape["tensor"]
    split, accumulation = rows_per_split(mesh), config.train.accumulation
    batch = config.phases[phase_index].batch
    if accumulation < 1:
        raise BertJaxError(f"train.accumulation is {accumulation}: give at least 1")
    if batch % (split * accumulation):
        raise BertJaxError(
            f"the batch of phase {phase_index} is {batch}: expected a multiple of {split * accumulation} "
            f"(mesh data × fsdp = {split}, accumulation {accumulation}); change train.batch or the mesh"
        )
    for name in ("num_attention_heads", "intermediate_size"):
        if getattr(model, name) % tensor:
            raise BertJaxError(
                f"model.{name} is {getattr(model, name)}: not a multiple of mesh.tensor {tensor}; change mesh.tensor"
            )


def parameter_specs(params: Tree, mesh: jax.sharding.Mesh) -> Tree:
    """The layout of each parameter (arrays or shapes).

    Errors: `BertJaxError` for a path without a row, and for a dimension that its mesh axis does not divide.
    """

    def spec(path: Sequence[Any], leaf: Any) -> PartitionSpec:
        name = path_name(path)
        found = lookup(PARAMETERS, name, "sharding")
        if len(found) > len(leaf.shape):
            raise BertJaxError(f"parameter {name!r} has shape {tuple(leaf.shape)}: the sharding table gives it {found}")
        for size, axis in zip(leaf.shape, found, strict=False):
            if axis is not None and size % mesh.shape[axis]:
                raise BertJaxError(
                    f"parameter {name!r} has shape {tuple(leaf.shape)}: mesh.{axis} {mesh.shape[axis]} does not divide "
                    f"{size}; choose another mesh.{axis}"
                )
        return found

    return jax.tree_util.tree_map_with_path(spec, params)


def parameter_shardings(params: Tree, mesh: jax.sharding.Mesh) -> Tree:
    """`parameter_specs` on the mesh."""
    specs = parameter_specs(params, mesh)
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=_is_spec)


def make_layout(mesh: jax.sharding.Mesh) -> Layout:
    """The layout the model is run with: rows over (data, fsdp), each layer's parameters gathered where it runs.

    Left to itself the partitioner gathers whole batches of activations rather than one layer's parameters. The
    gradient of a gathered parameter is cut again (a reduce-scatter), so no device ever holds all of it for long.
    """
    platform = mesh.devices.flat[0].platform
    if mesh.size == 1:
        return Layout(platform=platform)

    def constrain(spec: PartitionSpec) -> Callable[[jax.Array], jax.Array]:
        return lambda array: jax.lax.with_sharding_constraint(array, NamedSharding(mesh, spec))

    def parameters(path: str, params: Tree) -> Tree:
        def gather(inner: Sequence[Any], leaf: jax.Array) -> jax.Array:
            spec = lookup(PARAMETERS, f"{path}/{path_name(inner)}", "sharding")
            gathered = PartitionSpec(*(None if axis == "fsdp" else axis for axis in spec))
            return _gathered(leaf, constrain(gathered), constrain(spec))

        return jax.tree_util.tree_map_with_path(gather, params)

    layout = Layout(
        rows=constrain(BATCH), by_device=partial(by_device, mesh), drawn=partial(drawn, mesh), platform=platform
    )
    if mesh.shape["fsdp"] > 1:
        layout = layout._replace(parameters=parameters)
    if mesh.shape["tensor"] > 1:
        layout = layout._replace(table=constrain(PartitionSpec("tensor", None)))
    return layout


def by_device(mesh: jax.sharding.Mesh, attend: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """`attend(q, k, v, segments)` run by each device on its own rows and heads; rows that do not divide, by all."""

    def run(query: jax.Array, key: jax.Array, value: jax.Array, segments: jax.Array) -> jax.Array:
        rows = BATCH if query.shape[0] % rows_per_split(mesh) == 0 else PartitionSpec(None)
        heads = PartitionSpec(*rows, None, "tensor", None)
        cut = compat.shard_map(attend, mesh=mesh, in_specs=(heads, heads, heads, rows), out_specs=heads)
        return cast(jax.Array, cut(query, key, value, segments))

    return run


def drawn(mesh: jax.sharding.Mesh, draw: Callable[[jax.Array, int], jax.Array], key: jax.Array, rows: int) -> jax.Array:
    """`draw(key, rows)`, each device drawing its own rows with its own key; rows that do not divide, all of them."""
    split = rows_per_split(mesh)
    if split == 1 or rows % split:
        return draw(key, rows)

    def own(key: jax.Array) -> jax.Array:
        device = jax.lax.axis_index(("data", "fsdp"))
        first, second = compat.threefry_2x32(key[0], key[1], device, 0)
        return draw(key.at[0].set(first).at[1].set(second), rows // split)

    cut = compat.shard_map(own, mesh=mesh, in_specs=(REPLICATED,), out_specs=BATCH)
    return cast(jax.Array, cut(key))


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gathered(array: jax.Array, gather: Any, cut: Any) -> jax.Array:
    """`gather(array)`, whose gradient is laid out by `cut`."""
    return gather(array)


_gathered.defvjp(
    lambda array, gather, cut: (gather(array), None),
    lambda gather, cut, _, gradient: (cut(gradient),),
)


def gather_outside_encoder(params: Tree, layout: Layout) -> Tree:
    """The parameters with those of embeddings and heads gathered; the encoder's layers gather their own."""
    return {name: tree if name == "encoder" else layout.parameters(name, tree) for name, tree in params.items()}


def _is_spec(value: Any) -> bool:
    return isinstance(value, PartitionSpec)


def microbatches(batch: Tree, count: int, mesh: jax.sharding.Mesh | None) -> Tree:
    """(B, …) arrays as (count, B / count, …), row r in microbatch r mod count.

    Interleaved rather than cut, so that each device keeps its own rows: nothing is exchanged. `mesh` None: the arrays
    are one device's own.
    """

    def split(array: jax.Array) -> jax.Array:
        parts = array.reshape(array.shape[0] // count, count, *array.shape[1:]).swapaxes(0, 1)
        if mesh is None:
            return parts
        return jax.lax.with_sharding_constraint(parts, NamedSharding(mesh, PartitionSpec(None, *BATCH)))

    return jax.tree.map(split, batch)
