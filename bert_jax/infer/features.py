"""Features: a vector for every token of a text, of the layers asked for, with what is needed to use them by word."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.errors import BertJaxError
from bert_jax.infer.batching import WINDOW, Encoded
from bert_jax.infer.windows import Fit, Text, as_answer, rows_of, sides
from bert_jax.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from bert_jax.infer.loaded import Bert

Join = Literal["concat", "sum", "mean"]
_WINDOW_BYTES = 256 << 20  # of vectors that wait for the inputs before them


def token_features(
    bert: Bert,
    texts: Iterable[Text],
    layers: Sequence[int] = (-1,),
    join: Join = "concat",
    words: bool = False,
    truncate: bool = False,
    window: int | None = None,
    max_length: int | None = None,
) -> Iterator[dict[str, Any]]:
    """One answer per text or pair, in order: `text`, or `a` and `b`, and lists with one entry per token:

    `tokens` (pieces, [CLS] and [SEP] among them), `segments` (0, and 1 for B and its [SEP]), `offsets` ([first, past]
    characters of the text, in a pair of the token's own side; None for [CLS] and [SEP]), `words` (which word of the
    input, counted from 0; None for the same). `vectors`, float32 (tokens, width): of layer 0, the embeddings' output,
    to L, the last, or from the end with negative numbers, joined in the order of `layers`: 'concat' makes them
    len(layers) · D wide, 'sum' and 'mean' D. With `words`, `vectors` has one row per word, the mean of its pieces, and
    `word_offsets` its characters.

    Texts and long inputs as in `bert_jax.infer.embed`, the limit being the model's positions unless `max_length` is
    given; with `window` each token's vector is from the window where it has most context on both sides.
    Errors: `BertJaxError` for a layer that does not exist, an input that is too long, or no text.
    """
    chosen = layer_numbers(layers, bert.config.num_hidden_layers)
    if join not in get_args(Join):
        raise BertJaxError(f"join is {join!r}: expected one of {', '.join(get_args(Join))}")
    positions = bert.config.max_position_embeddings
    fit = Fit(positions if max_length is None else max_length, positions, truncate, window)
    predict = bert.compiled(("features", chosen, join), lambda: _make_predict(bert, chosen, join))

    def compute(batch: dict[str, Any], items: list[Encoded]) -> list[tuple[Any, np.ndarray]]:
        vectors = np.asarray(predict(bert.params, batch))
        return [
            (item.source, vectors[row, item.source.first : item.source.past].copy()) for row, item in enumerate(items)
        ]

    rows: list[np.ndarray] = []
    width = bert.config.hidden_size * (len(chosen) if join == "concat" else 1)
    ahead = max(1, min(WINDOW, _WINDOW_BYTES // (4 * width * fit.limit)))
    for piece, vectors in bert.answers(_encode(bert, texts, fit), compute, window=ahead):
        rows.append(vectors)
        if piece.last:
            found = np.concatenate(rows) if len(rows) > 1 else rows[0]
            yield by_word(piece.source, found) if words else piece.source | {"vectors": found}
            rows = []
    fit.report()


def layer_numbers(layers: Sequence[int], count: int) -> tuple[int, ...]:
    """`layers` as numbers 0 … `count`. Errors: `BertJaxError` naming one that does not exist."""
    if isinstance(layers, int) or not all(isinstance(layer, int) for layer in layers):
        raise BertJaxError(f"layers is {layers!r}: expected whole numbers in a list, such as [-1]")
    if not layers:
        raise BertJaxError(f"no layers: give at least one of 0 (embeddings) to {count}")
    for layer in layers:
        if not -count - 1 <= layer <= count:
            raise BertJaxError(
                f"there is no layer {layer}: expected 0 (the embeddings' output) to {count}, or -1 (the last) "
                f"to {-count - 1}"
            )
    return tuple(layer % (count + 1) for layer in layers)


def _make_predict(bert: Bert, layers: tuple[int, ...], join: Join) -> Callable[..., jax.Array]:
    def predict(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        states = bert.apply(batch, params, hidden_states=True)["hidden_states"]
        chosen = [states[layer].astype(jnp.float32) for layer in layers]
        if join == "concat":
            return jnp.concatenate(chosen, axis=-1)
        total = sum(chosen[1:], start=chosen[0])
        return total if join == "sum" else total / len(chosen)

    return predict


def _encode(bert: Bert, texts: Iterable[Text], fit: Fit) -> Iterator[Encoded]:
    tokenizer = bert.tokenizer
    for number, text in enumerate(texts, start=1):
        a, b = sides(text, f"input {number}")
        encoded = [tokenizer.encode_with_offsets(side) for side in (a, b) if side is not None]
        counts = [len(ids) for ids, _ in encoded]
        used, other, found = fit.fit(counts[0], counts[1] if b is not None else None, f"input {number}")
        kept = [
            (ids[:count].tolist(), offsets[:count])
            for (ids, offsets), count in zip(encoded, (used, other), strict=False)
        ]
        answer = as_answer(a, b) | describe(tokenizer, kept)
        yield from rows_of(tokenizer, kept[0][0], None if b is None else kept[1][0], found, answer)


def describe(tokenizer: Tokenizer, segments: Sequence[tuple[list[int], np.ndarray]]) -> dict[str, Any]:
    """`tokens segments offsets words` of an input, its sides given as ids and offsets (n, 2), specials added."""
    cls, sep = tokenizer.pieces([tokenizer.cls_id, tokenizer.sep_id])
    tokens: list[str] = [cls]
    numbers: list[int] = [0]
    offsets: list[list[int] | None] = [None]
    words: list[int | None] = [None]
    word = -1
    for segment, (ids, places) in enumerate(segments):
        starts = tokenizer.word_starts(np.array(ids, np.int32))
        for index, begins in enumerate(starts.tolist()):
            word += bool(begins or index == 0)  # whatever a text begins with begins a word
            words.append(word)
        tokens += [*tokenizer.pieces(ids), sep]
        offsets += [*places.tolist(), None]
        words.append(None)
        numbers += [segment] * (len(ids) + 1)
    return {"tokens": tokens, "segments": numbers, "offsets": offsets, "words": words}


def by_word(answer: dict[str, Any], vectors: np.ndarray) -> dict[str, Any]:
    """`answer` with one row of `vectors` per word, the mean of its pieces' rows, and `word_offsets`."""
    count = max((word for word in answer["words"] if word is not None), default=-1) + 1
    sums, pieces = np.zeros((count, vectors.shape[1]), np.float32), np.zeros((count, 1), np.float32)
    places: list[list[int]] = [[0, 0] for _ in range(count)]
    for row, word in enumerate(answer["words"]):
        if word is not None:
            first, past = answer["offsets"][row]
            places[word] = [places[word][0] if pieces[word, 0] else first, past]
            sums[word] += vectors[row]
            pieces[word] += 1
    return answer | {"word_offsets": places, "vectors": sums / pieces}
