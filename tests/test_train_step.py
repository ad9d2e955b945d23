"""The train step: the same numbers on every mesh, with accumulation, scan and remat; nothing wasteful in it.

Numeric equalities hold with dropout on, because exact dropout belongs to the example.
"""

from __future__ import annotations

import dataclasses
import re
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.bert_config import BertConfig
from bert_jax.config import Config, Mesh, Optimizer, Phase, Train
from bert_jax.errors import BertJaxError
from bert_jax.train.masking import Vocabulary
from bert_jax.train.program import Program, make_program
from bert_jax.train.sharding import make_mesh
from bert_jax.train.state import State, resolve_dtype

PAD, UNK, CLS, SEP, MASK = range(5)
VOCABULARY = Vocabulary(size=97, mask_id=MASK, special_ids=(PAD, UNK, CLS, SEP, MASK))
B, T = 16, 24
MODEL = BertConfig(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=32
)
CONFIG = Config(
    model=MODEL,
    train=Train(length=T, batch=B, predictions=4, steps=40, seed=11),
    optimizer=Optimizer(learning_rate=1e-3, warmup=4),
)


def change(config: Config, **sections: dict[str, Any]) -> Config:
    """`config` with fields of its sections replaced."""
    return dataclasses.replace(
        config, **{name: dataclasses.replace(getattr(config, name), **fields) for name, fields in sections.items()}
    )


@cache
def program(config: Config = CONFIG, sizes: tuple[int, int, int] = (1, 1, 1), phase: int = 0) -> Program:
    devices = jax.devices()[: int(np.prod(sizes))]
    return make_program(config, phase, make_mesh(Mesh(*sizes), devices), VOCABULARY)


