"""The steps of fine-tuning: one run and several, frozen and slowed layers, dropout, fillings, meshes."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import small_config

from bert_jax.config import Mesh, Optimizer, Train
from bert_jax.data.packing import fill_rows, packed_rows
from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import Finetune, FinetuneConfig
from bert_jax.model.bert import init_parameters, make_model
from bert_jax.model.dropout import Dropout
from bert_jax.model.parameters import flatten
from bert_jax.train.losses import negative_log_likelihood
from bert_jax.train.sharding import make_layout, make_mesh
from bert_jax.train.state import resolve
from bert_jax.train.supervised import (
    FinetuneProgram,
    Learned,
    Member,
    make_finetune_program,
    outputs_of,
    update_factors,
)

BATCH, LENGTH = 8, 12


def loss(outputs: Any, batch: Any) -> jax.Array:
    return negative_log_likelihood(outputs["classification_logits"].astype(jnp.float32), batch["labels"])


def config(**finetune: Any) -> FinetuneConfig:
    return FinetuneConfig(
        finetune=Finetune(**{"steps": 10, "batch": BATCH, **finetune}),
        optimizer=Optimizer(name="adamw", learning_rate=1e-2, warmup=0.1, decay_from="warmup"),
    )


def program(settings: FinetuneConfig, members: tuple[Member, ...], mesh: Mesh | None = None) -> FinetuneProgram:
    mesh = mesh or Mesh(data=1)
    devices = make_mesh(mesh, jax.devices()[: mesh.data * mesh.fsdp * mesh.tensor])
    layout = None if len(members) > 1 else make_layout(devices)
    model = make_model(small_config(), heads=("classification",), classes=3, layout=layout)
    learned = Learned(model, loss, lambda outputs, batch: {"logits": outputs["classification_logits"]})
    return make_finetune_program(learned, settings, members, devices, resolve(Train(), devices))


def batch(seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    lengths = random.integers(4, LENGTH + 1, BATCH)
    mask = (np.arange(LENGTH) < lengths[:, None]).astype(np.int32)
    return {
        "input_ids": random.integers(5, 25, (BATCH, LENGTH)).astype(np.int32) * mask,
        "input_mask": mask,
        "segment_ids": np.zeros((BATCH, LENGTH), np.int32),
        "example_ids": np.arange(BATCH, dtype=np.uint32) + 100 * seed,
        "weights": np.ones(BATCH, np.float32),
        "labels": random.integers(0, 3, BATCH).astype(np.int32),
    }


def params_of(seed: int = 0) -> Any:
    model = make_model(small_config(), heads=("classification",), classes=3)
    return jax.device_get(jax.jit(lambda: init_parameters(model, jax.random.key(seed)))())


Trained = tuple[Any, list[dict[str, Any]]]


def trained(made: FinetuneProgram, params: Any, batches: list[dict[str, np.ndarray]]) -> Trained:
    """The last state, and the metrics of each step."""
    state, seen = made.init_state(params), []
    for one in batches:
        state, metrics = made.train_step(state, made.place(one))
        seen.append({name: value.item() for name, value in metrics.items()})
    return jax.device_get(state), seen


MEMBERS = (Member("seed-0", 0, 1e-2), Member("seed-1", 1, 5e-3))


@pytest.fixture(scope="module")
def alone() -> list[Trained]:
    """Each of two members trained by itself, with dropout."""
    batches = {member: [batch(5 * member.seed + step) for step in range(4)] for member in MEMBERS}
    return [trained(program(config(), (member,)), params_of(member.seed), batches[member]) for member in MEMBERS]


def side_by_side(batches: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([one[name] for one in batches]) for name in batches[0]}


@pytest.mark.parametrize("mesh", [None, Mesh(data=2), Mesh(data=4)])
def test_members_side_by_side_do_what_each_does_alone(alone: list[Trained], mesh: Mesh | None) -> None:
    made = program(config(), MEMBERS, mesh)
    both = jax.tree.map(lambda *leaves: np.stack(leaves), params_of(0), params_of(1))
    batches = [side_by_side([batch(step), batch(5 + step)]) for step in range(4)]
    state, seen = trained(made, both, batches)
    for index, (own, lines) in enumerate(alone):
        found = [line[f"loss_{MEMBERS[index].label}"] for line in seen]
        np.testing.assert_allclose(found, [line["loss"] for line in lines], rtol=1e-5)
        for path, leaf in flatten(own.params).items():
            np.testing.assert_allclose(flatten(state.params)[path][index], leaf, atol=2e-5, err_msg=path)
    assert [line["sequences"] for line in seen] == [2 * BATCH] * 4


def test_one_run_is_the_same_on_every_mesh(alone: list[Trained]) -> None:
    own, lines = alone[0]
    state, seen = trained(
        program(config(), MEMBERS[:1], Mesh(data=2, fsdp=2, tensor=2)), params_of(0), [batch(step) for step in range(4)]
    )
    np.testing.assert_allclose([line["loss"] for line in seen], [line["loss"] for line in lines], rtol=1e-5)
    for path, leaf in flatten(own.params).items():
        np.testing.assert_allclose(flatten(state.params)[path], leaf, atol=2e-5, err_msg=path)


def test_rows_that_fill_a_batch_change_nothing() -> None:
    made = program(config(dropout=0.0), MEMBERS[:1])
    part, other = batch(0), batch(1)
    part["weights"][5:] = 0
    changed = {name: array.copy() for name, array in part.items()}
    for name in ("input_ids", "labels"):
        changed[name][5:] = other[name][5:]
    one, two = (trained(made, params_of(), [given]) for given in (part, changed))
    assert one[1] == two[1]
    assert one[1][0]["sequences"] == 5 and one[1][0]["real_tokens"] == part["input_mask"][:5].sum()


def test_a_member_whose_loss_is_not_finite_is_skipped_and_the_other_goes_on() -> None:
    made = program(config(), MEMBERS)
    both = jax.tree.map(lambda *leaves: np.stack(leaves), params_of(0), params_of(1))
    broken = jax.tree.map(np.copy, both)
    broken["classification"]["bias"][0] = np.nan
    state, seen = trained(made, broken, [side_by_side([batch(0), batch(5)])])
    assert seen[0]["nonfinite"] == 0 and seen[0]["updates_seed-0"] == 0 and seen[0]["updates_seed-1"] == 1
    assert state.skipped.tolist() == [1, 0]
    kernel = state.params["pooler"]["kernel"]
    np.testing.assert_array_equal(kernel[0], broken["pooler"]["kernel"][0])
    assert seen[0]["loss"] == seen[0]["loss_seed-1"]


def test_frozen_and_slowed_layers() -> None:
    params = params_of()
    factors = flatten(update_factors(params, config(layer_decay=0.5), layers=1))
    assert factors["classification/kernel"] == factors["pooler/bias"] == 1.0
    assert factors["encoder/layer_0/attention/query/kernel"] == 0.5
    assert factors["embeddings/word_embeddings"] == 0.25
    assert update_factors(params, config(), layers=1) is None
    frozen = flatten(update_factors(params, config(frozen_layers=1), layers=1))
    assert {path.split("/")[0] for path, factor in frozen.items() if factor == 0} == {"embeddings", "encoder"}


def test_sequences_of_one_example_are_told_apart() -> None:
    model = make_model(small_config(), heads=("classification",), classes=3)
    one = batch(0)
    several = {name: array.reshape(4, 2, LENGTH) for name, array in one.items() if array.ndim == 2}
    params = params_of()
    flat = jax.jit(lambda: outputs_of(model, params, one))()
    shaped = jax.jit(lambda: outputs_of(model, params, several))()
    assert shaped["classification_logits"].shape == (4, 2, 3)
    np.testing.assert_allclose(shaped["classification_logits"].reshape(8, 3), flat["classification_logits"], atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "mesh", "message"),
    [
        (config(batch=6), Mesh(data=4, fsdp=2), "finetune.batch is 6: expected a multiple of 8"),
        (config(), Mesh(data=4, fsdp=2), "side by side on a mesh that cuts parameters"),
    ],
)
def test_what_does_not_divide(settings: FinetuneConfig, mesh: Mesh, message: str) -> None:
    members = MEMBERS if "side" in message else MEMBERS[:1]
    with pytest.raises(BertJaxError, match=message):
        program(settings, members, mesh)


def packed(plain: dict[str, np.ndarray], length: int = 2 * LENGTH, most: int = 3) -> dict[str, np.ndarray]:
    """The examples of `plain` in rows of `length`, with a row that is empty behind them."""
    sizes = plain["input_mask"].sum(axis=1)
    members = np.concatenate([fill_rows(sizes, length, most), np.full((1, most), -1)])
    sequences = [
        (ids[:size], segments[:size])
        for ids, segments, size in zip(plain["input_ids"], plain["segment_ids"], sizes, strict=True)
    ]
    places = np.maximum(members, 0).reshape(-1)
    found: dict[str, np.ndarray] = dict(packed_rows(sequences, members, length, pad_id=0))
    found |= {name: plain[name][places] for name in ("example_ids", "labels")}
    found["weights"] = np.where(members.reshape(-1) < 0, 0, plain["weights"][places]).astype(np.float32)
    return found


@pytest.mark.parametrize(
    ("head", "rate"),
    [("classification", 0.3), pytest.param("first_token", 0.3, marks=pytest.mark.ci)],
)
def test_packed_examples_have_the_losses_and_gradients_they_have_alone(head: str, rate: float) -> None:
    settings = dataclasses.replace(small_config(), hidden_dropout_prob=rate, attention_probs_dropout_prob=rate)
    model = make_model(settings, heads=(head,), classes=3)
    params = jax.tree.map(lambda leaf: 5 * leaf, jax.jit(lambda: init_parameters(model, jax.random.key(0)))())
    plain = batch(3)

    @jax.jit
    def losses_and_gradients(params: Any, given: Any) -> Any:
        def of(params: Any) -> tuple[jax.Array, jax.Array]:
            outputs = outputs_of(model, params, given, Dropout(jax.random.key(4)) if rate else None)
            losses = negative_log_likelihood(outputs[f"{head}_logits"].astype(jnp.float32), given["labels"])
            return jnp.sum(given["weights"] * losses), losses

        (_, losses), gradients = jax.value_and_grad(of, has_aux=True)(params)
        return losses, gradients

    expected, expected_gradients = losses_and_gradients(params, plain)
    several = packed(plain)
    assert len(several["input_ids"]) < BATCH - 1
    losses, gradients = losses_and_gradients(params, several)
    used = several["weights"] > 0
    order = np.argsort(several["example_ids"][used])
    np.testing.assert_allclose(np.asarray(losses)[used][order], expected, atol=1e-5)
    for (path, leaf), other in zip(
        jax.tree_util.tree_leaves_with_path(gradients), jax.tree.leaves(expected_gradients), strict=True
    ):
        np.testing.assert_allclose(leaf, other, atol=1e-5 * max(1.0, float(np.abs(other).max())), err_msg=str(path))


@pytest.mark.parametrize("mesh", [None, pytest.param(Mesh(data=2), marks=pytest.mark.ci)])
def test_packed_members_side_by_side_do_what_each_does_unpacked_alone(alone: list[Trained], mesh: Mesh | None) -> None:
    made = program(config(packing=3), MEMBERS, mesh)
    both = jax.tree.map(lambda *leaves: np.stack(leaves), params_of(0), params_of(1))

    def rows(seed: int) -> dict[str, np.ndarray]:
        found = packed(batch(seed))
        missing = 8 - len(found["input_ids"])  # as many for both, whose lengths here differ
        return {
            name: np.pad(array, [(0, missing * (len(array) // (8 - missing))), *[(0, 0)] * (array.ndim - 1)])
            for name, array in found.items()
        }

    state, seen = trained(made, both, [side_by_side([rows(step), rows(5 + step)]) for step in range(4)])
    for index, (own, lines) in enumerate(alone):
        found = [line[f"loss_{MEMBERS[index].label}"] for line in seen]
        np.testing.assert_allclose(found, [line["loss"] for line in lines], rtol=1e-5)
        for path, leaf in flatten(own.params).items():
            np.testing.assert_allclose(flatten(state.params)[path][index], leaf, atol=2e-5, err_msg=path)
    assert [line["sequences"] for line in seen] == [2 * BATCH] * 4
    assert seen[0]["real_tokens"] == batch(0)["input_mask"].sum() + batch(5)["input_mask"].sum()
    assert seen[0]["tokens"] == 2 * 8 * 2 * LENGTH
