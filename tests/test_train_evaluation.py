"""Evaluation: every example once, whatever the batches; padding rows count nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tiny_training import BATCH, LENGTH, TinyProgram, examples, held_out

from bert_jax.errors import BertJaxError
from bert_jax.train.evaluation import filled, make_evaluation


def _by_hand(rows: int) -> dict[str, float]:
    """The tiny model's loss and accuracy over the first `rows` held-out rows, in numpy."""
    params = TinyProgram().init_state().params
    table, bias = np.asarray(params["embeddings"]["word_embeddings"]), np.asarray(params["masked_lm"]["bias"])
    ids = np.concatenate([examples(1000 + i)["input_ids"] for i in range(3)])[:rows]
    logits = table[ids] @ table.T + bias
    logits -= logits.max(-1, keepdims=True)
    losses = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, ids[..., None], -1)[..., 0]
    return {"mlm_loss": losses.mean(), "mlm_accuracy": (logits.argmax(-1) == ids).mean()}


@pytest.mark.parametrize("rows", [3, 8, 20, 24])
def test_every_example_counts_once(rows: int) -> None:
    program = TinyProgram()
    found = held_out(rows)(program, program.init_state().params)
    assert found["sequences"] == rows
    assert found["tokens"] == rows * LENGTH
    for name, value in _by_hand(rows).items():
        assert found[name] == pytest.approx(value, rel=1e-5)


def test_a_feed_that_ends_early_with_a_short_batch_is_the_same() -> None:
    program = TinyProgram()
    params = program.init_state().params
    whole = [examples(1000), examples(1001), {name: array[:4] for name, array in examples(1002).items()}]
    found = make_evaluation(lambda: iter(whole), 1000, BATCH)(program, params)
    assert found == held_out(20)(program, params)


def test_chance_is_given_and_counted() -> None:
    program = TinyProgram()
    batch = examples(0) | {"next_sentence_labels": np.array([1, 1, 1, 1, 1, 0, 0, 0], np.int32)}
    chance = {"chance_mlm_loss": 6.5, "chance_mlm_accuracy": 0.07}
    evaluation = make_evaluation(lambda: iter([batch]), BATCH, BATCH, chance)
    found = evaluation(program, program.init_state().params)
    assert found["chance_nsp_accuracy"] == pytest.approx(5 / 8)
    assert (found["chance_mlm_loss"], found["chance_mlm_accuracy"]) == (6.5, 0.07)


def test_the_feed_is_begun_anew_and_closed() -> None:
    closed = []

    def feed() -> Iterator[dict[str, Any]]:
        try:
            for index in range(1000):
                yield examples(index)
        finally:
            closed.append(True)

    program = TinyProgram()
    evaluation = make_evaluation(feed, 10, BATCH)
    assert evaluation(program, program.init_state().params) == evaluation(program, program.init_state().params)
    assert closed == [True, True]


def test_rows_that_fill_a_batch_weigh_nothing() -> None:
    batch = filled({"input_ids": np.arange(6).reshape(3, 2)}, 4, 2)
    assert batch["input_ids"].tolist() == [[0, 1], [2, 3], [4, 5], [0, 1]]
    assert batch["example_weights"].tolist() == [1, 1, 0, 0]
    with pytest.raises(BertJaxError, match="an evaluation batch has 3 rows: expected at most 2"):
        filled({"input_ids": np.zeros((3, 2))}, 2, 2)


def test_nothing_to_evaluate_is_an_error() -> None:
    program = TinyProgram()
    with pytest.raises(BertJaxError, match="the held-out part is empty"):
        make_evaluation(lambda: iter([]), 5, BATCH)(program, program.init_state().params)
    with pytest.raises(BertJaxError, match="evaluation of 0 sequences"):
        make_evaluation(lambda: iter([]), 0, BATCH)
