"""What a run that starts from another model takes from it (continued pre-training)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from bert_jax.bert_config import BertConfig
from bert_jax.console import log
from bert_jax.errors import BertJaxError
from bert_jax.model.bert import Bert, init_parameters
from bert_jax.model.parameters import flatten, unflatten

# What decides the shapes of the parameters and what they mean; dropout and the like are the new run's own.
ARCHITECTURE = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
    "pad_token_id",
)
_POSITIONS = "embeddings/position_embeddings"
_VOCABULARY = ("embeddings/word_embeddings", "masked_lm/bias")


def architecture_of(origin: BertConfig, config: BertConfig, asked: Iterable[str] = ()) -> BertConfig:
    """`config` with the architecture of `origin`, the model that a run starts from; its vocabulary is the tokenizer's.

    `asked`: fields that the user set for this run. Errors: `BertJaxError` for one that `origin` has otherwise, but for
    `max_position_embeddings`, which may grow.
    """
    taken = {name: getattr(origin, name) for name in ARCHITECTURE}
    for name in asked:
        wanted = getattr(config, name)
        if name == "max_position_embeddings" and wanted > taken[name]:
            taken[name] = wanted
        elif name in taken and wanted != taken[name]:
            raise BertJaxError(
                f"model.{name} is {wanted}, and the model to start from has {taken[name]}: leave it out (only "
                "max_position_embeddings may be larger)"
            )
    changed = [
        f"{name} {getattr(config, name)} → {value}" for name, value in taken.items() if getattr(config, name) != value
    ]
    if changed:
        log(f"model, as the one to start from has it: {', '.join(changed)}")
    return dataclasses.replace(config, **taken, vocab_size=None)


def starting_parameters(params: Mapping[str, Any], model: Bert, seed: int, say: bool = True) -> dict[str, Any]:
    """The parameters to start `model` from: those of `params` it has; what is missing is drawn anew, all of it logged.

    Heads and a pooler that are missing are drawn from `seed`. A position table that is too short is repeated from its
    beginning (position p starts as position p mod old length), which keeps what is known of near neighbours. Rows that
    only pad the vocabulary are left out. `say`: log what is drawn and what is left out. Errors: `BertJaxError` for any
    other shape than the model's.
    """
    fresh = flatten(jax.jit(lambda: init_parameters(model, jax.random.key(seed)))())
    given = flatten(params)
    found: dict[str, Any] = {}
    for path, drawn in fresh.items():
        value = given.get(path)
        found[path] = drawn if value is None else _fitted(path, np.asarray(value, np.float32), drawn.shape)
    if say:
        _log_parts("drawn anew", fresh.keys() - given.keys())
        _log_parts("left out, as this run has no use for it", given.keys() - fresh.keys())
    return unflatten(found)


def _fitted(path: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if value.shape == shape:
        return value
    if path == _POSITIONS and len(value) < shape[0] and value.shape[1:] == shape[1:]:
        log(f"positions {len(value)} to {shape[0] - 1} start as the first ones do: the table is repeated")
        return np.resize(value, shape)
    if path in _VOCABULARY and len(value) > shape[0] and value.shape[1:] == shape[1:]:
        log(f"{path}: {len(value) - shape[0]} rows past the vocabulary's {shape[0]} are left out")
        return value[: shape[0]]
    raise BertJaxError(f"{path} of the model to start from has shape {value.shape}: expected {shape}")


def _log_parts(what: str, paths: Iterable[str]) -> None:
    parts = sorted({path.split("/")[0] for path in paths})
    if parts:
        log(f"{what}: {', '.join(parts)}")
