"""Packed rows train like the same examples one per row: through the real feed, masks and dropout being theirs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from data_stores import drawn_documents, made_up_tokenizer

import bert_jax
from bert_jax import BertConfig, BertJaxError, Config, Data, Evaluate, Phase, Train
from bert_jax.config import Checkpoint, Log
from bert_jax.data.feed import make_feed
from bert_jax.data.packed_feed import Packing
from bert_jax.data.store import Store, write_store
from bert_jax.text.tokenizer import load_tokenizer
from bert_jax.train.masking import Vocabulary, vocabulary_of
from bert_jax.train.program import Program, make_program
from bert_jax.train.sharding import make_mesh
from bert_jax.train.step import dropout_key, make_gradients, make_masked

LENGTH, MOST, BATCH, PREDICTIONS = 64, 4, 16, 8


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Short documents of short sentences over 300 pieces."""
    random = np.random.default_rng(0)
    documents = [[random.integers(5, 300, size) for size in document] for document in drawn_documents(400, tokens=6)]
    folder = tmp_path_factory.mktemp("packing")
    return write_store(folder / "store", documents, made_up_tokenizer(300), eval_fraction=0.2)


def config_of(store: Store, dropout: float = 0.1, **train: Any) -> Config:
    return Config(
        model=BertConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=LENGTH,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        ),
        data=Data(store=(str(store.path),), driver="thread"),
        train=Train(
            **{
                "length": LENGTH,
                "batch": BATCH,
                "predictions": PREDICTIONS,
                "packing": MOST,
                "steps": 6,
                **train,
            }
        ),
        evaluate=Evaluate(every=3, sequences=16, batch=8),
        checkpoint=Checkpoint(every=2),
        log=Log(every=1, tensorboard=False),
    )


def same_examples(store: Store, folder: Path, rows: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A packed batch of the real feed, and the batch of the same examples one per row."""
    settings = {"length": LENGTH, "seed": 0, "plan_dir": folder}
    packed = make_feed(store, **settings, packing=Packing(MOST)).examples(np.arange(rows))  # type: ignore[arg-type]
    feed = make_feed(store, **settings)  # type: ignore[arg-type]
    plain = feed.examples(np.arange(feed.rows_per_epoch(0)))
    used = np.arange(MOST) < packed["sequence_ids"].max(axis=1)[:, None]
    at = {number: row for row, number in enumerate(plain["example_ids"].tolist())}
    chosen = [at[number] for number in packed["example_ids"][used].tolist()]
    return packed, {name: array[chosen] for name, array in plain.items()}


def gradients_of(
    program: Program, vocabulary: Vocabulary, batch: dict[str, np.ndarray], params: Any
) -> tuple[Any, dict[str, float]]:
    config = program.config
    masked = make_masked(config, 0, vocabulary, config.train.seed)
    function = make_gradients(program.model, config, program.mesh)
    grads, sums = jax.jit(lambda p, b: function(p, masked(b), dropout_key(config.train.seed, 3)))(params, batch)
    return jax.device_get(grads), {name: float(value) for name, value in sums._asdict().items()}


@pytest.mark.parametrize(
    ("dropout", "whole_words"), [(0.0, False), (0.1, False), pytest.param(0.1, True, marks=pytest.mark.ci)]
)
def test_losses_and_gradients_are_those_of_the_examples(
    store: Store, tmp_path: Path, dropout: float, whole_words: bool
) -> None:
    packed, plain = same_examples(store, tmp_path, BATCH)
    assert len(plain["input_ids"]) > 1.2 * BATCH
    vocabulary = vocabulary_of(load_tokenizer(store.tokenizer_path))
    config = config_of(store, dropout, whole_words=whole_words)
    program = make_program(config, 0, make_mesh(config.mesh, jax.devices()[:1]), vocabulary)
    params = jax.tree.map(lambda leaf: 5 * leaf, program.init_state().params)  # so that every part matters
    found, sums = gradients_of(program, vocabulary, packed, params)
    expected, expected_sums = gradients_of(program, vocabulary, plain, params)
    for name in ("mlm_count", "nsp_count", "mlm_correct", "nsp_correct"):
        assert sums[name] == expected_sums[name], name
    assert sums["nsp_count"] == len(plain["input_ids"])
    for name in ("mlm_loss", "nsp_loss"):
        assert sums[name] == pytest.approx(expected_sums[name], rel=1e-5)
    for (path, leaf), other in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(leaf, other, atol=1e-5 * max(1.0, float(np.abs(other).max())), err_msg=str(path))


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_stopped_and_resumed_a_packed_run_gives_the_same_bits(store: Store, tmp_path: Path) -> None:
    config = config_of(store)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    result = bert_jax.pretrain(config, run=str(whole))
    assert result["sequences_seen"] > 6 * BATCH
    assert result["padding_share"] < 0.05

    def die(line: dict[str, Any]) -> None:
        if line["step"] == 5:
            raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        bert_jax.pretrain(config, run=str(broken), on_metrics=die)
    assert bert_jax.pretrain(config, run=str(broken))["step"] == 6
    assert losses(broken) == losses(whole)
    params = [jax.tree.leaves(jax.device_get(bert_jax.load(run).params)) for run in (whole, broken)]
    assert all(np.array_equal(one, other) for one, other in zip(*params, strict=True))
    shown = [json.loads(line) for line in bert_jax.show(str(whole), step=5, count=7, json=True)]
    assert [one["place"] for one in shown][:2] == [0, 1]
    with pytest.raises(BertJaxError, match=r"train\.packing is 4 there and 3 here.*another --run"):
        bert_jax.pretrain(config, run=str(whole), overrides=["--train.packing", "3"])


def test_phases_of_their_own_packing_and_room(store: Store, tmp_path: Path) -> None:
    later = (Phase(length=LENGTH, batch=BATCH, steps=2, predictions=PREDICTIONS, packing=MOST, row_predictions=2),)
    config = config_of(store, packing=1, steps=2, later_phases=later)
    with pytest.raises(BertJaxError, match=r"row_predictions is 2, and packed rows of .* have up to \d+ predictions"):
        bert_jax.pretrain(config, run=str(tmp_path / "run"))
    assert not (tmp_path / "run" / "run.json").exists()
    enough = dataclasses.replace(later[0], row_predictions=None)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, later_phases=(enough,)))
    assert bert_jax.pretrain(config, run=str(tmp_path / "run"))["step"] == 4
    seen = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    sequences = [line["sequences_seen"] for line in seen if "loss" in line]
    assert np.diff([0, *sequences])[:2].tolist() == [BATCH, BATCH]
    assert (np.diff(sequences)[1:] > BATCH).all()