def make_examples(step: int, rows: int = B, length: int = T) -> dict[str, np.ndarray]:
    """A batch in which the second half of a sentence repeats the first, so that there is something to learn."""
    rng = np.random.default_rng(step)
    lengths = rng.integers(length // 2, length + 1, rows)
    real = np.arange(length) < lengths[:, None]
    ids = rng.integers(5, 5 + 20, (rows, length))
    middle = lengths // 2
    ids[:, 0] = CLS
    ids[np.arange(rows), middle] = SEP
    ids[np.arange(rows), lengths - 1] = SEP
    return {
        "input_ids": np.where(real, ids, PAD).astype(np.int32),
        "input_mask": real.astype(np.int32),
        "segment_ids": (real & (np.arange(length) > middle[:, None])).astype(np.int32),
        "word_starts": np.ones((rows, length), bool),
        "example_ids": (step * rows + np.arange(rows)).astype(np.uint32),
        "epochs": np.zeros(rows, np.int32),
        "next_sentence_labels": rng.integers(0, 2, rows).astype(np.int32),
    }


def train(program: Program, steps: int, state: State | None = None) -> tuple[State, dict[str, np.ndarray]]:
    state = program.init_state() if state is None else state
    history = []
    for step in range(int(state.step), int(state.step) + steps):
        state, metrics = program.train_step(state, program.place(make_examples(step)))
        history.append(jax.device_get(metrics))
    return state, {name: np.array([line[name] for line in history]) for name in history[0]}


@cache
def reference(steps: int = 20) -> dict[str, np.ndarray]:
    return train(program(), steps)[1]


def assert_same_curve(found: dict[str, np.ndarray], tolerance: float = 1e-5) -> None:
    expected = reference()
    count = len(found["loss"])
    assert expected["loss"][0] > expected["loss"][-1] + 0.5  # something was learned: equality means something
    for name in ("loss", "mlm_loss", "nsp_loss"):
        np.testing.assert_allclose(found[name], expected[name][:count], rtol=tolerance, err_msg=name)
    np.testing.assert_allclose(found["grad_norm"], expected["grad_norm"][:count], rtol=1e-3)
    for name in ("mlm_count", "nsp_count", "sequences", "real_tokens", "real_tokens_squared", "tokens", "nonfinite"):
        np.testing.assert_array_equal(found[name], expected[name][:count], err_msg=name)


SLOWER = pytest.mark.ci  # each program takes ten seconds to compile: the default run has one of each kind


@pytest.mark.parametrize("sizes", [(8, 1, 1), pytest.param((2, 4, 1), marks=SLOWER), (2, 2, 2)], ids=str)
def test_every_mesh_trains_alike(sizes: tuple[int, int, int]) -> None:
    state, found = train(program(CONFIG, sizes), 20)
    assert_same_curve(found)
    expected = train(program(), 20)[0].params
    for (path, leaf), other in zip(
        jax.tree_util.tree_leaves_with_path(state.params), jax.tree.leaves(expected), strict=True
    ):
        if "key/bias" not in jax.tree_util.keystr(path, simple=True, separator="/"):  # its gradient is exactly noise
            np.testing.assert_allclose(leaf, other, atol=2e-5, err_msg=str(path))


FSDP, SCANNED = (2, 2, 1), {"accumulation": 2, "scan_layers": True, "remat": "full"}


@pytest.mark.parametrize(
    ("sizes", "fields"),
    [
        pytest.param((1, 1, 1), {"accumulation": 4}, marks=SLOWER),
        pytest.param((8, 1, 1), {"accumulation": 2}, marks=SLOWER),
        (FSDP, SCANNED),
        pytest.param((1, 1, 1), {"scan_layers": True}, marks=SLOWER),
        pytest.param((1, 1, 1), {"remat": "dots"}, marks=SLOWER),
    ],
    ids=str,
)
def test_accumulation_scan_and_remat_train_alike(sizes: tuple[int, int, int], fields: dict[str, Any]) -> None:
    assert_same_curve(train(program(change(CONFIG, train=fields), sizes), 10)[1])


def packed_in_pairs(examples: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Two examples to a row, the second right after the first."""
    lengths = examples["input_mask"].sum(1).reshape(-1, 2)
    first, both = lengths[:, :1], lengths.sum(1, keepdims=True)
    place = np.arange(2 * T)
    second = place >= first
    inside = np.where(place < both, place - first * second, 0)
    rows = 2 * np.arange(len(lengths))[:, None] + second
    packed = {
        name: np.where(place < both, examples[name][rows, inside], 0).astype(examples[name].dtype)
        for name in ("input_ids", "input_mask", "segment_ids", "word_starts")
    }
    pairs = {name: examples[name].reshape(-1, 2) for name in ("example_ids", "epochs", "next_sentence_labels")}
    cls_positions = np.concatenate([np.zeros_like(first), first], axis=1)
    sequence_ids = np.where(place < both, second + 1, 0)
    return {**packed, **pairs, "position_ids": inside, "sequence_ids": sequence_ids, "cls_positions": cls_positions}


@pytest.mark.parametrize("whole_words", [False, pytest.param(True, marks=SLOWER)])
def test_packed_rows_train_alike(whole_words: bool) -> None:
    alone = change(CONFIG, model={"max_position_embeddings": 2 * T}, train={"whole_words": whole_words})
    pairs = change(alone, train={"packing": 2, "length": 2 * T, "batch": B // 2})
    plain, packed = (program(config).init_state() for config in (alone, pairs))
    for step in range(4):
        examples = make_examples(step)
        plain, expected = program(alone).train_step(plain, program(alone).place(examples))
        packed, found = program(pairs).train_step(packed, program(pairs).place(packed_in_pairs(examples)))
        for name in ("mlm_count", "nsp_count", "sequences", "real_tokens", "real_tokens_squared"):
            assert found[name] == expected[name], name
        for name in ("loss", "mlm_loss", "nsp_loss", "grad_norm", "update_norm"):
            np.testing.assert_allclose(found[name], expected[name], rtol=2e-5, err_msg=name)
    assert expected["mlm_count"] > B


def test_packed_rows_of_another_shape_are_refused() -> None:
    packed = program().place(packed_in_pairs(make_examples(0)))
    with pytest.raises(BertJaxError, match=rf"packed rows of {2 * T} tokens and 2 sequences: .* has rows of {T} and 1"):
        program().train_step(program().init_state(), packed)


def test_golden_step() -> None:
    # The eleventh step: at the first the loss is close to ln V whatever the masks and the dropout bits are.
    found = {name: float(reference()[name][10]) for name in GOLDEN}
    for name, value in GOLDEN.items():
        np.testing.assert_allclose(
            found[name],
            value,
            rtol=1e-4,
            err_msg=(
                f"{name} of one tiny training step changed. A difference means that the same config, seed and batch no "
                "longer train the same way: the initial values, the masks, the dropout bits, the loss, the clipping or "
                f"the update rule changed. If that is intended, put these into GOLDEN and say why: {found}"
            ),
        )


GOLDEN = {"loss": 4.246340, "mlm_loss": 3.550630, "nsp_loss": 0.695710, "grad_norm": 1.128593, "update_norm": 0.317078}


def test_metrics_say_what_happened() -> None:
    state, found = train(program(), 3)
    examples = [make_examples(step) for step in range(3)]
    lengths = np.stack([batch["input_mask"].sum(1) for batch in examples])
    np.testing.assert_array_equal(found["real_tokens"], lengths.sum(1))
    np.testing.assert_array_equal(found["real_tokens_squared"], (lengths**2).sum(1))
    np.testing.assert_array_equal(found["sequences"], [B] * 3)
    np.testing.assert_array_equal(found["tokens"], [B * T] * 3)
    np.testing.assert_array_equal(found["nsp_count"], [B] * 3)
    np.testing.assert_allclose(found["learning_rate"], [0, 2.5e-4, 5e-4], rtol=1e-6)
    np.testing.assert_allclose(found["loss"], found["mlm_loss"] + found["nsp_loss"], rtol=1e-6)
    assert found["update_norm"][0] == 0  # the published schedule begins at a rate of 0
    norm = np.sqrt(sum((np.asarray(leaf, np.float64) ** 2).sum() for leaf in jax.tree.leaves(state.params)))
    np.testing.assert_allclose(found["param_norm"][-1], norm, rtol=1e-5)
    assert (int(state.step), int(state.skipped), int(state.skipped_in_a_row)) == (3, 0, 0)


def test_a_step_near_chance() -> None:
    assert abs(reference()["mlm_loss"][0] - np.log(VOCABULARY.size)) < 0.3
    assert abs(reference()["nsp_loss"][0] - np.log(2)) < 0.1


def copy(tree: Any) -> Any:
    return jax.tree.map(np.array, tree)


def test_a_nonfinite_update_is_skipped_bit_for_bit() -> None:
    made = program()
    state, _ = train(made, 6)
    healthy = copy(state.params["encoder"]["layer_0"]["feed_forward"]["output"]["bias"])
    poisoned = jax.tree.map(lambda leaf: leaf, state.params)
    poisoned["masked_lm"]["bias"] = state.params["masked_lm"]["bias"].at[7].set(jnp.nan)
    state = state._replace(params=poisoned)
    before = copy(state)
    state, metrics = made.train_step(state, made.place(make_examples(6)))
    assert not np.isfinite(metrics["loss"])
    assert (int(metrics["nonfinite"]), float(metrics["update_norm"])) == (1, 0.0)
    after = copy(state)
    jax.tree.map(np.testing.assert_array_equal, (after.params, after.opt_state), (before.params, before.opt_state))
    assert (int(state.step), int(state.skipped), int(state.skipped_in_a_row)) == (7, 1, 1)
    np.testing.assert_array_equal(state.params["encoder"]["layer_0"]["feed_forward"]["output"]["bias"], healthy)
    # Mended, it goes on; the schedule ran on meanwhile.
    mended = jax.tree.map(lambda leaf: jnp.nan_to_num(leaf), state.params)
    state, metrics = made.train_step(state._replace(params=mended), made.place(make_examples(7)))
    assert (int(metrics["nonfinite"]), int(state.skipped), int(state.skipped_in_a_row)) == (0, 1, 0)
    np.testing.assert_allclose(metrics["learning_rate"], reference()["learning_rate"][7])


def test_evaluation_has_no_dropout_fixed_masks_and_honours_weights() -> None:
    made = program()
    params = made.init_state().params
    batch = make_examples(0)
    sums = copy(made.evaluate_step(params, made.place(batch)))
    again = copy(made.evaluate_step(params, made.place(batch | {"epochs": np.full(B, 3, np.int32)})))
    jax.tree.map(np.testing.assert_array_equal, sums, again)
    assert sums["nsp_positives"] == batch["next_sentence_labels"].sum()
    assert (sums["sequences"], sums["nsp_count"]) == (B, B)
    assert sums["real_tokens"] == batch["input_mask"].sum()
    # The last batch is padded with rows of weight 0: whatever they hold, the sums are those of the real rows.
    half = B // 2
    weights = (np.arange(B) < half).astype(np.float32)
    parts = []
    for rows in (slice(0, half), slice(half, B)):
        part = {name: np.concatenate([array[rows], batch[name][:half]]) for name, array in batch.items()}
        parts.append(copy(made.evaluate_step(params, made.place(part | {"example_weights": weights}))))
    for name, value in sums.items():
        np.testing.assert_allclose(parts[0][name] + parts[1][name], value, rtol=1e-5, err_msg=name)


def test_records_that_hold_masks_are_used_as_they_are() -> None:
    made = program()
    batch = make_examples(0)
    ids, positions = batch["input_ids"].copy(), np.tile([1, 2, 0, 0], (B, 1)).astype(np.int32)
    masked = {name: batch[name] for name in ("input_mask", "segment_ids", "next_sentence_labels")} | {
        "masked_lm_positions": positions,
        "masked_lm_ids": np.where(positions > 0, np.take_along_axis(ids, positions, 1), 0),
        "masked_lm_weights": (positions > 0).astype(np.float32),
    }
    ids[:, 1:3] = MASK
    masked["input_ids"] = ids
    _, metrics = made.train_step(made.init_state(), made.place(masked))
    assert int(metrics["mlm_count"]) == 2 * B
    assert np.isfinite(metrics["loss"])
    # TFRecords give int64 and no example ids; the numbers are the same.
    wide = {name: array.astype(np.int64) if array.dtype == np.int32 else array for name, array in masked.items()}
    _, again = made.train_step(made.init_state(), made.place(wide))
    np.testing.assert_array_equal(metrics["loss"], again["loss"])


@SLOWER
def test_a_second_phase_restarts_schedule_and_keeps_moments() -> None:
    later = Phase(length=T // 2, batch=8, steps=10, predictions=2, learning_rate=5e-4, warmup=2, restart=True)
    config = change(CONFIG, train={"steps": 3, "later_phases": (later,)}, optimizer={"name": "lamb", "warmup": 1})
    state, _ = train(program(config), 3)
    second = program(config, phase=1)
    moments = copy(state.opt_state)
    state, metrics = second.train_step(state, second.place(make_examples(3, 8, T // 2)))
    assert float(metrics["learning_rate"]) == 0
    assert int(metrics["tokens"]) == 8 * (T // 2)
    kept = copy(state.opt_state).mu["pooler"]["kernel"]
    assert np.abs(kept - 0.9 * moments.mu["pooler"]["kernel"]).max() < np.abs(kept).max()
    before = copy(state.params)["pooler"]["bias"]
    state, metrics = second.train_step(state, second.place(make_examples(4, 8, T // 2)))
    np.testing.assert_allclose(metrics["learning_rate"], 2.5e-4)
    # The second update of the phase is corrected as a second update, not as the fifth of the run.
    after = copy(state)
    mu, nu = (moment["pooler"]["bias"] for moment in after.opt_state)
    expected = -2.5e-4 * mu / (1 - 0.9**2) / (np.sqrt(nu / (1 - 0.999**2)) + 1e-6)
    np.testing.assert_allclose(after.params["pooler"]["bias"] - before, expected, rtol=1e-3, atol=1e-8)


@SLOWER
@pytest.mark.parametrize("objective", ["mlm", "mlm+sop"])
def test_other_objectives(objective: str) -> None:
    made = program(change(CONFIG, train={"objective": objective}))
    state, found = train(made, 2)
    assert ("next_sentence" in state.params) == (objective != "mlm")
    assert (found["nsp_loss"] == 0).all() == (objective == "mlm")
    assert np.isfinite(found["loss"]).all()


def test_state_from_given_parameters_is_a_copy() -> None:
    made = program()
    given = made.init_state().params
    state, _ = train(made, 2, made.init_state(given))
    assert int(state.step) == 2
    assert np.isfinite(np.asarray(given["pooler"]["kernel"])).all()  # not donated
    broken = {name: tree for name, tree in given.items() if name != "pooler"}
    with pytest.raises(BertJaxError, match=r"2 parameters do not fit.*'pooler/bias'.*missing"):
        made.init_state(broken)


@SLOWER
def test_bfloat16_trains_close_to_float32() -> None:
    made = program(change(CONFIG, train={"dtype": "bfloat16"}))
    state, found = train(made, 10)
    np.testing.assert_allclose(found["loss"], reference()["loss"][:10], rtol=1e-2)
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.opt_state))} == {jnp.dtype(jnp.float32)}


def test_dtype_auto() -> None:
    class Device:
        device_kind = "a device"

        def __init__(self, platform: str, capability: str | None = None):
            self.platform = platform
            if capability:
                self.compute_capability = capability

    cases = {("tpu", None): "bfloat16", ("gpu", "9.0"): "bfloat16", ("gpu", "7.5"): "float32", ("cpu", None): "float32"}
    for (platform, capability), expected in cases.items():
        choice = resolve_dtype("auto", Device(platform, capability))  # type: ignore[arg-type]
        assert (str(choice.value), choice.reason[:5]) == (expected, "auto:")
    assert resolve_dtype("bfloat16", jax.devices()[0]).value == jnp.bfloat16


def lowered(made: Program) -> Any:
    batch = made.place(make_examples(0))
    return made.compiled_train_step.lower(made.abstract_state(), batch)


def test_no_array_over_all_positions_and_the_vocabulary() -> None:
    made = program()
    batch = made.place(make_examples(0))
    texts = (
        lowered(made).as_text(),
        made.compiled_evaluate_step.lower(made.abstract_state().params, batch).as_text(),
    )
    for text in texts:
        assert re.search(rf"tensor<{B}x4x97xf32>", text)  # at the masked positions
        assert not re.search(rf"tensor<({B}x{T}|{B * T})x97x", text)


def test_data_parallelism_gathers_no_parameters_and_donates_the_state() -> None:
    made = program(CONFIG, (8, 1, 1))
    compiled = lowered(made).compile()
    text = compiled.as_text()
    assert re.search(r"all-reduce(-start)?\(", text)
    assert not re.findall(r"(?:all-gather|all-to-all|collective-permute)(?:-start)?\(", text)
    analysis = compiled.memory_analysis()
    state_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(made.abstract_state()))
    assert analysis.alias_size_in_bytes >= state_bytes


@pytest.mark.parametrize("accumulation", [1, pytest.param(2, marks=SLOWER)])
def test_gradients_are_exchanged_once_a_step(accumulation: int) -> None:
    made = program(change(CONFIG, train={"accumulation": accumulation}), (8, 1, 1))
    summed: dict[bool, int] = {True: 0, False: 0}
    for computation in re.split(r"\n(?=%|ENTRY)", lowered(made).compile().as_text()):
        for shapes in re.findall(r"= (.*?) all-reduce(?:-start)?\(", computation):
            sizes = [np.prod([int(n) for n in axes.split(",") if n]) for axes in re.findall(r"f32\[([\d,]*)\]", shapes)]
            summed[computation.startswith("ENTRY")] += int(sum(sizes))
    params = made.abstract_state().params
    every, table = sum(leaf.size for leaf in jax.tree.leaves(params)), params["embeddings"]["word_embeddings"].size
    assert summed[False] == 0  # none inside a loop
    # XLA on a CPU sums what the two uses of the word table give apart, unless each device has added them up itself.
    assert 0.98 * every < summed[True] < every + 20 + (table if accumulation == 1 else 0)


def test_each_device_draws_fast_dropout_for_its_own_rows() -> None:
    text = lowered(program(change(CONFIG, train={"dropout": "fast"}), (4, 1, 2))).as_text()
    shapes = re.findall(r"rng_bit_generator.*-> \(tensor<\w+>, tensor<2x(\d+)x", text)
    assert shapes and {int(rows) for rows in shapes} == {B // 4}


def test_fsdp_gathers_one_layer_s_parameters_and_no_activations() -> None:
    compiled = lowered(program(change(CONFIG, train=SCANNED), FSDP)).compile()
    found = re.findall(r"= ([^=]*) (all-gather|all-to-all|collective-permute)(?:-start)?\(", compiled.as_text())
    shapes = {shape for text, _ in found for shape in re.findall(r"\[([\d,]*)\]", text)}
    assert {name for _, name in found} == {"all-gather"}
    assert any(shape.endswith("32,64") for shape in shapes)  # (D, F) of one layer
    assert not [shape for shape in shapes if str(T) in shape.split(",")]  # nothing that has positions
    assert not [shape for shape in shapes if shape.startswith("2,32,64")]  # not both layers at once


def test_the_state_is_born_sharded() -> None:
    made = program(CONFIG, (2, 2, 2))
    state = made.init_state()
    assert state.params["encoder"]["layer_0"]["attention"]["query"]["kernel"].addressable_shards[0].data.shape == (
        MODEL.hidden_size // 2,
        MODEL.num_attention_heads // 2,
        MODEL.head_size,
    )
    for array, abstract in zip(jax.tree.leaves(state), jax.tree.leaves(made.abstract_state()), strict=True):
        assert (array.shape, array.dtype, array.sharding) == (abstract.shape, abstract.dtype, abstract.sharding)
    single = program().init_state()
    jax.tree.map(np.testing.assert_array_equal, copy(state.params), copy(single.params))


def test_bad_settings_are_one_clear_line() -> None:
    with pytest.raises(BertJaxError, match=r"the batch of phase 0 is 16: expected a multiple of 24"):
        program(change(CONFIG, train={"accumulation": 3}), (8, 1, 1))
    with pytest.raises(BertJaxError, match=r"model.num_attention_heads is 2: not a multiple of mesh.tensor 4"):
        program(CONFIG, (1, 1, 4))
    with pytest.raises(BertJaxError, match=r"sequences of 24 tokens: the model has 8 positions"):
        program(change(CONFIG, model={"max_position_embeddings": 8}))
    with pytest.raises(BertJaxError, match=r"vocab_size is 50 and the tokenizer has 97"):
        program(change(CONFIG, model={"vocab_size": 50}))
    with pytest.raises(BertJaxError, match=r"has 12 rows: not a multiple of mesh data × fsdp = 8"):
        program(CONFIG, (8, 1, 1)).place(make_examples(0, 12))
