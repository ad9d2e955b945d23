"""The model against other people's: google-research/bert's own outputs, and Hugging Face's BertForPreTraining.

Of the second the numbers are kept in tests/golden; where torch and transformers are installed (`pip install
.[compare]`) they are computed anew and compared entry by entry.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import model_examples as examples
import numpy as np
import pytest

from bert_jax.bert_config import BertConfig
from bert_jax.model.bert import make_model
from bert_jax.model.parameters import flatten, unflatten

# Ours → (Google's, Hugging Face's, whether Hugging Face's torch Linear is transposed). {i}: the layer.
NAMES = {
    "embeddings/word_embeddings": ("bert/embeddings/word_embeddings", "bert.embeddings.word_embeddings.weight", False),
    "embeddings/position_embeddings": (
        "bert/embeddings/position_embeddings",
        "bert.embeddings.position_embeddings.weight",
        False,
    ),
    "embeddings/token_type_embeddings": (
        "bert/embeddings/token_type_embeddings",
        "bert.embeddings.token_type_embeddings.weight",
        False,
    ),
    "masked_lm/bias": ("cls/predictions/output_bias", "cls.predictions.bias", False),
    "next_sentence/kernel": ("cls/seq_relationship/output_weights", "cls.seq_relationship.weight", True),
    "next_sentence/bias": ("cls/seq_relationship/output_bias", "cls.seq_relationship.bias", False),
}
MODULES = {
    "pooler": ("bert/pooler/dense", "bert.pooler.dense"),
    "masked_lm/transform": ("cls/predictions/transform/dense", "cls.predictions.transform.dense"),
    "encoder/layer_{i}/attention/query": (
        "bert/encoder/layer_{i}/attention/self/query",
        "bert.encoder.layer.{i}.attention.self.query",
    ),
    "encoder/layer_{i}/attention/key": (
        "bert/encoder/layer_{i}/attention/self/key",
        "bert.encoder.layer.{i}.attention.self.key",
    ),
    "encoder/layer_{i}/attention/value": (
        "bert/encoder/layer_{i}/attention/self/value",
        "bert.encoder.layer.{i}.attention.self.value",
    ),
    "encoder/layer_{i}/attention/output": (
        "bert/encoder/layer_{i}/attention/output/dense",
        "bert.encoder.layer.{i}.attention.output.dense",
    ),
    "encoder/layer_{i}/feed_forward/intermediate": (
        "bert/encoder/layer_{i}/intermediate/dense",
        "bert.encoder.layer.{i}.intermediate.dense",
    ),
    "encoder/layer_{i}/feed_forward/output": (
        "bert/encoder/layer_{i}/output/dense",
        "bert.encoder.layer.{i}.output.dense",
    ),
}
NORMS = {
    "embeddings/layer_norm": ("bert/embeddings/LayerNorm", "bert.embeddings.LayerNorm"),
    "masked_lm/layer_norm": ("cls/predictions/transform/LayerNorm", "cls.predictions.transform.LayerNorm"),
    "encoder/layer_{i}/attention/layer_norm": (
        "bert/encoder/layer_{i}/attention/output/LayerNorm",
        "bert.encoder.layer.{i}.attention.output.LayerNorm",
    ),
    "encoder/layer_{i}/feed_forward/layer_norm": (
        "bert/encoder/layer_{i}/output/LayerNorm",
        "bert.encoder.layer.{i}.output.LayerNorm",
    ),
}


def _names(layers: int) -> dict[str, tuple[str, str, bool]]:
    names = dict(NAMES)
    for ours, (google, torch) in MODULES.items():
        names[f"{ours}/kernel"] = (f"{google}/kernel", f"{torch}.weight", True)
        names[f"{ours}/bias"] = (f"{google}/bias", f"{torch}.bias", False)
    for ours, (google, torch) in NORMS.items():
        names[f"{ours}/scale"] = (f"{google}/gamma", f"{torch}.weight", False)
        names[f"{ours}/bias"] = (f"{google}/beta", f"{torch}.bias", False)
    every: dict[str, tuple[str, str, bool]] = {}
    for ours, (google, torch, turned) in names.items():
        for i in range(layers if "{i}" in ours else 1):
            every[ours.format(i=i)] = (google.format(i=i), torch.format(i=i), turned)
    return every


def _google_parameters(config: BertConfig, prefix: str) -> dict[str, Any]:
    import tensorflow as tf

    reader = tf.train.load_checkpoint(prefix)
    shapes = flatten(examples.shapes(config))
    leaves = {}
    for path, (google, _, _) in _names(config.num_hidden_layers).items():
        value = reader.get_tensor(google)
        if path == "next_sentence/kernel":  # stored as (2, D)
            value = value.T
        leaves[path] = jnp.asarray(value.reshape(shapes[path].shape))
    assert set(leaves) == set(shapes)
    return unflatten(leaves)


def test_outputs_equal_the_official_code(data_dir):
    folder = data_dir / "tf1_sharp"
    pytest.importorskip("tensorflow", reason="tensorflow reads Google's checkpoint here: pip install tensorflow-cpu")
    golden = np.load(folder / "golden_official_modeling.npz")
    config = BertConfig.from_json_file(folder / "bert_config.json")
    params = _google_parameters(config, str(folder / "bert_model.ckpt"))
    names = ("input_ids", "input_mask", "segment_ids", "masked_lm_positions")
    batch = {name: jnp.asarray(golden[name]) for name in names}
    out = examples.run(make_model(config), params, batch, hidden_states=True)
    for index, name in enumerate(("embedding_output", "layer_1", "layer_2", "layer_3")):
        np.testing.assert_allclose(out["hidden_states"][index], golden[name], atol=5e-6, err_msg=name)
    np.testing.assert_allclose(out["pooled_output"], golden["pooled"], atol=5e-6)
    # These logits reach 9.6; the official ones are themselves 5.6e-6 from what float64 gives, ours 4.7e-6.
    np.testing.assert_allclose(out["masked_lm_logits"].reshape(12, 60), golden["mlm_logits"], atol=1e-5)
    np.testing.assert_allclose(out["next_sentence_logits"], golden["nsp_logits"], atol=5e-6)


def huggingface_model(config: BertConfig, params: dict[str, Any]) -> Any:
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install .[compare] to compare with it")
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed: pip install .[compare] to compare with it"
    )
    values = {name: value for name, value in config.to_dict("huggingface").items() if name != "model_type"}
    model = transformers.BertForPreTraining(transformers.BertConfig(**values, attn_implementation="eager")).eval()
    state = model.state_dict()
    leaves = flatten(params)
    for path, (_, name, turned) in _names(config.num_hidden_layers).items():
        state[name].copy_(torch.from_numpy(_as_torch(leaves[path], tuple(state[name].shape), turned)))
    return model


def _as_torch(leaf: Any, shape: tuple[int, ...], turned: bool) -> np.ndarray:
    """Our leaf in the shape of a torch parameter; Linear weights are (out, in)."""
    value = np.array(leaf)
    return value.reshape(shape[::-1]).T.copy() if turned else value.reshape(shape)


HUGGING_FACE = Path(__file__).parent / "golden" / "huggingface_gradients.json"
"""By activation what `in_torch` found, written with BERT_JAX_WRITE_GOLDEN=1: tests without torch compare with it."""


def summary(value: Any) -> list[float]:
    """Two numbers that a wrong entry, or two in each other's place, would change: the norm, and a weighted sum."""
    flat = np.asarray(value, np.float64).ravel()
    return [float(np.linalg.norm(flat)), float(flat @ np.cos(np.arange(flat.size)))]


