"""A tiny model for a form, its rows padded by hand, and a few steps of training that must learn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bert_jax.bert_config import BertConfig
from bert_jax.formats.model import LoadedModel
from bert_jax.infer.loaded import Bert
from bert_jax.model.bert import apply, init_parameters, make_model
from bert_jax.tasks.task import Form, Row
from bert_jax.text.tokenizer import SPECIAL_PIECES, WordPieceTokenizer


def tokenizer_of(words: Iterable[str]) -> WordPieceTokenizer:
    return WordPieceTokenizer([*SPECIAL_PIECES.values(), *words], cased=False)


def published_tokenizer(data_dir: Path, name: str) -> WordPieceTokenizer:
    """The tokenizer of one of the official vocabularies, uncased."""
    text = (data_dir / "vocab" / f"{name}.txt").read_text("utf-8")
    return WordPieceTokenizer(text.removesuffix("\n").split("\n"), cased=False)


def padded(rows: Sequence[Row], form: Form, length: int | None = None) -> dict[str, np.ndarray]:
    """The rows as one batch, targets included."""
    length = length or max(row.length for row in rows)
    batch = {name: np.zeros((len(rows), length), np.int32) for name in ("input_ids", "input_mask", "segment_ids")}
    for index, row in enumerate(rows):
        used = len(row.ids[0])
        batch["input_ids"][index, :used] = row.ids[0]
        batch["segment_ids"][index, :used] = row.segments[0]
        batch["input_mask"][index, :used] = 1
    for name in rows[0].targets:
        values = [np.asarray(row.targets[name]) for row in rows]
        if name in form.token_targets:
            shape = (len(rows), length, *values[0].shape[1:])
            batch[name] = np.full(shape, form.token_targets[name], values[0].dtype)
            for index, value in enumerate(values):
                batch[name][index, : len(value)] = value
        else:
            batch[name] = np.stack(values)
    return batch


def trained(form: Form, examples: Sequence[Any], steps: int = 60, rate: float = 1e-2) -> tuple[Bert, list[float]]:
    """A model of one layer trained on all rows at once, and the losses on the way."""
    config = BertConfig(
        vocab_size=form.tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    assert form.head is not None
    model = make_model(config, heads=(form.head,), classes=form.classes, pooler=form.pooler)
    params: Any = jax.jit(lambda key: init_parameters(model, key))(jax.random.key(0))
    batch = padded([row for example in examples for row in form.encode(example)], form)
    optimizer = optax.adam(rate)

    @jax.jit
    def step(params: Any, state: Any) -> tuple[Any, Any, jax.Array]:
        def loss(params: Any) -> jax.Array:
            losses = form.loss(apply(model, params, batch), batch)
            assert losses.shape == batch["input_ids"].shape[:1] and losses.dtype == jnp.float32
            return jnp.mean(losses)

        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    state = optimizer.init(params)
    losses = []
    for _ in range(steps):
        params, state, value = step(params, state)
        losses.append(float(value))
    loaded = LoadedModel(
        config=config,
        params=params,
        tokenizer=form.tokenizer,
        kind="run",
        path=Path("tiny"),
        step=steps,
        heads=(form.head,),
        classes=form.classes,
        pooler=form.pooler,
    )
    return Bert(loaded), losses
