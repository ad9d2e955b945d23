"""`show` shows what the step consumes: the masks are compared with those inside the compiled step itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from data_stores import drawn_documents, lengths_store

from bert_jax.bert_config import BertConfig
from bert_jax.config import Config, Data, Phase, Train
from bert_jax.data.pretraining import open_pretraining_data
from bert_jax.errors import BertJaxError, UsageError
from bert_jax.scale.show import show, shown_run
from bert_jax.text.tokenizer import load_tokenizer
from bert_jax.train import step as step_module
from bert_jax.train.masking import vocabulary_of
from bert_jax.train.program import make_program
from bert_jax.train.run import create_run
from bert_jax.train.sharding import make_mesh

BATCH = 8


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lengths_store(tmp_path_factory.mktemp("show") / "store", drawn_documents(60)).path


def make_run(path: Path, store: Path) -> Config:
    train = Train(length=48, batch=BATCH, predictions=8, steps=3, later_phases=(Phase(64, BATCH, 4, 10),), seed=11)
    model = BertConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=64,
    )
    config = Config(model=model, data=Data(store=(str(store),), driver="thread"), train=train)
    data = open_pretraining_data(config, path, local=True)
    create_run(path, config, data.tokenizer, data.fingerprints, {})
    return config


def consumed_by_the_step(monkeypatch: pytest.MonkeyPatch, config: Config, path: Path, step: int) -> dict[str, Any]:
    """Run the compiled step on the batch training would give it, and catch the masked batch inside it."""
    caught: list[dict[str, Any]] = []

    def spy(*arguments: Any, **options: Any) -> Any:
        masked = original(*arguments, **options)
        jax.debug.callback(lambda **arrays: caught.append(arrays), **masked)
        return masked

    original = step_module.mask_tokens
    monkeypatch.setattr(step_module, "mask_tokens", spy)
    data = open_pretraining_data(config, path, local=True)
    phase_index, begin, _ = config.span_at(step)
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    program = make_program(config, phase_index, mesh, vocabulary_of(data.tokenizer))
    with data.train_batches(phase_index, step - begin, 0, 1) as batches:  # type: ignore[attr-defined]
        batch = program.place(next(batches))
    jax.block_until_ready(program.train_step(program.init_state(), batch))
    jax.effects_barrier()
    (masked,) = caught
    return {name: np.asarray(array) for name, array in masked.items()}


@pytest.mark.parametrize("step", [pytest.param(2, marks=pytest.mark.ci), 5])  # in the first phase, in the second
def test_show_equals_what_the_step_consumed(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    config = make_run(tmp_path / "run", store)
    shown = [json.loads(line) for line in show(tmp_path / "run", step, BATCH, json=True)]
    consumed = consumed_by_the_step(monkeypatch, config, tmp_path / "run", step)
    tokenizer = load_tokenizer(store / "tokenizer")
    assert len(shown) == BATCH
    for row, example in enumerate(shown):
        weights = consumed["masked_lm_weights"][row] > 0
        assert [mask["position"] for mask in example["masks"]] == consumed["masked_lm_positions"][row][weights].tolist()
        originals = tokenizer.pieces(consumed["masked_lm_ids"][row][weights].tolist())
        assert [mask["original"] for mask in example["masks"]] == originals
        assert example["label"] == consumed["next_sentence_labels"][row]
        assert example["example_id"] == consumed["example_ids"][row]
        inputs = list(example["tokens"])
        for mask in example["masks"]:
            inputs[mask["position"]] = mask["input"]
        used = int(consumed["input_mask"][row].sum())
        assert inputs == tokenizer.pieces(consumed["input_ids"][row, :used].tolist())


def test_each_of_the_three_changes_is_named(store: Path) -> None:
    shown = [json.loads(line) for line in show(store, 0, 64, json=True, length=64, seed=3)]
    masks = [mask for example in shown for mask in example["masks"]]
    share = {kind: sum(mask["change"] == kind for mask in masks) / len(masks) for kind in ("mask", "random", "kept")}
    assert share["mask"] == pytest.approx(0.8, abs=0.08)
    assert share["random"] == pytest.approx(0.1, abs=0.06)
    assert share["kept"] == pytest.approx(0.1, abs=0.06)
    for mask in masks:
        assert (mask["input"] == "[MASK]") == (mask["change"] == "mask")
        assert (mask["input"] == mask["original"]) == (mask["change"] == "kept")
        assert mask["original"] not in ("[CLS]", "[SEP]", "[PAD]")
    assert {example["b_is"] for example in shown} == {"next", "random"}
    for example in shown:
        assert example["label"] == int(example["b_is"] == "random")
        assert example["tokens"][0] == "[CLS]"
        assert example["tokens"].count("[SEP]") == 2


def test_text_for_a_person(store: Path) -> None:
    lines = list(show(store, 1, 2, length=48, batch=BATCH))
    (example, _) = (json.loads(line) for line in show(store, 1, 2, json=True, length=48, batch=BATCH))
    assert len(lines) == 6
    assert lines[0].startswith(f"step 1 row 0 (epoch {example['epoch']}, example_id {example['example_id']}): ")
    assert f"B is {example['b_is']} (label {example['label']})" in lines[0]
    for mask in example["masks"]:
        shown = "kept" if mask["change"] == "kept" else mask["input"]
        assert f"{{{mask['original']}→{shown}}}" in lines[1]
    assert lines[2] == ""


def test_an_example_of_a_packed_row_is_shown_as_it_is_alone(store: Path) -> None:
    plain = {}
    for line in show(store, 0, 2_000, json=True, length=64, batch=2_000):
        example = json.loads(line)
        plain[example["epoch"], example["example_id"]] = example
    packed = [json.loads(line) for line in show(store, 0, 40, json=True, length=64, batch=60, packing=4)]
    assert len(packed) == 40
    assert [(one["row"], one["place"]) for one in packed] == sorted((one["row"], one["place"]) for one in packed)
    assert max(one["place"] for one in packed) >= 1
    stop = 0
    for one in packed:
        alone = plain[one["epoch"], one["example_id"]]
        for name in ("label", "b_is", "a", "b", "tokens", "masks"):
            assert one[name] == alone[name], name
        assert one["begin"] == (stop if one["place"] else 0)
        stop = one["begin"] + len(one["tokens"])
    second = next(one for one in packed if one["place"])
    line = list(show(store, 0, 40, length=64, batch=60, packing=4))[3 * packed.index(second)]
    assert line.startswith(
        f"step 0 row {second['row']} place {second['place']} from token {second['begin']} (epoch 0, "
    )


def test_another_seed_or_step_is_another_batch(store: Path) -> None:
    def of(**options: Any) -> list[str]:
        return list(show(store, count=2, json=True, length=48, batch=BATCH, **options))

    assert of(step=0) == of(step=0)
    assert of(step=0) != of(step=1)
    assert [json.loads(line)["tokens"] for line in of(step=0)] != [
        json.loads(line)["tokens"] for line in of(step=0, seed=1)
    ]


def test_bad_requests(tmp_path: Path, store: Path) -> None:
    make_run(tmp_path / "run", store)
    with pytest.raises(BertJaxError, match="step 7 is not one of this run's: it has steps 0 to 6"):
        list(show(tmp_path / "run", 7))
    with pytest.raises(BertJaxError, match="expected a step from 0 and a count from 1"):
        list(show(store, -1))
    with pytest.raises(BertJaxError, match="there is no such path"):
        list(show(tmp_path / "absent"))
    other = lengths_store(tmp_path / "other", drawn_documents(60, seed=1)).path
    with pytest.raises(BertJaxError, match="was trained on store .* found is .*: name the store it was trained on"):
        shown_run(tmp_path / "run", 0, str(other))
    (tmp_path / "other").rename(tmp_path / "moved")
    make_run(tmp_path / "lost", tmp_path / "moved")
    (tmp_path / "moved").rename(tmp_path / "moved again")
    with pytest.raises(BertJaxError, match=r"store of .*lost, .*moved, is not there: say with --store where it lies"):
        list(show(tmp_path / "lost"))
    copy = lengths_store(tmp_path / "copy", drawn_documents(60)).path
    assert shown_run(tmp_path / "run", 0, str(copy)).config.data.store == (str(copy),)


def test_an_option_of_the_other_kind_is_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--store is for a run, and .* is a token store: leave it out"):
        list(show(store, store="elsewhere"))
    for option in ({"length": 64}, {"batch": 8}, {"seed": 0}, {"whole_words": True}, {"packing": 2}):
        with pytest.raises(UsageError, match=rf"--{next(iter(option)).replace('_', '-')} is for a token store, and"):
            list(show(tmp_path, **option))  # type: ignore[arg-type]


def test_an_altered_store_is_not_shown(tmp_path: Path) -> None:
    store = lengths_store(tmp_path / "store", drawn_documents(10)).path
    file = next(store.rglob("train.tokens.npy"))
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(BertJaxError, match=r"train.tokens.npy was altered"):
        next(show(store, length=48))
