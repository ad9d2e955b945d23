"""Checkpoints as other programs write them: TensorFlow 1, Hugging Face's safetensors and its former Flax files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from small_models import HEADS, small_config, small_tokenizer

from bert_jax.files import write_json
from bert_jax.formats.names import Layout, names, to_theirs
from bert_jax.model.bert import abstract_parameters, make_model
from bert_jax.model.parameters import flatten


def parameters(heads: Sequence[str] = HEADS, classes: int = 2, pooler: bool = True, seed: int = 0) -> dict[str, Any]:
    """Random parameters of the small model as numpy arrays."""
    random = np.random.default_rng(seed)
    shapes = abstract_parameters(make_model(small_config(), heads=heads, classes=classes, pooler=pooler))
    return jax.tree.map(lambda leaf: random.normal(0, 0.5, leaf.shape).astype(np.float32), shapes)


def arrays(params: Mapping[str, Any], layout: Layout) -> dict[str, np.ndarray]:
    """The parameters under the names, and in the shapes, of `layout`."""
    leaves = flatten(params)
    table = names(layout, {path: leaf.shape for path, leaf in leaves.items()})
    return {table[path].theirs: np.ascontiguousarray(to_theirs(leaf, table[path])) for path, leaf in leaves.items()}


def write_tf1(folder: Path, variables: Mapping[str, np.ndarray], prefix: str = "bert_model.ckpt") -> Path:
    """A checkpoint by TensorFlow's own writer, beside configuration and vocabulary."""
    import tensorflow as tf

    folder.mkdir(parents=True, exist_ok=True)
    values = list(variables.values())
    tf.raw_ops.SaveV2(
        prefix=str(folder / prefix),
        tensor_names=list(variables),
        shape_and_slices=[""] * len(values),
        tensors=[tf.constant(value) for value in values],
    )
    # As the Saver names it: one data file of one.
    write_json(folder / "bert_config.json", small_config().to_dict("google"))
    small_tokenizer().save(folder)
    return folder


def write_hugging_face(
    folder: Path, tensors: Mapping[str, np.ndarray], architecture: str = "BertForPreTraining", **config: Any
) -> Path:
    """`config.json`, `model.safetensors`, `vocab.txt`."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    values = small_config().to_dict("huggingface") | {"architectures": [architecture]} | config
    write_json(folder / "config.json", values)
    save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    small_tokenizer().save(folder)
    return folder


def equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two trees hold the same paths and bits."""
    a, b = flatten(one), flatten(other)
    return a.keys() == b.keys() and all(np.array_equal(a[path], b[path]) for path in a)
