"""Next sentence: the probability that B follows A."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.errors import BertJaxError
from bert_jax.infer.batching import Encoded
from bert_jax.infer.windows import Fit

if TYPE_CHECKING:
    from bert_jax.infer.loaded import Bert

Pair = tuple[str, str] | str


def next_sentences(
    bert: Bert, pairs: Iterable[Pair], truncate: bool = False, packing: int | None = None
) -> Iterator[dict[str, Any]]:
    """One answer per pair, in order: `a`, `b`, `probability` that B follows A, `follows` (probability ≥ 0.5).

    A pair is (a, b), or one text `a [SEP] b`. The probability is that of label 0 of the next_sentence head, as
    published. `truncate`: a pair longer than the model's positions loses from its longer side. `packing`: the most
    pairs that share a row of the batch (docs/packing.md). Errors: `BertJaxError` for a model without that head, a text
    that is not two parts, an empty part, a pair that is too long where `truncate` is not given.
    """
    bert.require_head("next_sentence", "tell whether a sentence follows")

    positions = bert.config.max_position_embeddings
    fit = Fit(positions, positions, truncate, slides=False)
    predict = bert.compiled(("next_sentence",), lambda: _make_predict(bert))

    def compute(batch: dict[str, np.ndarray], items: list[Encoded]) -> list[dict[str, Any]]:
        probabilities = np.asarray(predict(bert.params, batch)).reshape(-1)
        return [
            item.source | {"probability": float(probabilities[row]), "follows": bool(probabilities[row] >= 0.5)}
            for row, item in enumerate(items)
        ]

    encoded = (_encode(bert, pair, number, fit) for number, pair in enumerate(pairs, start=1))
    return fit.reported(bert.answers(encoded, compute, packing=packing))


def _make_predict(bert: Bert) -> Callable[..., jax.Array]:
    def predict(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        logits = bert.apply(batch, params)["next_sentence_logits"].astype(jnp.float32)
        return jax.nn.softmax(logits, axis=-1)[..., 0]

    return predict


def _encode(bert: Bert, pair: Pair, number: int, fit: Fit) -> Encoded:
    tokenizer = bert.tokenizer
    a, b = split_pair(pair, tokenizer.pieces([tokenizer.sep_id])[0], f"input {number}")
    first, second = tokenizer.ids_with_specials(a), tokenizer.ids_with_specials(b)
    for side, ids in (("A", first), ("B", second)):
        if not ids:
            raise BertJaxError(
                f"input {number}: {side} is empty: expected two sentences, got {a[:40]!r} and {b[:40]!r}"
            )
    used, other, _ = fit.fit(len(first), len(second), f"input {number}")
    first = [tokenizer.cls_id, *first[:used], tokenizer.sep_id]
    second = [*second[:other], tokenizer.sep_id]
    return Encoded(first + second, [0] * len(first) + [1] * len(second), source={"a": a, "b": b})


def split_pair(pair: Pair, separator: str, name: str) -> tuple[str, str]:
    """(a, b) of a pair, or of one text with `separator` between them, blanks at the ends removed."""
    parts = pair.split(separator) if isinstance(pair, str) else list(pair)
    if not all(isinstance(part, str) for part in parts):
        raise BertJaxError(f"{name} is {pair!r}: expected two sentences of text")
    if len(parts) != 2:
        raise BertJaxError(f"{name} has {len(parts)} part(s): expected two sentences, as 'first {separator} second'")
    return parts[0].strip(), parts[1].strip()
