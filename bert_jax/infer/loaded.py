"""A loaded model and its verbs: what `bert_jax.load` returns."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.bert_config import BertConfig
from bert_jax.errors import BertJaxError
from bert_jax.formats.model import LoadedModel, load_model
from bert_jax.formats.pooling import Mode
from bert_jax.infer.attention import Attention, TextOrPair, attentions
from bert_jax.infer.batching import ACCELERATOR_TOKENS, CPU_TOKENS, WINDOW, Answer, Encoded, stream, with_known_segments
from bert_jax.infer.embed import recipe_of, sentence_vectors
from bert_jax.infer.features import Join, token_features
from bert_jax.infer.fill_mask import fill_masks
from bert_jax.infer.next_sentence import Pair, next_sentences
from bert_jax.infer.placing import Placing, prediction_devices
from bert_jax.infer.senses import Labelled, senses
from bert_jax.infer.task_verbs import TaskVerbs
from bert_jax.infer.windows import Text
from bert_jax.model import bert as model_room
from bert_jax.model.dropout import Dropout
from bert_jax.text.tokenizer import Tokenizer


class Bert(TaskVerbs):
    """A model with its tokenizer: verbs for people, `apply` for programs.

    Attributes: `config` (BertConfig), `params` (nested dict of float32 arrays, paths as in a checkpoint), `module`
    (the Flax module), `tokenizer`, `heads`, `source` (the `LoadedModel` it was made from: path, step, provenance).
    """

    config: BertConfig
    params: dict[str, Any]
    module: Any
    tokenizer: Tokenizer
    heads: tuple[str, ...]

    def __init__(
        self, source: LoadedModel, *, dtype: Any = jnp.float32, attention: str = "auto", devices: int | None = None
    ):
        self.config = source.config
        self.placing = Placing(prediction_devices(devices))
        self.params = self.placing.everywhere(source.params)
        self.source = dataclasses.replace(source, params=self.params)  # so that nothing is kept twice
        self.tokenizer = source.tokenizer
        self.heads = source.heads
        self.module = model_room.make_model(
            source.config,
            heads=source.heads,
            dtype=dtype,
            attention="matmul" if attention == "auto" and self._on_cpu() else attention,
            classes=source.classes,
            pooler=source.pooler,
            layout=self.placing.layout,
        )
        self.first_window = WINDOW
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

        >>> rows = [bert.tokenizer.encode(text, length=8) for text in ("the cat sat", "a dog ran")]
        >>> batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        >>> outputs = jax.jit(bert.apply)(batch)
        >>> outputs["sequence_output"].shape == (2, 8, bert.config.hidden_size)
        True
        >>> loss = lambda params: bert.apply(batch, params)["pooled_output"].mean()
        >>> gradients = jax.jit(jax.grad(loss))(bert.params)
        >>> gradients["embeddings"]["word_embeddings"].shape == bert.params["embeddings"]["word_embeddings"].shape
        True
        """
        dropout = None
        if dropout_key is not None:
            example_ids = batch.get("example_ids", jnp.arange(batch["input_ids"].shape[0], dtype=jnp.uint32))
            dropout = Dropout(dropout_key, example_ids)
        given = self.params if params is None else params
        return model_room.apply(self.module, given, batch, dropout, hidden_states, attentions)

    def fill_mask(
        self,
        texts: str | Iterable[str],
        top_k: int = 5,
        candidates: Sequence[str] | None = None,
        truncate: bool = False,
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """The `top_k` most probable pieces at every `[MASK]`: one answer for a text, a list for several.

        See `bert_jax.infer.fill_mask.fill_masks`, which streams.

        >>> answer = bert.fill_mask("the cat sat on the [MASK] .", top_k=3)
        >>> mask = answer["masks"][0]
        >>> mask["position"], len(mask["candidates"])
        (6, 3)
        >>> answer = bert.fill_mask("a [MASK] ran .", candidates=["cat", "dog"])
        >>> sorted(candidate["token"] for candidate in answer["masks"][0]["candidates"])
        ['cat', 'dog']
        """
        found = list(fill_masks(self, [texts] if isinstance(texts, str) else texts, top_k, candidates, truncate))
        return found[0] if isinstance(texts, str) else found

    def next_sentence(
        self, pairs: tuple[str, str] | str | Iterable[Pair], truncate: bool = False, packing: int | None = None
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """The probability that B follows A: one answer for one pair, a list for a list of pairs.

        A pair is a tuple (a, b) or one text `a [SEP] b`. See `bert_jax.infer.next_sentence.next_sentences`.

        >>> answer = bert.next_sentence(("the cat was tired .", "it sat on the mat ."))
        >>> 0 < answer["probability"] < 1
        True
        >>> many = bert.next_sentence(["it was wet . [SEP] rain !", ("the dog ran .", "a cat sat .")])
        >>> [answer["b"] for answer in many]
        ['rain !', 'a cat sat .']
        """
        one = isinstance(pairs, str | tuple)
        found = list(next_sentences(self, [pairs] if one else pairs, truncate, packing))  # type: ignore[list-item]
        return found[0] if one else found

    def senses(
        self, word: str, sentences: Iterable[str], labels: Sequence[str] | None = None, truncate: bool = False
    ) -> dict[str, Any]:
        """How alike the uses of `word` in `sentences` are in every layer, and which layer parts its senses best.

        A use is one occurrence of the word: every one counts, in the order of the text, so that there are U of them in
        S ≤ U sentences. Only whole words are found, as the tokenizer sees them: `bank` in `Bank,` where the model is
        uncased, not in `banks`; `river bank` finds the two words in a row. The vector of a use is the mean over its
        pieces. `labels`: the sense of the word in each sentence (S,), of all its uses there; without, each layer is cut
        into two groups. `truncate`: a sentence longer than the model's positions is cut around its uses of the word,
        none of which is lost. The sentences are held in memory, and the answer grows with (1 + L) U².

        Returns a dict:

        - `word`, its `pieces`, `sentences` (S,), `senses` (the distinct labels; None without);
        - `uses` (U,): `sentence` (index), `start` and `end` (characters), `sense`, `group` and `point` (2,) of the best
          layer: its unit vectors along their two principal axes, which hold the shares `axes` (2,) of the variance;
        - `layers` (1 + L,), 0 the embeddings' output: `similarity` (U, U), the cosines; `silhouette` of the labels, or
          of the two groups of spherical 2-means; mean cosine `within` and `between` groups and their `gap`;
        - `best_layer`: of layers 1 to L the one with the greatest silhouette (`chosen_by`); of two uses, where there is
          none, the one with the least similarity. Layer 0 knows positions only and is never chosen;
        - `static`: the same of the word's rows of the embedding table, one vector in every sentence: `similarity`
          (U, U), 1 everywhere, and the one `point` (2,) on the same axes.

        Errors: `BertJaxError` for a sentence without the word, or too long (with `truncate`: whose uses lie farther
        apart than the model's positions), a word unknown to the vocabulary, fewer than
        two uses, labels of some sentences only or all the same.

        >>> found = bert.senses("play", ["the cat ran on the play street", "a dog play !"])
        >>> found["static"]["similarity"]
        [[1.0, 1.0], [1.0, 1.0]]
        >>> best = found["layers"][found["best_layer"]]
        >>> best["similarity"][0][1] < 1
        True
        """
        texts = [sentences] if isinstance(sentences, str) else list(sentences)
        given = [None] * len(texts) if labels is None else list(labels)
        if len(given) != len(texts):
            raise BertJaxError(f"{len(given)} labels for {len(texts)} sentences: give each its own")
        return next(senses(self, map(Labelled, texts, given), word, truncate))

    def embed(
        self,
        texts: Text | Iterable[Text],
        pooling: Mode | None = None,
        normalize: bool | None = None,
        truncate: bool = False,
        window: int | None = None,
        max_length: int | None = None,
        prompt: str | None = None,
        packing: int | None = None,
    ) -> np.ndarray:
        """Sentence vectors: float32 (D,) for one text or one pair (a tuple), (n, D) for several.

        Without options by the model's own recipe, else the mean of all tokens, not normalised. See
        `bert_jax.infer.embed.embeddings`, which streams.

        >>> vectors = bert.embed(["the cat ran", "a dog"], normalize=True)
        >>> vectors.shape == (2, bert.config.hidden_size)
        True
        >>> bool(np.allclose((vectors * vectors).sum(axis=1), 1, atol=1e-5))
        True
        """
        recipe = recipe_of(self, pooling, normalize, max_length)
        one = isinstance(texts, str | tuple)
        inputs: Iterable[Text] = [texts] if one else texts  # type: ignore[list-item]
        found = [vector for _, vector in sentence_vectors(self, inputs, recipe, truncate, window, prompt, packing)]
        if one:
            return found[0]
        return np.stack(found) if found else np.zeros((0, self.config.hidden_size), np.float32)

    def features(
        self,
        texts: Text | Iterable[Text],
        layers: Sequence[int] = (-1,),
        join: Join = "concat",
        words: bool = False,
        truncate: bool = False,
        window: int | None = None,
        max_length: int | None = None,
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Token vectors of `layers`: one answer for one text or one pair (a tuple), a list for several.

        An answer holds `tokens`, `segments`, `offsets`, `words` and `vectors`, float32 (tokens, width). See
        `bert_jax.infer.features.token_features`, which streams.

        >>> answer = bert.features("the playing cat", layers=(-1, -2))
        >>> answer["vectors"].shape == (len(answer["tokens"]), 2 * bert.config.hidden_size)
        True
        >>> answer["vectors"][[word == 1 for word in answer["words"]]].shape[0]  # play ##ing
        2
        """
        if isinstance(texts, str | tuple):
            return next(iter(self.features([texts], layers, join, words, truncate, window, max_length)))  # type: ignore[return-value]
        return list(token_features(self, texts, layers, join, words, truncate, window, max_length))

    def answers(
        self,
        items: Iterable[Encoded],
        compute: Callable[[dict[str, Any], list[Encoded]], list[Answer]],
        slot_sizes: Sequence[int] = (),
        window: int = WINDOW,
        packing: int | None = 1,
    ) -> Iterator[Answer]:
        """`bert_jax.infer.batching.stream` for this model: batches sized for its devices, and placed on them. `packing`
        None, where it pays, is for CPUs, where that was measured."""
        return stream(
            (with_known_segments(item, self.config.type_vocab_size, self.source.path) for item in items),
            lambda batch, members: compute({name: self.place(array) for name, array in batch.items()}, members),
            limit=self.config.max_position_embeddings,
            pad_id=self.tokenizer.pad_id,
            slot_sizes=slot_sizes,
            window=window,
            first=self.first_window,
            tokens=CPU_TOKENS if self._on_cpu() else ACCELERATOR_TOKENS,
            devices=len(self.placing.devices),
            packing=1 if packing is None and not self._on_cpu() else packing,
        )

    def _on_cpu(self) -> bool:
        return self.placing.devices[0].platform == "cpu"

    def place(self, array: np.ndarray) -> Any:
        """`array`, one row per input, spread over this model's devices by rows."""
        return self.placing.rows(array)

    def attention(
        self,
        texts: TextOrPair | Iterable[TextOrPair],
        layers: Sequence[int] | None = None,
        heads: Sequence[int] | None = None,
        vectors: bool = False,
        truncate: bool = False,
    ) -> Attention | list[Attention]:
        """How much each token looks at each other one: one answer for a text or a pair (a, b), a list for a list.

        `tokens` are the T pieces with [CLS] and [SEP], `segments` 0 or 1 for each, `weights` is (L, N, T, T) float32:
        layer, head, token that looks, token looked at; `layers` and `heads`, counted from 0, restrict it. With
        `vectors`, `answer.vectors.walk(layer, head, token)` follows one token through q, k, scores and values.
        See `bert_jax.infer.attention.attentions`, which streams.

        >>> seen = bert.attention("the cat ran")
        >>> seen.tokens
        ['[CLS]', 'the', 'cat', 'ran', '[SEP]']
        >>> bool(np.allclose(seen.weights.sum(axis=-1), 1, atol=1e-5))
        True
        """
        one = isinstance(texts, str | tuple)
        inputs: Iterable[TextOrPair] = [texts] if one else texts  # type: ignore[list-item]
        found = list(attentions(self, inputs, layers, heads, vectors, truncate))
        return found[0] if one else found

    def compiled(self, key: Hashable, make: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
        """The jitted function made by `make`, once per `key` for as long as this model lives."""
        if key not in self._programs:
            self._programs[key] = jax.jit(make())
        return self._programs[key]

    def require_head(self, head: str, purpose: str) -> None:
        """Error unless the model has `head`."""
        if head in self.source.left_out:
            raise BertJaxError(f"{self.source.path} cannot {purpose}: {self.source.left_out[head]}")
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
    model: str | os.PathLike[str],
    *,
    cased: bool | None = None,
    dtype: Any = jnp.float32,
    attention: str = "auto",
    devices: int | None = None,
) -> Bert:
    """Load a MODEL (`RUN`, `RUN@1000`, `RUN@best`) for prediction.

    `dtype` is the compute dtype (the parameters stay float32), `attention` the engine, `cased` overrides the casing,
    `devices` how many of this process's devices share the rows of a batch (default: all accelerators, or one CPU).
    Errors: `BertJaxError` as in `bert_jax.formats.model.load_model`, and for more devices than there are.
    """
    place = Placing(prediction_devices(devices)).everywhere  # array by array: the whole model is never held twice
    loaded = load_model(model, cased=cased, partial=True, place=place)
    return Bert(loaded, dtype=dtype, attention=attention, devices=devices)
