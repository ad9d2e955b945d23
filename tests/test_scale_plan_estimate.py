"""What a step multiplies, by formula: packed rows do less of it for each real token."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bert_jax.bert_config import BertConfig
from bert_jax.config import Config, Phase, Train
from bert_jax.data.packing import plan_rows
from bert_jax.model.flops import flops_per_example
from bert_jax.scale.plan_estimate import step_flops

LARGE = Config(model=dataclasses.replace(BertConfig.preset("large"), vocab_size=30522), train=Train(steps=1))


def test_one_sequence_per_row_is_the_formula_of_an_example() -> None:
    whole, pairs = step_flops(LARGE, Phase(length=512, batch=3, steps=1, predictions=77), 3)
    assert whole == 3 * 3 * flops_per_example(LARGE.model, 512, 77)
    assert pairs == pytest.approx(3 * 12 * 24 * 1024 * 512**2 / whole)


def test_packed_rows_pool_and_predict_for_all_their_sequences() -> None:
    plain = Phase(length=512, batch=1, steps=1, predictions=77)
    packed = dataclasses.replace(plain, packing=4, row_predictions=80)
    more = step_flops(LARGE, packed, 1)[0] - step_flops(LARGE, plain, 1)[0]
    d, vocabulary = 1024, 30522
    assert more == 6 * (3 * (d * d + d * vocabulary) + 3 * (d * d + 2 * d))


def test_packing_half_empty_rows_saves_two_fifths_of_the_work_for_a_real_token() -> None:
    """Lengths like those of the MLPerf Wikipedia set: half of a row is padding when each sequence has its own."""
    random = np.random.default_rng(0)
    lengths = np.where(random.random(20_000) < 0.24, 512, random.integers(8, 330, 20_000))
    assert 0.45 < lengths.mean() / 512 < 0.5
    rows = len(plan_rows(lengths, 512, 4, ("flops",)))
    plain = Phase(length=512, batch=1, steps=1, predictions=77)
    alone = step_flops(LARGE, plain, len(lengths))[0] / lengths.sum()
    together = step_flops(LARGE, dataclasses.replace(plain, packing=4), rows)[0] / lengths.sum()
    assert together < 0.6 * alone
