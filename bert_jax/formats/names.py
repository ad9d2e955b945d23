"""What every published layout calls a BERT's parameters and how it turns them: one table, read in both directions.

Three layouts: `google` (TensorFlow 1 checkpoints, names with slashes), `torch` (Hugging Face, names with dots, kernels
transposed) and `flax` (Hugging Face's former Flax models).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import numpy as np

Layout = Literal["google", "torch", "flax"]


class Leaf(NamedTuple):
    """One array of a module: its name with us and in each layout."""

    ours: str
    google: str
    torch: str
    flax: str
    turned: tuple[Layout, ...] = ()
    """Layouts that keep it as (out, in); the others, and we, as (in, out)."""


_KERNEL = Leaf("kernel", "/kernel", ".weight", "/kernel", ("torch",))
_BIAS = Leaf("bias", "/bias", ".bias", "/bias")
_KINDS: dict[str, tuple[Leaf, ...]] = {
    "table": (Leaf("", "", ".weight", "/embedding"),),
    "norm": (Leaf("scale", "/gamma", ".weight", "/scale"), Leaf("bias", "/beta", ".bias", "/bias")),
    "dense": (_KERNEL, _BIAS),
    "logits": (
        Leaf("kernel", "/output_weights", ".weight", "/kernel", ("torch", "google")),
        Leaf("bias", "/output_bias", ".bias", "/bias"),
    ),
    "vocabulary bias": (Leaf("bias", "/output_bias", ".bias", "/bias"),),
}


class Module(NamedTuple):
    """One row of the table: our module, the torch module (`{}` is the layer), what arrays it has."""

    ours: str
    torch: str
    kind: str
    google: str | None = None
    """Google's name, where it is not the torch name with slashes; "" is the top level of the checkpoint."""


MODULES = (
    Module("embeddings/word_embeddings", "bert.embeddings.word_embeddings", "table"),
    Module("embeddings/position_embeddings", "bert.embeddings.position_embeddings", "table"),
    Module("embeddings/token_type_embeddings", "bert.embeddings.token_type_embeddings", "table"),
    Module("embeddings/layer_norm", "bert.embeddings.LayerNorm", "norm"),
    Module("encoder/layer_{}/attention/query", "bert.encoder.layer.{}.attention.self.query", "dense"),
    Module("encoder/layer_{}/attention/key", "bert.encoder.layer.{}.attention.self.key", "dense"),
    Module("encoder/layer_{}/attention/value", "bert.encoder.layer.{}.attention.self.value", "dense"),
    Module("encoder/layer_{}/attention/output", "bert.encoder.layer.{}.attention.output.dense", "dense"),
    Module("encoder/layer_{}/attention/layer_norm", "bert.encoder.layer.{}.attention.output.LayerNorm", "norm"),
    Module("encoder/layer_{}/feed_forward/intermediate", "bert.encoder.layer.{}.intermediate.dense", "dense"),
    Module("encoder/layer_{}/feed_forward/output", "bert.encoder.layer.{}.output.dense", "dense"),
    Module("encoder/layer_{}/feed_forward/layer_norm", "bert.encoder.layer.{}.output.LayerNorm", "norm"),
    Module("pooler", "bert.pooler.dense", "dense"),
    Module("masked_lm/transform", "cls.predictions.transform.dense", "dense"),
    Module("masked_lm/layer_norm", "cls.predictions.transform.LayerNorm", "norm"),
    Module("masked_lm", "cls.predictions", "vocabulary bias"),
    Module("next_sentence", "cls.seq_relationship", "logits"),
    # Hugging Face calls three heads alike: which one it is, config.json's `architectures` says.
    Module("classification", "classifier", "logits", google=""),
    Module("tagging", "classifier", "logits", google=""),
    Module("multiple_choice", "classifier", "logits", google=""),
    Module("question_answering", "qa_outputs", "logits", google="cls/squad"),
)


class Name(NamedTuple):
    """Where one of our parameters lies in a layout: its name there, its shape there, whether it is (out, in)."""

    theirs: str
    shape: tuple[int, ...]
    turned: bool


def names(layout: Layout, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Name]:
    """Our parameter paths, with their shapes → their names and shapes in `layout`. Every path must be in the table."""
    found = {}
    for path, shape in shapes.items():
        module, leaf, layer = _row(path)
        turned = layout in leaf.turned
        flat = _flat(module, leaf, shape)
        found[path] = Name(_theirs(module, leaf, layer, layout), flat[::-1] if turned else flat, turned)
    return found


def to_ours(array: np.ndarray, name: Name, shape: tuple[int, ...]) -> np.ndarray:
    """An array as it lies in a layout → ours, float32 and of `shape`."""
    array = array.T if name.turned else array
    return np.ascontiguousarray(array, np.float32).reshape(shape)


def to_theirs(array: np.ndarray, name: Name) -> np.ndarray:
    """One of our arrays → as it lies in a layout; bit for bit the inverse of `to_ours`. A view of it, where float32."""
    array = np.asarray(array, np.float32)
    flat = name.shape[::-1] if name.turned else name.shape
    array = array.reshape(flat)
    return array.T if name.turned else array


def _row(path: str) -> tuple[Module, Leaf, str]:
    parts = path.split("/")
    layer = next(
        (part.removeprefix("layer_") for part in parts if part.startswith("layer_") and part[6:].isdigit()), ""
    )
    pattern = "/".join("layer_{}" if part == f"layer_{layer}" else part for part in parts)
    for module, leaf in _leaves():
        if pattern == "/".join(filter(None, (module.ours, leaf.ours))):
            return module, leaf, layer
    raise AssertionError(f"no published layout has a name for parameter {path!r}: add a row to MODULES")


def _leaves() -> Iterator[tuple[Module, Leaf]]:
    for module in MODULES:
        for leaf in _KINDS[module.kind]:
            yield module, leaf


def _theirs(module: Module, leaf: Leaf, layer: str, layout: Layout) -> str:
    if layout == "torch":
        return module.torch.format(layer) + leaf.torch
    if layout == "flax":
        return module.torch.format(layer).replace(".", "/") + leaf.flax
    scope = module.torch.replace("layer.{}", "layer_{}").replace(".", "/") if module.google is None else module.google
    return (scope.format(layer) + leaf.google).removeprefix("/")


def _flat(module: Module, leaf: Leaf, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Our shape with its heads joined to one axis: (D, N, H) → (D, N·H), (N, H, D) → (N·H, D), (N, H) → (N·H,)."""
    if module.ours.endswith("attention/output") and leaf.ours == "kernel":
        return (shape[0] * shape[1], shape[2])
    if leaf.ours == "kernel":
        return (shape[0], int(np.prod(shape[1:])))
    return shape if module.kind == "table" else (int(np.prod(shape)),)