def with_activation(act: str) -> BertConfig:
    return BertConfig.from_dict({**examples.CONFIG.to_dict(), "hidden_act": act})


def in_torch(act: str) -> dict[str, np.ndarray]:
    """Loss, outputs and every gradient of `BertForPreTraining`, by our names and in our shapes."""
    config, batch = with_activation(act), examples.batch()
    theirs = huggingface_model(config, examples.parameters(config))
    import torch

    ids, follows = (torch.from_numpy(np.array(part)).long() for part in examples.labels())
    inputs = {name: torch.from_numpy(np.array(value)).long() for name, value in batch.items()}
    labels = torch.full((3, 9), -100).scatter(1, inputs["masked_lm_positions"], ids)
    expected = theirs(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["input_mask"],
        token_type_ids=inputs["segment_ids"],
        labels=labels,
        next_sentence_label=follows,
        output_hidden_states=True,
    )
    expected.loss.backward()
    real = np.asarray(batch["input_mask"], bool)
    found = {f"hidden_states/{i}": layer.detach().numpy()[real] for i, layer in enumerate(expected.hidden_states)}
    found["loss"] = expected.loss.detach().numpy()
    every = expected.prediction_logits.detach().numpy()
    found["masked_lm_logits"] = every[np.arange(3)[:, None], batch["masked_lm_positions"]]
    found["next_sentence_logits"] = expected.seq_relationship_logits.detach().numpy()
    gradients = {name: parameter.grad.numpy() for name, parameter in theirs.named_parameters()}
    for path, leaf in flatten(examples.parameters(config)).items():
        _, name, turned = _names(config.num_hidden_layers)[path]
        grad = gradients[name]
        found[f"gradients/{path}"] = (grad.T if turned else grad).reshape(leaf.shape)
    return found


