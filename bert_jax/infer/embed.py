"""Embed: one vector for a text or a pair, pooled from its tokens' vectors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.errors import BertJaxError
from bert_jax.formats.pooling import Mode, Pooling
from bert_jax.infer.batching import Encoded
from bert_jax.infer.windows import Fit, Piece, Text, as_answer, rows_of, sides
from bert_jax.model.heads import gather_positions

if TYPE_CHECKING:
    from bert_jax.infer.loaded import Bert


def embeddings(
    bert: Bert,
    texts: Iterable[Text],
    pooling: Mode | None = None,
    normalize: bool | None = None,
    truncate: bool = False,
    window: int | None = None,
    max_length: int | None = None,
    prompt: str | None = None,
    packing: int | None = None,
) -> Iterator[dict[str, Any]]:
    """One answer per text or pair, in order: `text`, or `a` and `b`, and `embedding`, float32 (D,).

    `pooling`: 'mean' of all real tokens, [CLS] and [SEP] among them, 'max' of the same, 'cls' the first token, 'pooler'
    the trained pooler's output. `normalize`: scaled to length 1. What is not given is as the model's own recipe says
    when it is a sentence-transformers directory (its `max_length` too), else mean and not normalised.

    `prompt`: what is put before each text, before A of a pair: the name of one of the model's prompts, or the text
    itself; '' none. Without it the model's default prompt, where it has one. It counts to the length; mean and max
    leave it out where the model's recipe says so (with [CLS] then, as sentence-transformers does).

    Special pieces typed in a text are plain characters; an empty text is `[CLS] [SEP]` and has a vector, unknown
    characters are [UNK]. An input longer than `max_length` tokens is an error, unless `truncate` cuts it or `window`,
    a stride in tokens, slides over it (rule in `windows.py`): mean and max are then over every token once, cls and
    pooler the mean of the windows' vectors.

    `packing`: the most inputs that share a row of the batch; the vectors are the same. Default: where it pays
    (docs/packing.md).

    Errors: `BertJaxError` for an input that is too long, or no text; a prompt that leaves a text no room; 'pooler' of a
    model without one.
    """
    recipe = recipe_of(bert, pooling, normalize, max_length)
    for source, vector in sentence_vectors(bert, texts, recipe, truncate, window, prompt, packing):
        yield as_answer(*source) | {"embedding": vector}


def recipe_of(
    bert: Bert, pooling: Mode | None = None, normalize: bool | None = None, max_length: int | None = None
) -> Pooling:
    """The recipe in use: what is given, else the model's own, else mean of as many tokens as it has positions."""
    own = bert.source.pooling or Pooling()
    positions = bert.config.max_position_embeddings
    recipe = dataclasses.replace(
        own,
        mode=pooling or own.mode,
        normalize=own.normalize if normalize is None else normalize,
        max_length=min(positions, own.max_length or positions) if max_length is None else max_length,
    )
    if recipe.mode not in get_args(Mode):
        raise BertJaxError(f"pooling is {recipe.mode!r}: expected one of {', '.join(get_args(Mode))}")
    if recipe.mode == "pooler" and not bert.source.pooler:
        raise BertJaxError(f"{bert.source.path} has no pooler: choose mean, cls or max")
    return recipe


