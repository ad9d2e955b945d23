"""The model: a batch of token ids in, hidden states and logits out.

`make_model` returns a Flax Linen module; `init_parameters` and `apply` are the functional way to use it:

    model = make_model(BertConfig.preset("tiny"))
    params = init_parameters(model, jax.random.key(0))
    outputs = apply(model, params, {"input_ids": ids, "input_mask": mask, "segment_ids": segments})
    outputs["sequence_output"]  # (B, T, D)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from bert_jax.bert_config import BertConfig
from bert_jax.errors import BertJaxError
from bert_jax.model import attention
from bert_jax.model.dropout import Dropout, make_draws
from bert_jax.model.encoder import Embeddings, Encoder
from bert_jax.model.heads import MaskedLM, NextSentence, Pooler, gather_positions
from bert_jax.model.layout import Layout

Head = Literal["masked_lm", "next_sentence"]
Remat = Literal["none", "dots", "full"]
Parameters = dict[str, Any]

PRETRAINING_HEADS: tuple[Head, ...] = ("masked_lm", "next_sentence")


class Bert(nn.Module):
    """BERT with the heads asked for. Made by `make_model`, which checks the settings."""

    config: BertConfig
    heads: tuple[str, ...] = PRETRAINING_HEADS
    dtype: Any = jnp.float32
    attention: str = "auto"
    scan_layers: bool = False
    remat: str = "none"
    vocab_multiple: int = 1
    layout: Layout = Layout()

    @nn.compact
    def __call__(
        self,
        batch: Mapping[str, jax.Array],
        dropout: Dropout | None = None,
        hidden_states: bool = False,
        attentions: bool = False,
    ) -> dict[str, Any]:
        """See `apply`."""
        config, dtype = self.config, self.dtype
        ids, sequence_ids = batch["input_ids"], batch.get("sequence_ids")
        _check_batch(config, batch)
        position_ids = batch.get("position_ids")
        draws = None
        if dropout is not None:
            places = jnp.arange(ids.shape[1])[None] if position_ids is None else position_ids
            draws = make_draws(dropout, ids.shape[0], places, sequence_ids)
        embeddings = Embeddings(config, dtype, self.vocab_multiple, name="embeddings")
        x, table = embeddings(ids, batch["segment_ids"], position_ids, draws)
        mask = attention.attention_mask(batch["input_mask"], sequence_ids)
        encoder = Encoder(config, dtype, self.attention, self.scan_layers, self.remat, self.layout, name="encoder")
        states, shares = encoder(x, mask, draws, hidden_states, attentions)
        outputs: dict[str, Any] = {"sequence_output": states[-1]}
        if hidden_states:
            outputs["hidden_states"] = (x, *states)
        if attentions:
            outputs["attentions"] = shares
        return {**outputs, **self._head_outputs(batch, states[-1], table)}

    def _head_outputs(self, batch: Mapping[str, jax.Array], x: jax.Array, table: jax.Array) -> dict[str, Any]:
        config, dtype = self.config, self.dtype
        positions = batch.get("cls_positions")
        first = x[:, 0] if positions is None else gather_positions(x, positions)
        pooled = Pooler(config, dtype, name="pooler")(first)
        outputs = {"pooled_output": pooled}
        if "masked_lm" in self.heads:
            masked = batch.get("masked_lm_positions")
            predicted = x if masked is None else gather_positions(x, masked)
            outputs["masked_lm_logits"] = MaskedLM(config, dtype, name="masked_lm")(predicted, self.layout.table(table))
        if "next_sentence" in self.heads:
            outputs["next_sentence_logits"] = NextSentence(config, dtype, name="next_sentence")(pooled)
        return outputs


def _check_batch(config: BertConfig, batch: Mapping[str, jax.Array]) -> None:
    length = batch["input_ids"].shape[1]
    if length > config.max_position_embeddings and "position_ids" not in batch:
        raise BertJaxError(
            f"the batch is {length} tokens long and the position table has {config.max_position_embeddings} rows "
            f"(max_position_embeddings): shorten the sequences, or use a model with a longer table"
        )
    packed = [name for name in ("position_ids", "sequence_ids", "cls_positions") if name in batch]
    if "sequence_ids" in packed and len(packed) < 3:
        raise BertJaxError(f"a packed batch needs position_ids, sequence_ids and cls_positions; got only {packed}")


def make_model(
    config: BertConfig,
    *,
    heads: Sequence[str] = PRETRAINING_HEADS,
    dtype: Any = jnp.float32,
    attention: str = "auto",
    scan_layers: bool = False,
    remat: str = "none",
    vocab_multiple: int = 1,
    layout: Layout | None = None,
) -> Bert:
    """The module for `config`.

    dtype: of the computation; parameters, LayerNorm statistics, softmax and logits are float32 whatever it is.
    scan_layers: compile one layer and scan over all; the parameter tree stays per layer. remat: what the backward pass
    recomputes: 'none', 'dots' (all but products with parameters) or 'full'. vocab_multiple: V is rounded up to a
    multiple of this inside `apply`; the rows added are zero, their logits about −1e30.
    layout: for runs on a mesh. Errors: `BertJaxError` naming the setting.
    """
    config.known_vocab_size  # noqa: B018 - raises when it is not set
    for head in heads:
        _check_choice("head", head, get_args(Head))
    _check_choice("remat", remat, get_args(Remat))
    _check_choice("attention", attention, ("auto", *_engines()))
    if vocab_multiple < 1:
        raise BertJaxError(f"vocab_multiple is {vocab_multiple}: expected at least 1")
    return Bert(
        config, tuple(heads), jnp.dtype(dtype), attention, scan_layers, remat, vocab_multiple, layout or Layout()
    )


def _engines() -> tuple[str, ...]:
    return tuple(attention.ENGINES)


def _check_choice(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise BertJaxError(f"{what} is {value!r}: expected one of {', '.join(known)}")


def init_parameters(model: Bert, key: jax.Array) -> Parameters:
    """Fresh float32 parameters as a plain nested dict, one subtree per layer; pure, so that it may be jitted."""
    token = jnp.zeros((1, 1), jnp.int32)
    batch = {"input_ids": token, "input_mask": token, "segment_ids": token, "masked_lm_positions": token}
    return cast(Parameters, model.init(key, batch)["params"])


def abstract_parameters(model: Bert) -> Parameters:
    """Shapes and dtypes of the parameters, as a nested dict of `jax.ShapeDtypeStruct`; nothing is computed."""
    return cast(Parameters, jax.eval_shape(lambda: init_parameters(model, jax.random.key(0))))


def apply(
    model: Bert,
    params: Parameters,
    batch: Mapping[str, jax.Array],
    dropout: Dropout | None = None,
    hidden_states: bool = False,
    attentions: bool = False,
) -> dict[str, Any]:
    """Run the model: pure, jittable, differentiable in `params`.

    batch: `input_ids`, `input_mask`, `segment_ids` (B, T) integers; for packed rows also `position_ids`,
    `sequence_ids` (B, T; 1..P, 0 at padding) and `cls_positions` (B, P); optionally `masked_lm_positions` (B, M).
    dropout: given means training.

    Returns `sequence_output` (B, T, D) and `pooled_output` (B, D), or (B, P, D) when packed, in the compute dtype; as
    float32 `masked_lm_logits` (B, M, V), or (B, T, V) without positions, and `next_sentence_logits` (B, 2) or
    (B, P, 2), where the model has these heads. hidden_states: also `hidden_states`, a tuple of 1 + L arrays (B, T, D)
    that begins with the embeddings. attentions: also `attentions`, a tuple of L arrays (B, N, T, T), before dropout.
    Errors: `BertJaxError` when the batch does not fit the model, or the attention engine cannot do what is asked.
    """
    return cast(dict[str, Any], model.apply({"params": params}, batch, dropout, hidden_states, attentions))
