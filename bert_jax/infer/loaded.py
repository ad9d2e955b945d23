"""A loaded model and its verbs: what `bert_jax.load` returns."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bert_jax.bert_config import BertConfig
from bert_jax.errors import BertJaxError
from bert_jax.formats.model import LoadedModel, load_model
from bert_jax.infer.attention import Attention, TextOrPair, attentions
from bert_jax.infer.fill_mask import fill_masks
from bert_jax.infer.next_sentence import Pair, next_sentences
from bert_jax.model import bert as model_room
from bert_jax.model.dropout import Dropout
from bert_jax.text.tokenizer import Tokenizer


class Bert:
    """A model with its tokenizer: verbs for people, `apply` for programs.

    Attributes: `config` (BertConfig), `params` (nested dict of float32 arrays, paths as in a checkpoint), `module`
    (the Flax module), `tokenizer`, `heads`, `source` (the `LoadedModel` it was made from: path, step, provenance).
    """

    config: BertConfig
    params: dict[str, Any]
    module: Any
    tokenizer: Tokenizer
    heads: tuple[str, ...]

    def __init__(self, source: LoadedModel, *, dtype: Any = jnp.float32, attention: str = "auto"):
        self.source = source
        self.config = source.config
        self.params = jax.tree.map(jnp.asarray, source.params)
        self.tokenizer = source.tokenizer
        self.heads = source.heads
        self.module = model_room.make_model(
            source.config,
            heads=source.heads,
            dtype=dtype,
            attention=attention,
            classes=source.classes,
            pooler=source.pooler,
        )
        self._programs: dict[Hashable, Callable[..., Any]] = {}

    def apply(
        self,
        batch: Mapping[str, Any],
        params: dict[str, Any] | None = None,
        dropout_key: jax.Array | None = None,
        hidden_states: bool = False,
        attentions: bool = False,
    ) -> dict[str, Any]:
        """The model as a pure function of `batch` and `params`: differentiable, jittable.

        `batch`: `input_ids input_mask segment_ids` (B, T) and, if wanted, `position_ids` (B, T) and
        `masked_lm_positions` (B, M). `params` default to the loaded ones; `dropout_key` given means training.
        Returns a dict: `sequence_output` (B, T, D), `pooled_output` (B, D); where the head exists `masked_lm_logits`
        (B, M, V), or (B, T, V) without positions, and `next_sentence_logits` (B, 2); with `hidden_states` the
        embeddings' and each layer's output, with `attentions` each layer's weights.

        An own head and loss, in optax's terms::

            def loss(params, batch):
                vectors = bert.apply(batch, params["bert"], dropout_key=key)["pooled_output"]
                logits = vectors @ params["head"]
                return optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]).mean()
        """
        dropout = None
        if dropout_key is not None:
            example_ids = batch.get("example_ids", jnp.arange(batch["input_ids"].shape[0], dtype=jnp.uint32))
            dropout = Dropout(dropout_key, example_ids)
        given = self.params if params is None else params
        return model_room.apply(self.module, given, batch, dropout, hidden_states, attentions)

    def fill_mask(
        self, texts: str | Iterable[str], top_k: int = 5, candidates: Sequence[str] | None = None
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """The `top_k` most probable pieces at every `[MASK]`: one answer for a text, a list for several.

        See `bert_jax.infer.fill_mask.fill_masks`, which streams.
        """
        if isinstance(texts, str):
            return next(fill_masks(self, [texts], top_k, candidates))
        return list(fill_masks(self, texts, top_k, candidates))

    def next_sentence(self, pairs: tuple[str, str] | str | Iterable[Pair]) -> dict[str, Any] | list[dict[str, Any]]:
        """The probability that B follows A: one answer for one pair, a list for a list of pairs.

        A pair is a tuple (a, b) or one text `a [SEP] b`. See `bert_jax.infer.next_sentence.next_sentences`.
        """
        if isinstance(pairs, str | tuple):
            return next(next_sentences(self, [pairs]))
        return list(next_sentences(self, pairs))

    def attention(
        self,
        texts: TextOrPair | Iterable[TextOrPair],
        layers: Sequence[int] | None = None,
        heads: Sequence[int] | None = None,
        vectors: bool = False,
    ) -> Attention | list[Attention]:
        """How much each token looks at each other one: one answer for a text or a pair (a, b), a list for a list.

        `tokens` are the T pieces with [CLS] and [SEP], `segments` 0 or 1 for each, `weights` is (L, N, T, T) float32:
        layer, head, token that looks, token looked at; `layers` and `heads`, counted from 0, restrict it. With
        `vectors`, `answer.vectors.walk(layer, head, token)` follows one token through q, k, scores and values.
        See `bert_jax.infer.attention.attentions`, which streams::

            seen = bert.attention("The animal didn't cross the street because it was too tired")
            it, animal = seen.tokens.index("it"), seen.tokens.index("animal")
            layer, head = np.argwhere(seen.weights[:, :, it, animal] == seen.weights[:, :, it, animal].max())[0]
        """
        if isinstance(texts, str | tuple):
            return next(attentions(self, [texts], layers, heads, vectors))
        return list(attentions(self, texts, layers, heads, vectors))

    def compiled(self, key: Hashable, make: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
        """The jitted function made by `make`, once per `key` for as long as this model lives."""
        if key not in self._programs:
            self._programs[key] = jax.jit(make())
        return self._programs[key]

    def require_head(self, head: str, purpose: str) -> None:
        """Error unless the model has `head`."""
        if head not in self.heads:
            raise BertJaxError(
                f"{self.source.path} has no {head} head (it has {', '.join(self.heads) or 'none'}), so it cannot "
                f"{purpose}: give a model trained with that objective"
            )

    def require_length(self, tokens: int, name: str) -> None:
        """Error when an input of `tokens` tokens is longer than the position table."""
        limit = self.config.max_position_embeddings
        if tokens > limit:
            raise BertJaxError(
                f"{name} is {tokens} tokens long with [CLS] and [SEP], more than the model's {limit} positions: "
                "shorten it"
            )


def load(
    model: str | os.PathLike[str], *, cased: bool | None = None, dtype: Any = jnp.float32, attention: str = "auto"
) -> Bert:
    """Load a MODEL (`RUN`, `RUN@1000`, `RUN@best`) for prediction.

    `dtype` is the compute dtype (the parameters stay float32), `attention` the engine, `cased` overrides the casing.
    Errors: `BertJaxError` as in `bert_jax.formats.model.load_model`.
    """
    return Bert(load_model(model, cased=cased), dtype=dtype, attention=attention)
