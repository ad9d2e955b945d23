"""Fill-mask: the most probable pieces at every `[MASK]` of a text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.errors import BertJaxError, UsageError
from bert_jax.infer.batching import Encoded
from bert_jax.infer.windows import Fit, begin_of_kept
from bert_jax.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from bert_jax.infer.loaded import Bert

MASKS = (1, 4, 16, 64)


def fill_masks(
    bert: Bert, texts: Iterable[str], top_k: int = 5, candidates: Sequence[str] | None = None, truncate: bool = False
) -> Iterator[dict[str, Any]]:
    """One answer per text, in order: `text`, `masks` and `filled`.

    `masks` has one entry per `[MASK]`, in the order of the text: `position` (token index, [CLS] is 0) and
    `candidates`, the `top_k` pieces by falling probability, each `token` and `probability`. `filled` is the text with
    the best piece at each mask. Probabilities are over the whole vocabulary, each mask by itself; with `candidates`
    (words that are one piece each) only those are ranked and their probabilities do not sum to 1. A `[SEP]` typed in
    the text begins the second segment.

    `truncate`: a text longer than the model's positions is cut at its end or, where a mask stands behind that, at both
    ends, so that the masks stand in the middle of what is left; no mask is ever lost. A text whose first segment was
    cut off whole is one segment. `position` counts in the whole text all the same.

    Errors: `BertJaxError` for a model without masked_lm head, a text without `[MASK]` (an empty one has none), one
    that is too long where `truncate` is not given, one whose masks lie too far apart to be kept, a candidate that is
    not one piece, `top_k` below 1.
    """
    bert.require_head("masked_lm", "fill masks")
    if top_k < 1:
        raise UsageError(f"top_k is {top_k}: expected at least 1")
    allowed = None if candidates is None else candidate_ids(bert.tokenizer, candidates)
    top_k = min(top_k, bert.tokenizer.vocab_size if allowed is None else len(allowed))

    predict = bert.compiled(("fill_mask", top_k), lambda: _make_predict(bert, top_k))

    def compute(batch: dict[str, np.ndarray], items: list[Encoded]) -> list[dict[str, Any]]:
        values, ids = jax.device_get(predict(bert.params, batch, allowed))
        return [_answer(bert.tokenizer, item, values[row], ids[row]) for row, item in enumerate(items)]

    positions = bert.config.max_position_embeddings
    fit = Fit(positions, positions, truncate, slides=False)
    encoded = (_encode(bert, text, number, fit) for number, text in enumerate(texts, start=1))
    return fit.reported(bert.answers(encoded, compute, slot_sizes=MASKS))


def _make_predict(bert: Bert, top_k: int) -> Callable[..., tuple[jax.Array, jax.Array]]:
    def predict(params: Any, batch: dict[str, jax.Array], allowed: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        logits = bert.apply(batch, params)["masked_lm_logits"]
        return top_pieces(logits, allowed, top_k, bert.tokenizer.vocab_size)

    return predict


def candidate_ids(tokenizer: Tokenizer, candidates: Sequence[str]) -> np.ndarray:
    """Ids (C,) int32 of words that are one piece each, in their order, repeated ones once.

    Errors: `BertJaxError` naming a word that is several pieces, or unknown.
    """
    if isinstance(candidates, str):
        raise BertJaxError(f"candidates is the text {candidates!r}: expected a list of words")
    ids: dict[int, None] = {}
    for word in candidates:
        own = tokenizer.ids(word)
        exact = tokenizer.id_of(word)
        if len(own) == 1 and own[0] != tokenizer.unk_id:
            ids[own[0]] = None
        elif exact is not None:  # a piece spelt as in the vocabulary, such as ##ing
            ids[exact] = None
        else:
            pieces = " ".join(tokenizer.pieces(own)) or "nothing"
            raise BertJaxError(f"candidate {word!r} is {pieces} to this tokenizer: expected a word that is one piece")
    if not ids:
        raise UsageError("no candidates: give at least one word, or leave the option out")
    return np.array(list(ids), np.int32)


def _encode(bert: Bert, text: str, number: int, fit: Fit) -> Encoded:
    """`[CLS] text [SEP]`; what follows a `[SEP]` typed in the text is the second segment. Its source: the text, and
    how many of its tokens were cut off at the beginning."""
    if not isinstance(text, str):
        raise BertJaxError(f"input {number} is {text!r}: expected one text, with [SEP] where a second one begins")
    tokenizer = bert.tokenizer
    typed = tokenizer.ids_with_specials(text)
    masks = [place for place, piece in enumerate(typed) if piece == tokenizer.mask_id]
    if not masks:
        mask = _mask_piece(tokenizer)
        raise BertJaxError(f"input {number} has no {mask}: write {mask} where a word is to be filled in: {text[:60]!r}")
    begin = 0
    if len(typed) + 2 > fit.limit:
        fit.count_cut(len(typed) + 2, pair=False, name=f"input {number}")
        begin = begin_of_kept(masks[0], masks[-1], len(typed), fit.limit - 2, f"input {number}", "mask")
        typed = typed[begin : begin + fit.limit - 2]
    fit.inputs += 1
    ids = [tokenizer.cls_id, *typed, tokenizer.sep_id]
    first = ids.index(tokenizer.sep_id) + 1
    slots = tuple(place - begin + 1 for place in masks)
    return Encoded(ids, [0] * first + [1] * (len(ids) - first), slots, (text, begin))


def _mask_piece(tokenizer: Tokenizer) -> str:
    return tokenizer.pieces([tokenizer.mask_id])[0]


def top_pieces(
    logits: jax.Array, allowed: jax.Array | None, top_k: int, entries: int | None = None
) -> tuple[jax.Array, jax.Array]:
    """Probabilities and ids, (B, M, top_k) each, best first, of logits (B, M, V); only `allowed` ids where given.

    Ids from `entries` on have no piece (published tables are often padded): they take their probability, unnamed.
    """
    probabilities = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    if allowed is None:
        return jax.lax.top_k(probabilities[..., :entries], top_k)
    values, places = jax.lax.top_k(probabilities[..., allowed], top_k)
    return values, allowed[places]


def _answer(tokenizer: Tokenizer, item: Encoded, values: np.ndarray, ids: np.ndarray) -> dict[str, Any]:
    """The answer to one text from its rows of `top_pieces`."""
    text, begin = item.source
    masks: list[dict[str, Any]] = []
    for slot, position in enumerate(item.slots):
        pieces = tokenizer.pieces(ids[slot].tolist())
        ranked = [
            {"token": piece, "probability": float(value)} for piece, value in zip(pieces, values[slot], strict=True)
        ]
        masks.append({"position": position + begin, "candidates": ranked})
    best = [mask["candidates"][0]["token"] for mask in masks]
    return {"text": text, "masks": masks, "filled": fill(text, best, _mask_piece(tokenizer))}


def fill(text: str, pieces: Sequence[str], mask: str) -> str:
    """`text` with its masks replaced, in order: a `##` piece joins the word before it, a `▁` piece begins one."""
    parts = text.split(mask)
    filled = parts[0]
    for piece, part in zip(pieces, parts[1:], strict=True):
        if piece.startswith("##"):
            filled = filled.rstrip() + piece[2:]
        else:
            filled += piece.removeprefix("▁")
        filled += part
    return filled