def sentence_vectors(
    bert: Bert,
    texts: Iterable[Text],
    recipe: Pooling,
    truncate: bool = False,
    window: int | None = None,
    prompt: str | None = None,
    packing: int | None = None,
) -> Iterator[tuple[tuple[str, str | None], np.ndarray]]:
    """((a, b or None), float32 (D,)) per text or pair, in order; memory is bounded however many there are."""
    positions = bert.config.max_position_embeddings
    fit = Fit(recipe.max_length or positions, positions, truncate, window)
    predict = bert.compiled(("embed", recipe.mode), lambda: _make_predict(bert, recipe.mode))

    def compute(batch: dict[str, Any], items: list[Encoded]) -> list[tuple[Piece, np.ndarray]]:
        each = batch["cls_positions"].shape[1] if "cls_positions" in batch else 1
        kept = np.ones((len(batch["input_ids"]) * each, 2), np.int32)
        for place, item in enumerate(items):
            kept[place] = item.source.first, item.source.past
        placed = bert.place(kept.reshape(-1, each, 2))
        vectors = np.asarray(predict(bert.params, batch | {"kept": placed})).reshape(len(kept), -1)
        return [(item.source, vectors[place]) for place, item in enumerate(items)]

    windows: list[tuple[Piece, np.ndarray]] = []
    before = recipe.prompt(prompt)
    counted = recipe.include_prompt or not before or recipe.mode in ("cls", "pooler")
    left_out = 0 if counted else 1 + len(bert.tokenizer.ids(before))
    for piece, vector in bert.answers(_encode(bert, texts, fit, before, left_out), compute, packing=packing):
        windows.append((piece, vector))
        if piece.last:
            yield piece.source, _combine(windows, recipe)
            windows = []
    fit.report()


def _encode(bert: Bert, texts: Iterable[Text], fit: Fit, before: str, left_out: int) -> Iterator[Encoded]:
    """Rows of `texts`, each with `before` put before it; the first `left_out` tokens, [CLS] among them, not kept."""
    tokenizer = bert.tokenizer
    for number, text in enumerate(texts, start=1):
        a, b = sides(text, f"input {number}")
        first, second = tokenizer.ids(before + a), None if b is None else tokenizer.ids(b)
        used, other, found = fit.fit(len(first), None if second is None else len(second), f"input {number}")
        if left_out:
            found = [row._replace(first=min(max(row.first, left_out - row.begin), row.past)) for row in found]
            if all(row.first == row.past for row in found):
                raise BertJaxError(
                    f"input {number}: of {fit.limit} tokens the prompt takes all, which this model leaves out of the "
                    "mean: nothing of the text is left; give a shorter prompt, or a larger max_length"
                )
        yield from rows_of(tokenizer, first[:used], None if second is None else second[:other], found, (a, b))


def _make_predict(bert: Bert, mode: Mode) -> Callable[..., jax.Array]:
    def predict(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        return pool(bert.apply(batch, params), batch, mode)

    return predict


def pool(outputs: dict[str, jax.Array], batch: dict[str, jax.Array], mode: Mode) -> jax.Array:
    """Vectors float32 (B, P, D) of one window each, P of them in a row, 1 where it is not packed; for mean their sum.

    `batch["kept"]` (B, P, 2): first and past-last token of each, counted in its own window.
    """
    kept, x = batch["kept"], outputs["sequence_output"].astype(jnp.float32)
    firsts = batch.get("cls_positions", jnp.zeros(kept.shape[:2], jnp.int32))
    if mode == "pooler":
        return outputs["pooled_output"].astype(jnp.float32).reshape(*kept.shape[:2], -1)
    if mode == "cls":
        return gather_positions(x, firsts)
    places = jnp.arange(x.shape[1]) - firsts[..., None]  # (B, P, T)
    inside = (places >= kept[..., :1]) & (places < kept[..., 1:])
    if mode == "max":
        return jnp.max(jnp.where(inside[..., None], x[:, None], -jnp.inf), axis=2)
    # Sums and not a product with the mask: on an accelerator a product would be rounded to fewer digits.
    return jnp.sum(jnp.where(inside[..., None], x[:, None], 0), axis=2)


def _combine(windows: list[tuple[Piece, np.ndarray]], recipe: Pooling) -> np.ndarray:
    """The vector of one input from its windows' ones."""
    vectors = [vector for _, vector in windows]
    if recipe.mode == "max":
        vector = vectors[0] if len(vectors) == 1 else np.max(vectors, axis=0)
    else:
        count = sum(piece.past - piece.first for piece, _ in windows) if recipe.mode == "mean" else len(windows)
        vector = (vectors[0] if len(vectors) == 1 else np.sum(vectors, axis=0)) / np.float32(max(1, count))
    if recipe.normalize:
        vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return vector.astype(np.float32)
