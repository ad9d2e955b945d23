"""The mesh and the layout table: golden per mesh, every wrong setting named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import compat
from bert_jax.bert_config import BertConfig
from bert_jax.config import Config, Mesh, Train
from bert_jax.errors import BertJaxError
from bert_jax.model.bert import abstract_parameters, make_model
from bert_jax.train import sharding
from bert_jax.train.optimizer import path_name

GOLDEN = Path(__file__).parent / "golden" / "shardings.txt"


def mesh(data: int = 1, fsdp: int = 1, tensor: int = 1) -> jax.sharding.Mesh:
    return sharding.make_mesh(Mesh(data, fsdp, tensor), jax.devices()[: data * fsdp * tensor])


def parameters(**changes: Any) -> Any:
    return abstract_parameters(make_model(BertConfig.preset("tiny", **changes)))


def test_what_is_left_goes_to_minus_one() -> None:
    assert dict(sharding.make_mesh(Mesh(), jax.devices()).shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert dict(sharding.make_mesh(Mesh(2, -1, 2), jax.devices()).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    made = sharding.make_mesh(Mesh(2, 2, 2))
    assert made.axis_names == sharding.AXES
    assert set(made.axis_types) == {jax.sharding.AxisType.Auto}
    assert sharding.rows_per_split(made) == 4


@pytest.mark.parametrize("sizes", [(3, -1, 1), (2, 2, 1), (-1, -1, 1), (0, 1, 1), (16, 1, 1), (-1, 16, 1)])
def test_sizes_that_do_not_fit_are_an_error(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(BertJaxError, match=rf"mesh.data {sizes[0]}, mesh.fsdp {sizes[1]}, mesh.tensor {sizes[2]}"):
        sharding.make_mesh(Mesh(*sizes), jax.devices())


def test_layout_golden() -> None:
    """Refresh with BERT_JAX_REFRESH=1 after looking at the difference."""
    tree = parameters()
    shardings = jax.tree.leaves(sharding.parameter_shardings(tree, mesh(2, 2, 2)))
    lines = [
        f"{path_name(path)} {leaf.shape} {tuple(layout.spec)}\n"
        for (path, leaf), layout in zip(jax.tree_util.tree_leaves_with_path(tree), shardings, strict=True)
    ]
    if os.environ.get("BERT_JAX_REFRESH"):
        GOLDEN.write_text("".join(lines))
    assert "".join(lines) == GOLDEN.read_text(), (
        "the layout of some parameter changed. If that is intended, refresh with BERT_JAX_REFRESH=1"
    )


def test_on_one_device_everything_fits_and_large_parameters_are_cut_on_many() -> None:
    tree = parameters()
    whole = sum(leaf.size for leaf in jax.tree.leaves(tree))
    for sizes, share in (((1, 1, 1), 1.0), ((8, 1, 1), 1.0), ((1, 2, 1), 0.51), ((1, 4, 2), 0.27)):
        shardings = sharding.parameter_shardings(tree, mesh(*sizes))
        parts = jax.tree.map(lambda layout, leaf: int(np.prod(layout.shard_shape(leaf.shape))), shardings, tree)
        own = sum(jax.tree.leaves(parts))
        assert own <= share * whole


def test_a_dimension_that_does_not_divide_is_an_error() -> None:
    with pytest.raises(BertJaxError, match=r"'embeddings/position_embeddings' has shape \(512, 132\): mesh.fsdp 8 "):
        sharding.parameter_specs(parameters(hidden_size=132, num_attention_heads=2), mesh(1, 8, 1))


def test_an_unknown_path_and_a_wrong_rank_are_errors() -> None:
    with pytest.raises(BertJaxError, match=r"'encoder/gate/kernel' matches no pattern of the sharding table"):
        sharding.parameter_specs({"encoder": {"gate": {"kernel": jnp.ones((2, 2))}}}, mesh())
    with pytest.raises(BertJaxError, match=r"'pooler/kernel' has shape \(2,\): the sharding table gives it"):
        sharding.parameter_specs({"pooler": {"kernel": jnp.ones(2)}}, mesh())


@pytest.mark.parametrize(
    ("train", "sizes", "message"),
    [
        (Train(batch=12, steps=1), (8, 1, 1), r"the batch of phase 0 is 12: expected a multiple of 8"),
        (Train(batch=16, steps=1, accumulation=4), (2, 4, 1), r"is 16: expected a multiple of 32 .*accumulation 4"),
        (Train(batch=16, steps=1, accumulation=0), (1, 1, 1), r"train.accumulation is 0"),
        (Train(batch=16, steps=1), (1, 1, 8), r"model.num_attention_heads is 2: not a multiple of mesh.tensor 8"),
    ],
)
def test_what_does_not_divide_is_named(train: Train, sizes: tuple[int, int, int], message: str) -> None:
    config = Config(model=BertConfig.preset("tiny"), train=train)
    with pytest.raises(BertJaxError, match=message):
        sharding.check_divisible(config, 0, mesh(*sizes))


def test_microbatches_are_interleaved_and_exchange_nothing() -> None:
    made = mesh(4, 2, 1)
    rows = jax.sharding.NamedSharding(made, sharding.BATCH)
    batch = {"a": jax.device_put(np.arange(32, dtype=np.int32), rows)}
    split = jax.jit(lambda tree: sharding.microbatches(tree, 2, made))
    np.testing.assert_array_equal(split(batch)["a"], np.arange(32).reshape(16, 2).T)
    text = split.lower(batch).compile().as_text()
    assert "all-" not in text
    assert "collective-permute" not in text


def test_each_device_draws_rows_of_its_own() -> None:
    laid_out = mesh(2, 2, 2)
    key = jax.random.key_data(jax.random.key(3, impl="rbg"))

    def draw(key: jax.Array, rows: int) -> jax.Array:
        return jax.random.bits(jax.random.wrap_key_data(key, impl="rbg"), (rows, 5), np.uint32)

    with compat.set_mesh(laid_out):
        found, again, odd = (
            np.asarray(jax.jit(lambda n=n: sharding.drawn(laid_out, draw, key, n))()) for n in (8, 8, 6)
        )
    assert found.shape == (8, 5)
    assert len(np.unique(found)) == found.size  # no two devices draw the same
    np.testing.assert_array_equal(found, again)
    np.testing.assert_array_equal(odd, draw(key, 6))  # rows that do not divide
