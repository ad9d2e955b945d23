"""The FLOP formula against hand counts and against what XLA counts for a compiled forward pass."""

from __future__ import annotations

import jax
import model_examples as examples
import numpy as np
import pytest

from bert_jax.bert_config import BertConfig
from bert_jax.model.bert import apply, make_model
from bert_jax.model.flops import flops_per_example, forward_flops, peak_flops, training_flops


def test_base_at_128_by_hand():
    layers = 12 * (4 * 768 * 768 + 2 * 768 * 3072)
    pairs = 12 * 2 * 768 * 128
    heads = 20 * (768 * 768 + 768 * 30522) + 768 * 768 + 2 * 768
    expected = 2 * (128 * (layers + pairs) + heads)
    assert flops_per_example(BertConfig.preset("base"), 128, 20) == expected
    assert flops_per_example(BertConfig.preset("base"), 128, 20, heads=()) == 2 * 128 * (layers + pairs)


def test_sums_and_single_examples_agree():
    config = BertConfig.preset("tiny")
    lengths, predictions = np.array([5, 128, 64]), np.array([1, 20, 9])
    sums = {
        "real_tokens": lengths.sum(),
        "real_tokens_squared": (lengths**2).sum(),
        "mlm_count": predictions.sum(),
        "sequences": 3,
    }
    each = flops_per_example(config, lengths, predictions)
    assert each.shape == (3,)
    assert each.sum() == forward_flops(config, sums) == training_flops(config, sums) / 3


def test_xla_counts_nearly_the_same():
    """Element-wise work is not in the formula; at this width it adds a few percent."""
    config = BertConfig(
        vocab_size=512, hidden_size=128, num_hidden_layers=1, num_attention_heads=2, intermediate_size=512
    )
    model, inputs = make_model(config), examples.batch(64, (64, 64, 64))
    compiled = jax.jit(lambda params: apply(model, params, inputs)).lower(examples.shapes(config)).compile()
    counted = compiled.cost_analysis()["flops"]
    formula = 3 * flops_per_example(config, 64, 3)
    assert 1.0 < counted / formula < 1.1


@pytest.mark.parametrize(
    ("kind", "tera"),
    [
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5p", 459),
        ("TPU v6 lite", 918),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA L40", 181),
        ("NVIDIA L40S", 362),
    ],
)
def test_peaks(kind, tera):
    assert peak_flops(kind) == tera * 1e12
    assert peak_flops(kind, devices=8) == 8 * tera * 1e12


def test_unknown_peaks_are_none():
    assert peak_flops("cpu") is None