def in_ours(act: str) -> dict[str, np.ndarray]:
    """The same of our model."""
    config, batch = with_activation(act), examples.batch()
    params = examples.parameters(config)
    out = examples.run(make_model(config), params, batch, hidden_states=True)
    real = np.asarray(batch["input_mask"], bool)
    found = {f"hidden_states/{i}": np.asarray(layer)[real] for i, layer in enumerate(out["hidden_states"])}
    loss, gradients = examples.loss_and_gradients(make_model(config), params, batch)
    found |= {name: np.asarray(out[name]) for name in ("masked_lm_logits", "next_sentence_logits")}
    found |= {f"gradients/{path}": np.asarray(leaf) for path, leaf in flatten(gradients).items()}
    return {**found, "loss": np.asarray(loss)}


ACTIVATIONS = pytest.mark.parametrize("act", ["gelu_exact", "gelu_tanh"])


@ACTIVATIONS
def test_hidden_states_losses_and_gradients_are_those_of_hugging_face(act):
    """Each within 1e-4 of its own size; the gradient of a key bias is 0 but for rounding."""
    golden = json.loads(HUGGING_FACE.read_text())[act]
    found = in_ours(act)
    assert found.keys() == golden.keys()
    for name, value in found.items():
        (norm, weighted), (expected, expected_weighted) = summary(value), golden[name]
        scale = max(expected, 2e-2 * value.size**0.5)
        assert abs(norm - expected) <= 1e-4 * scale, name
        assert abs(weighted - expected_weighted) <= 1e-4 * scale, name


@ACTIVATIONS
def test_the_golden_numbers_are_those_of_hugging_face_in_torch(act):
    """Here entry by entry too, where torch is installed."""
    theirs, ours = in_torch(act), in_ours(act)
    if os.environ.get("BERT_JAX_WRITE_GOLDEN"):
        golden = json.loads(HUGGING_FACE.read_text()) if HUGGING_FACE.is_file() else {}
        golden[act] = {name: summary(value) for name, value in theirs.items()}
        HUGGING_FACE.write_text(json.dumps(golden, indent=1) + "\n")
    golden = json.loads(HUGGING_FACE.read_text())[act]
    for name, value in theirs.items():
        np.testing.assert_allclose(summary(value), golden[name], rtol=1e-4, atol=1e-4)
        _assert_near(ours[name], value, name, least=2e-2)


def _assert_near(ours: Any, theirs: Any, what: str, least: float = 0.0) -> None:
    """Relative to the largest entry; `least`: gradients that are 0 but for rounding (key biases) have no scale."""
    scale = max(float(np.abs(theirs).max()), least)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * scale, err_msg=what)
