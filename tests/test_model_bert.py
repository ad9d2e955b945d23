"""The whole model: its parameters as published, its outputs under every setting that must not change them."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import model_examples as examples
import numpy as np
import pytest

from bert_jax.bert_config import PRESETS, BertConfig
from bert_jax.errors import BertJaxError
from bert_jax.model.bert import abstract_parameters, apply, init_parameters, make_model
from bert_jax.model.parameters import counts, flatten

GOLDEN = Path(__file__).parent / "golden" / "model_parameters.txt"


def _golden_text() -> str:
    """Every path and shape of every preset; layers that are all alike are written once."""
    lines = []
    for name in PRESETS:
        lines.append(f"[{name}]")
        tree = abstract_parameters(make_model(BertConfig.preset(name)))
        layers = {str(jax.tree.map(lambda leaf: leaf.shape, layer)) for layer in tree["encoder"].values()}
        assert len(layers) == 1
        last = len(tree["encoder"]) - 1
        for path, leaf in sorted(flatten(tree).items()):
            if found := re.match(r"encoder/layer_(\d+)/", path):
                if found[1] != "0":
                    continue
                path = path.replace("layer_0", f"layer_{{0..{last}}}")
            lines.append(f"{path} {leaf.dtype} {' '.join(map(str, leaf.shape))}")
        lines.append("")
    return "\n".join(lines)


def test_paths_and_shapes_are_the_golden_ones():
    text = _golden_text()
    if os.environ.get("BERT_JAX_REFRESH_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text(), (
        "parameter paths or shapes changed: checkpoints, conversion, sharding and decay tables go by them. "
        "If that is meant, run this test with BERT_JAX_REFRESH_GOLDEN=1 and commit tests/golden/model_parameters.txt"
    )


# Encoder with pooler: 109,482,240 for BERT-base as in the published checkpoints; Chinese 102,267,648.
@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("tiny", 4_385_920),
        ("mini", 11_170_560),
        ("small", 28_763_648),
        ("medium", 41_373_184),
        ("base", 109_482_240),
        ("large", 335_141_888),
        ("base_cased", 108_310_272),
        ("base_chinese", 102_267_648),
        ("multilingual", 177_853_440),
    ],
)
def test_parameter_counts_are_the_published_ones(name, total):
    by_part = counts(abstract_parameters(make_model(BertConfig.preset(name))))
    assert by_part["embeddings"] + by_part["encoder"] + by_part["pooler"] == total


def test_chinese_checkpoint_has_as_many_values(data_dir):
    """The published file: 102,882,442 values with both heads and the MLM bias, none of them the optimizer's."""
    import json

    variables = json.loads((data_dir / "tf1_chinese_names" / "variables.json").read_text())
    assert variables
    by_part = counts(abstract_parameters(make_model(BertConfig.preset("base_chinese"))))
    assert sum(by_part.values()) == 102_882_442


def test_initial_values():
    config = dataclasses.replace(examples.CONFIG, hidden_size=96, vocab_size=3000, initializer_range=0.05)
    params = flatten(jax.jit(init_parameters, static_argnums=0)(make_model(config), jax.random.key(5)))
    for path, leaf in params.items():
        assert leaf.dtype == jnp.float32
        if path.endswith("bias"):
            assert not leaf.any(), path
        elif path.endswith("scale"):
            assert (leaf == 1).all(), path
        else:
            assert jnp.max(jnp.abs(leaf)) <= 0.1, path
    # A normal cut at two deviations and not rescaled has 0.8796 of its deviation.
    table = np.asarray(params["embeddings/word_embeddings"])
    assert abs(table.std() / 0.05 - 0.8796) < 0.005
    assert table.max() > 0.0999
    drawn = [np.asarray(leaf).ravel()[:8].tobytes() for path, leaf in params.items() if path.endswith("kernel")]
    assert len(set(drawn)) == len(drawn)


def test_output_shapes_and_dtypes():
    inputs = examples.batch()
    model = make_model(examples.CONFIG, dtype=jnp.bfloat16)
    out = examples.run(model, examples.parameters(), inputs, examples.dropout(), hidden_states=True, attentions=True)
    assert {name: (value.shape, value.dtype.name) for name, value in out.items() if not isinstance(value, tuple)} == {
        "sequence_output": ((3, 9, 24), "bfloat16"),
        "pooled_output": ((3, 24), "bfloat16"),
        "masked_lm_logits": ((3, 3, 61), "float32"),
        "next_sentence_logits": ((3, 2), "float32"),
    }
    assert [state.shape for state in out["hidden_states"]] == [(3, 9, 24)] * 3
    assert [shares.shape for shares in out["attentions"]] == [(3, 6, 9, 9)] * 2
    del inputs["masked_lm_positions"]
    assert examples.run(model, examples.parameters(), inputs)["masked_lm_logits"].shape == (3, 9, 61)


def test_bfloat16_is_near_float32():
    params, inputs = examples.parameters(), examples.batch()
    exact = examples.run(make_model(examples.CONFIG), params, inputs)
    rough = examples.run(make_model(examples.CONFIG, dtype=jnp.bfloat16), params, inputs)
    for name in exact:
        np.testing.assert_allclose(rough[name].astype(jnp.float32), exact[name], atol=0.1, err_msg=name)


def test_heads_are_what_was_asked_for():
    params = abstract_parameters(make_model(examples.CONFIG, heads=("masked_lm",)))
    assert set(params) == {"embeddings", "encoder", "pooler", "masked_lm"}
    encoder = make_model(examples.CONFIG, heads=())
    assert set(abstract_parameters(encoder)) == {"embeddings", "encoder", "pooler"}
    # Parameters of heads that this model does not have are left alone.
    out = examples.run(encoder, examples.parameters(), examples.batch())
    assert set(out) == {"sequence_output", "pooled_output"}


