"""Attention: how much every token looks at every other one, in each layer and head.

Layers and heads are counted from 0, tokens from 0 with [CLS].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.errors import BertJaxError
from bert_jax.infer.attention_walk import Vectors, project
from bert_jax.infer.batching import Encoded, stream, with_known_segments
from bert_jax.infer.windows import Fit, rows_of

if TYPE_CHECKING:
    from bert_jax.infer.loaded import Bert

TextOrPair = str | tuple[str, str]
DECIMALS = 5


class Attention(NamedTuple):
    """What a model looks at in one text or pair. L and N count the layers and heads asked for."""

    source: TextOrPair
    tokens: list[str]
    """The T pieces, [CLS] and [SEP] among them."""
    segments: list[int]
    """0 up to the first [SEP], 1 after it."""
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    weights: np.ndarray
    """(L, N, T, T) float32: layer, head, token that looks, token looked at; each row sums to 1."""
    vectors: Vectors | None = None
    """What the weights were computed from, when asked for."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON values: `text`, or `a` and `b`, then the fields, weights as nested lists of 5 decimals."""
        return {**self.facts(), "weights": np.round(self.weights.astype(np.float64), DECIMALS).tolist()}

    def facts(self) -> dict[str, Any]:
        """`to_dict` without the weights."""
        source = {"text": self.source} if isinstance(self.source, str) else dict(zip("ab", self.source, strict=True))
        return {
            **source,
            "tokens": self.tokens,
            "segments": self.segments,
            "layers": list(self.layers),
            "heads": list(self.heads),
        }


def attention_answers(
    bert: Bert,
    inputs: Iterable[TextOrPair],
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    truncate: bool = False,
) -> Iterator[dict[str, Any]]:
    """`attentions` as JSON values, one per input."""
    return (answer.to_dict() for answer in attentions(bert, inputs, layers, heads, truncate=truncate))


def attentions(
    bert: Bert,
    inputs: Iterable[TextOrPair],
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    vectors: bool = False,
    truncate: bool = False,
) -> Iterator[Attention]:
    """One `Attention` per text or pair (a, b), in order; `layers` and `heads` restrict it to those numbers.

    Special tokens typed in a text are plain characters; an empty text is `[CLS] [SEP]`. One input is in memory at a
    time: its weights alone are 4·L·N·T² bytes. `truncate`: a text longer than the model's positions is cut at its end,
    a pair loses from its longer side. Errors: `BertJaxError` for an input that is too long where `truncate` is not
    given, a layer or a head that the model does not have.
    """
    config = bert.config
    chosen_layers = choose("layer", layers, config.num_hidden_layers)
    chosen_heads = choose("head", heads, config.num_attention_heads)
    fit = Fit(config.max_position_embeddings, config.max_position_embeddings, truncate, slides=False)
    read = bert.compiled(("attention", vectors), lambda: _make_read(bert, vectors))

    def compute(batch: dict[str, np.ndarray], items: list[Encoded]) -> list[Attention]:
        outputs = jax.device_get(read(bert.params, batch))
        return [
            _answer(bert, item, row, outputs, chosen_layers, chosen_heads, vectors) for row, item in enumerate(items)
        ]

    encoded = (
        with_known_segments(_encode(bert, item, f"input {number}", fit), config.type_vocab_size, bert.source.path)
        for number, item in enumerate(inputs, start=1)
    )
    return fit.reported(
        stream(encoded, compute, limit=config.max_position_embeddings, pad_id=bert.tokenizer.pad_id, window=1)
    )


def choose(what: str, wanted: Sequence[int] | None, count: int) -> tuple[int, ...]:
    """The numbers `wanted` of 0 … `count` - 1, repeated ones once; all without. Errors: `BertJaxError` naming one."""
    if wanted is None:
        return tuple(range(count))
    for number in wanted:
        if not 0 <= number < count:
            raise BertJaxError(f"there is no {what} {number}: the model's {what}s are 0 to {count - 1}")
    if not wanted:
        raise BertJaxError(f"no {what} was chosen: give at least one of 0 to {count - 1}, or leave the option out")
    return tuple(dict.fromkeys(wanted))


def _make_read(bert: Bert, vectors: bool) -> Callable[..., dict[str, Any]]:
    def read(params: Any, batch: Mapping[str, jax.Array]) -> dict[str, Any]:
        outputs = bert.apply(batch, params, attentions=True, hidden_states=vectors)
        weights = jnp.stack(outputs["attentions"], axis=1).astype(jnp.float32)  # B, L, N, T, T
        if not vectors:
            return {"weights": weights}
        return {"weights": weights, **project(params, outputs["hidden_states"], bert.module.dtype)}

    return read


def _encode(bert: Bert, item: TextOrPair, name: str, fit: Fit) -> Encoded:
    a, b = (item, None) if isinstance(item, str) else item
    first, second = bert.tokenizer.ids(a), None if b is None else bert.tokenizer.ids(b)
    used, other, found = fit.fit(len(first), None if second is None else len(second), name)
    (row,) = rows_of(bert.tokenizer, first[:used], None if second is None else second[:other], found, item)
    return row._replace(source=item)


def _answer(
    bert: Bert,
    item: Encoded,
    row: int,
    outputs: Mapping[str, np.ndarray],
    layers: tuple[int, ...],
    heads: tuple[int, ...],
    vectors: bool,
) -> Attention:
    used = len(item.input_ids)
    cut = {name: values[row][list(layers)] for name, values in outputs.items()}
    picked = {name: values[:, list(heads), :used] for name, values in cut.items() if name != "hidden"}
    weights = picked.pop("weights")[..., :used]
    found = None
    if vectors:
        kernels = [bert.params["encoder"][f"layer_{layer}"]["attention"]["output"]["kernel"] for layer in layers]
        output = tuple(np.asarray(kernel)[list(heads)] for kernel in kernels)
        found = Vectors(**picked, hidden=cut["hidden"][:, :used], output_kernels=output)
    tokens = bert.tokenizer.pieces(item.input_ids)
    return Attention(item.source, tokens, item.segment_ids, layers, heads, weights, found)
