"""The parameter tree as plain dicts: by path, by part, and layers stacked or apart.

Everywhere outside a scanning step the tree is per layer (`encoder/layer_3/attention/query/kernel`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from bert_jax.bert_config import BertConfig
from bert_jax.errors import BertJaxError

_LAYER = "layer_"


def restore_flax_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The nested dict of numpy arrays that Flax wrote as msgpack. Errors: `BertJaxError` when the file is damaged."""
    from flax import serialization

    try:
        tree = serialization.msgpack_restore(Path(path).read_bytes())
    except Exception as error:  # msgpack's errors have no common class
        raise BertJaxError(f"{path} cannot be read as Flax's msgpack ({error}): fetch it again") from error
    if not isinstance(tree, dict):
        raise BertJaxError(f"{path} holds {type(tree).__name__}: expected a tree of parameters")
    return tree


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts → {'a/b/c': leaf}, in the tree's own order."""
    return dict(_leaves(tree, ""))


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """{'a/b/c': leaf} → nested dicts. Errors: `BertJaxError` when one path lies beneath another."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
            if not isinstance(node, dict):
                raise BertJaxError(f"parameter path {path!r} lies beneath another parameter: rename one of them")
        if name in node:
            raise BertJaxError(f"parameter path {path!r} is both a parameter and a folder: rename one of them")
        node[name] = leaf
    return tree


def require_sizes(tree: Mapping[str, Any], config: BertConfig, where: object) -> None:
    """Errors: `BertJaxError` unless the encoder's arrays have the sizes that a configuration from elsewhere says.

    Only what costs nothing is looked at: a configuration of a thousand million layers is not to be described first.
    """
    width = config.hidden_size
    expected = {
        "embeddings/word_embeddings": (config.known_vocab_size, width),
        "embeddings/position_embeddings": (config.max_position_embeddings, width),
        "embeddings/token_type_embeddings": (config.type_vocab_size, width),
        "encoder/layer_0/attention/query/kernel": (width, config.num_attention_heads, config.head_size),
        "encoder/layer_0/feed_forward/intermediate/kernel": (width, config.intermediate_size),
    }
    leaves = flatten(tree)
    for path, shape in expected.items():
        found = tuple(leaves[path].shape) if path in leaves else None
        if found != shape:
            raise BertJaxError(f"{where}: {path} has the shape {found}: its configuration says {shape}")
    layers = len(tree["encoder"])
    if layers != config.num_hidden_layers:
        raise BertJaxError(f"{where} has {layers} layers: its configuration says {config.num_hidden_layers}")


def counts(tree: Mapping[str, Any]) -> dict[str, int]:
    """Number of parameters in each part (embeddings, encoder, pooler and each head) of arrays or abstract arrays."""
    return {part: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(value)) for part, value in tree.items()}


def stack_layers(encoder: Mapping[str, Any]) -> dict[str, Any]:
    """{'layer_0': …, 'layer_1': …} → one layer's tree whose leaves have a leading axis L."""
    layers = [encoder[f"{_LAYER}{index}"] for index in range(len(encoder))]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)


def unstack_layers(stacked: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `stack_layers`."""
    count = len(jax.tree.leaves(stacked)[0])

    def layer(index: int) -> Any:
        return jax.tree.map(lambda leaf: leaf[index], dict(stacked))

    return {f"{_LAYER}{index}": layer(index) for index in range(count)}