def test_a_head_does_not_change_how_the_rest_is_drawn():
    heads = ()
    draw = jax.jit(init_parameters, static_argnums=0)
    whole = flatten(draw(make_model(examples.CONFIG), jax.random.key(0)))
    part = flatten(draw(make_model(examples.CONFIG, heads=heads), jax.random.key(0)))
    for path, leaf in part.items():
        np.testing.assert_array_equal(leaf, whole[path], err_msg=path)


def test_masked_positions_first_equals_all_positions():
    params, inputs = examples.parameters(), examples.batch()
    model = make_model(examples.CONFIG)
    at_positions = examples.run(model, params, inputs)["masked_lm_logits"]
    positions = inputs.pop("masked_lm_positions")
    everywhere = examples.run(model, params, inputs)["masked_lm_logits"]
    np.testing.assert_allclose(at_positions, everywhere[jnp.arange(3)[:, None], positions], atol=2e-5)


def test_padding_changes_nothing():
    params, model = examples.parameters(), make_model(examples.CONFIG)
    short, long = examples.batch(9), examples.batch(14)
    long["input_ids"] = jnp.where(long["input_mask"] == 0, 17, long["input_ids"])
    ours, theirs = (examples.run(model, params, inputs, examples.dropout()) for inputs in (long, short))
    for name in ("masked_lm_logits", "next_sentence_logits", "pooled_output"):
        np.testing.assert_allclose(ours[name], theirs[name], atol=2e-5, err_msg=name)


@functools.cache
def _plain(kind: str | None):
    """Loss and gradients of the plain model on the plain batch."""
    drop = kind and examples.dropout(kind)
    return examples.loss_and_gradients(
        make_model(examples.CONFIG), examples.parameters(), examples.batch(), drop or None
    )


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("exact", {"scan_layers": True}),
        ("exact", {"remat": "full"}),
        ("fast", {"scan_layers": True, "remat": "full"}),
        pytest.param("exact", {"remat": "dots", "scan_layers": True}, marks=pytest.mark.ci),
        pytest.param("fast", {"remat": "dots"}, marks=pytest.mark.ci),
    ],
)
def test_scan_and_rematerialisation_change_nothing(kind, settings):
    params, inputs, drop = examples.parameters(), examples.batch(), examples.dropout(kind)
    other = examples.loss_and_gradients(make_model(examples.CONFIG, **settings), params, inputs, drop)
    examples.assert_trees_close(other, _plain(kind))


def test_scan_hands_out_every_layer():
    params, inputs = examples.parameters(), examples.batch()
    asked = {"hidden_states": True, "attentions": True}
    ours = examples.run(make_model(examples.CONFIG, scan_layers=True), params, inputs, **asked)
    theirs = examples.run(make_model(examples.CONFIG), params, inputs, **asked)
    examples.assert_trees_close(ours, theirs)
    np.testing.assert_allclose(theirs["attentions"][1].sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(theirs["hidden_states"][-1], theirs["sequence_output"])


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("exact", {}),
        pytest.param(None, {}, marks=pytest.mark.ci),
        pytest.param("exact", {"scan_layers": True, "remat": "full"}, marks=pytest.mark.ci),
    ],
)
def test_three_examples_in_one_row_equal_three_rows(kind, settings):
    inputs = examples.packed(examples.batch())
    drop = examples.dropout(ids=examples.IDS[None]) if kind else None
    model = make_model(examples.CONFIG, **settings)
    examples.assert_trees_close(examples.loss_and_gradients(model, examples.parameters(), inputs, drop), _plain(kind))


def test_padded_vocabulary_changes_nothing():
    params, inputs = examples.parameters(), examples.batch()
    model = make_model(examples.CONFIG, vocab_multiple=16)
    examples.assert_trees_close(examples.loss_and_gradients(model, params, inputs), _plain(None))
    logits = examples.run(model, params, inputs)["masked_lm_logits"]
    assert logits.shape[-1] == 64
    assert jnp.isfinite(logits).all()
    assert (jax.nn.softmax(logits)[..., 61:] == 0).all()


def test_an_empty_row_stays_finite():
    """Rows that only fill up the last batch hold no token at all."""
    params, inputs = examples.parameters(), examples.batch()
    inputs["input_mask"] = inputs["input_mask"].at[1].set(0)
    _, gradients = examples.loss_and_gradients(make_model(examples.CONFIG), params, inputs)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": ("mlm",)}, "head is 'mlm': expected one of masked_lm, next_sentence"),
        ({"remat": "some"}, "remat is 'some'"),
        ({"attention": "flash9"}, "attention is 'flash9': expected one of auto, einsum, matmul, xla, cudnn"),
        ({"vocab_multiple": 0}, "vocab_multiple is 0"),
    ],
)
def test_bad_settings_are_one_clear_line(settings, message):
    with pytest.raises(BertJaxError, match=message):
        make_model(examples.CONFIG, **settings)


def test_bad_batches_are_one_clear_line():
    model, params = make_model(examples.CONFIG), examples.parameters()
    with pytest.raises(BertJaxError, match="40 tokens long and the position table has 32 rows"):
        jax.eval_shape(lambda: apply(model, params, examples.batch(40)))
    packed = examples.packed(examples.batch())
    del packed["cls_positions"]
    with pytest.raises(BertJaxError, match="a packed batch needs position_ids, sequence_ids and cls_positions"):
        jax.eval_shape(lambda: apply(model, params, packed))
    with pytest.raises(BertJaxError, match="vocab_size is not set"):
        make_model(BertConfig())
