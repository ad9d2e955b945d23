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
from bert_jax.model.dropout import Draws, Dropout, drop_before_classifier, make_draws
from bert_jax.model.encoder import Embeddings, Encoder
from bert_jax.model.heads import Classifier, MaskedLM, Pooler, gather_positions
from bert_jax.model.layout import Layout

Head = Literal[
    "masked_lm",
    "next_sentence",
    "classification",
    "tagging",
    "question_answering",
    "multiple_choice",
    "first_token",
    "relation",
    "pointers",
]
Remat = Literal["none", "dots", "full"]
Parameters = dict[str, Any]

PRETRAINING_HEADS: tuple[Head, ...] = ("masked_lm", "next_sentence")
# Heads that are one linear map, what of, and to how many classes (None: as asked): of each token, of the pooled first
# one, of the first one as it is, or of the tokens at `entity_positions` side by side.
CLASSIFIERS: dict[str, tuple[Literal["tokens", "pooled", "first", "entities"], int | None]] = {
    "next_sentence": ("pooled", 2),  # 0: the second segment follows, 1: it does not
    "classification": ("pooled", None),
    "tagging": ("tokens", None),
    "question_answering": ("tokens", 2),  # begin and end of the answer
    "multiple_choice": ("pooled", 1),  # the score of one choice
    "first_token": ("first", None),
    "relation": ("entities", None),
    "pointers": ("tokens", None),  # for each kind of span whether it begins here, then for each whether it ends here
}
OF_EXAMPLES = tuple(head for head, (of, _) in CLASSIFIERS.items() if of in ("pooled", "first"))
"""Heads that read one vector of each example, of packed rows too."""
DROPPED = ("classification", "tagging", "multiple_choice", "first_token", "relation")
"""Heads before which hidden states are dropped in training, as google-research/bert `run_classifier.py` does."""


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
    classes: int = 2
    pooler: bool = True

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
            draws = make_draws(dropout, ids.shape[0], places, sequence_ids, self.layout)
        embeddings = Embeddings(config, dtype, self.vocab_multiple, name="embeddings")
        x, table = embeddings(ids, batch["segment_ids"], position_ids, draws)
        visible = attention.visible_from(batch["input_mask"], sequence_ids)
        encoder = Encoder(config, dtype, self.attention, self.scan_layers, self.remat, self.layout, name="encoder")
        states, shares = encoder(x, visible, draws, hidden_states, attentions)
        outputs: dict[str, Any] = {"sequence_output": states[-1]}
        if hidden_states:
            outputs["hidden_states"] = (x, *states)
        if attentions:
            outputs["attentions"] = shares
        return {**outputs, **self._head_outputs(batch, states[-1], table, draws)}

    def _head_outputs(
        self, batch: Mapping[str, jax.Array], x: jax.Array, table: jax.Array, draws: Draws | None
    ) -> dict[str, Any]:
        config, dtype = self.config, self.dtype
        outputs: dict[str, Any] = {}
        positions = batch.get("cls_positions")
        first = x[:, 0] if positions is None else gather_positions(x, positions)
        if self.pooler:
            outputs["pooled_output"] = Pooler(config, dtype, name="pooler")(first)
        for head in self.heads:
            if head == "masked_lm":
                masked = batch.get("masked_lm_positions")
                predicted = x if masked is None else gather_positions(x, masked)
                logits = MaskedLM(config, dtype, name=head)(predicted, self.layout.table(table))
            else:
                of, classes = CLASSIFIERS[head]
                classifier = Classifier(config, dtype, classes or self.classes, name=head)
                if of == "entities":
                    entities = gather_positions(x, batch["entity_positions"])
                    read = entities.reshape(entities.shape[0], -1)
                else:
                    read = x if of == "tokens" else first if of == "first" else outputs["pooled_output"]
                if head in DROPPED:
                    read = drop_before_classifier(read, draws, config.hidden_dropout_prob, of == "tokens")
                logits = classifier(read)
            outputs[f"{head}_logits"] = logits
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
    classes: int = 2,
    pooler: bool = True,
) -> Bert:
    """The module for `config`.

    dtype: of the computation; parameters, LayerNorm statistics, softmax and logits are float32 whatever it is.
    scan_layers: compile one layer and scan over all; the parameter tree stays per layer. remat: what the backward pass
    recomputes: 'none', 'dots' (all but products with parameters) or 'full'. vocab_multiple: V is rounded up to a
    multiple of this inside `apply`; the rows added are zero, their logits about −1e30.
    layout: for runs on a mesh. classes: of the heads without a number of their own. pooler: False for a model that was
    published without one, as heads that read all tokens need none. Errors: `BertJaxError` naming the setting.
    """
    config.known_vocab_size  # noqa: B018 - raises when it is not set
    for head in heads:
        _check_choice("head", head, get_args(Head))
        if not pooler and CLASSIFIERS.get(head, ("tokens",))[0] == "pooled":
            raise BertJaxError(f"head {head!r} reads the pooled first token, and the model has no pooler")
    _check_choice("remat", remat, get_args(Remat))
    _check_choice("attention", attention, ("auto", *_engines()))
    if vocab_multiple < 1:
        raise BertJaxError(f"vocab_multiple is {vocab_multiple}: expected at least 1")
    return Bert(
        config,
        tuple(heads),
        jnp.dtype(dtype),
        attention,
        scan_layers,
        remat,
        vocab_multiple,
        layout or Layout(),
        classes,
        pooler,
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
    batch["entity_positions"] = jnp.zeros((1, 2), jnp.int32)
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
    `sequence_ids` (B, T; 1..P, 0 at padding) and `cls_positions` (B, P); optionally `masked_lm_positions` (B, M); for
    the head `relation` `entity_positions` (B, 2).
    dropout: given means training.

    Returns `sequence_output` (B, T, D) and `pooled_output` (B, D), or (B, P, D) when packed, in the compute dtype; as
    float32 `masked_lm_logits` (B, M, V), or (B, T, V) without positions, and `next_sentence_logits` (B, 2) or
    (B, P, 2), where the model has these heads; likewise `classification_logits`, `first_token_logits` and
    `relation_logits` (B, C), `tagging_logits` and `pointers_logits` (B, T, C), `question_answering_logits` (B, T, 2:
    begin, end) and `multiple_choice_logits` (B, 1). When packed, those of a head in `OF_EXAMPLES` are (B, P, C).
    hidden_states: also `hidden_states`, a tuple of 1 + L arrays (B, T, D) that begins with the embeddings.
    attentions: also `attentions`, a tuple of L arrays (B, N, T, T), before dropout.
    Errors: `BertJaxError` when the batch does not fit the model, or the attention engine cannot do what is asked.
    """
    return cast(dict[str, Any], model.apply({"params": params}, batch, dropout, hidden_states, attentions))
