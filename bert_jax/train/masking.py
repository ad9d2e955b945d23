"""Masked language modelling, drawn on the accelerator inside the step: fresh every epoch, nothing stored.

Every random bit is a threefry counter of (seed, epoch, example id, position inside the example). What a token becomes
is so the same in any batch, on any mesh, with or without accumulation, packed or not.

Letters: B batch, T position, M predictions per row, P examples per packed row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bert_jax.batch import prediction_counts
from bert_jax.compat import threefry_2x32
from bert_jax.text.interface import Tokenizer

_PURPOSE = 0x4D41534B  # "MASK": keeps these bits apart from all others drawn from one seed
_REPLACEMENT = 0x80000000  # the half of the counters that says what a chosen token becomes

Batch = Mapping[str, jax.Array]


class Vocabulary(NamedTuple):
    """What masking knows of a tokenizer: its size, the id of [MASK], and the ids never masked ([PAD] among them)."""

    size: int
    mask_id: int
    special_ids: tuple[int, ...]


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """What masking knows of a tokenizer."""
    return Vocabulary(tokenizer.vocab_size, tokenizer.mask_id, tokenizer.special_ids)


def mask_tokens(
    examples: Batch,
    seed: int,
    epoch: jax.typing.ArrayLike | None = None,
    *,
    vocabulary: Vocabulary,
    predictions: int,
    masked_share: float = 0.15,
    whole_words: bool = False,
    row_predictions: int | None = None,
) -> dict[str, jax.Array]:
    """Turn a batch of the *Examples* schema into one of the *Masked* schema; other keys pass through.

    `epoch` is a scalar, (B,) or (B, P); by default `examples["epochs"]`, or 0. `predictions` is the most an example
    gets, `row_predictions` the places M of a row (default: as many as its examples may take together). Of an
    example's tokens that are neither special nor padding, n (see `prediction_counts`) are chosen, or all if they are
    fewer; each becomes [MASK] (80 %), stays (10 %), or becomes any id of the vocabulary (10 %). With `whole_words`
    words are taken in random order and one that would pass n is left out (fewer than n may be chosen, even none).
    `masked_lm_positions` (B, M) ascend; unused places are 0 with weight 0.
    """
    ids = jnp.asarray(examples["input_ids"], jnp.int32)
    length = ids.shape[1]
    tokens = _locate(examples, seed, epoch)
    row_predictions = min(row_predictions or predictions * tokens.examples, length)
    real = jnp.asarray(examples["input_mask"]).astype(bool)
    candidate = real
    for special in vocabulary.special_ids:
        candidate &= ids != special

    lengths = jnp.sum(jax.nn.one_hot(tokens.example, tokens.examples, dtype=jnp.int32) * real[..., None], axis=1)
    budget = jnp.asarray(prediction_counts(length, predictions, masked_share))[lengths]  # (B, P)
    scores = threefry_2x32(*tokens.key, tokens.example_id, tokens.position)[0]
    if whole_words:
        chosen = _whole_words(scores, candidate, word_starts(examples, candidate), tokens, budget)
    else:
        chosen = _single_tokens(scores, candidate, tokens, budget)

    positions = jnp.sort(chosen, axis=1)[:, :row_predictions]
    used = positions < length
    positions = jnp.where(used, positions, 0)

    def at_positions(values: jax.Array) -> jax.Array:
        return jnp.take_along_axis(values, positions, axis=1)

    originals = at_positions(ids)
    counters = (at_positions(tokens.example_id), at_positions(tokens.position) | jnp.uint32(_REPLACEMENT))
    first, second = tokens.key
    action, draw = threefry_2x32(at_positions(first), at_positions(second), *counters)
    replacements = _replace(originals, action, draw, vocabulary)
    # Unused places all point at position 0 and would overwrite it: they are sent out of bounds instead.
    targets = jnp.where(used, positions, length)
    masked = jax.vmap(lambda row, at, new: row.at[at].set(new, mode="drop"))(ids, targets, replacements)

    passed = {key: value for key, value in examples.items() if key not in ("word_starts", "epochs")}
    return passed | {
        "input_ids": masked,
        "masked_lm_positions": positions,
        "masked_lm_ids": jnp.where(used, originals, 0),
        "masked_lm_weights": used.astype(jnp.float32),
    }


class _Tokens(NamedTuple):
    """Where each token stands: its place's own key, example id and position, all (B, T), broadcastable."""

    key: tuple[jax.Array, jax.Array]
    example_id: jax.Array
    position: jax.Array
    example: jax.Array  # index of the example inside the row, 0..examples-1
    examples: int


def _locate(examples: Batch, seed: int, epoch: jax.typing.ArrayLike | None) -> _Tokens:
    rows, length = examples["input_ids"].shape
    example_ids = jnp.asarray(examples["example_ids"]).astype(jnp.uint32).reshape(rows, -1)  # (B, P), P = 1 unpacked
    places = example_ids.shape[1]
    if epoch is None:
        epoch = examples.get("epochs", 0)
    epochs = jnp.asarray(epoch).astype(jnp.uint32)
    epochs = jnp.broadcast_to(epochs.reshape(rows, -1) if epochs.ndim else epochs, (rows, places))
    low, high = jnp.uint32(seed & 0xFFFFFFFF), jnp.uint32(seed >> 32 & 0xFFFFFFFF)
    key = threefry_2x32(low, jnp.broadcast_to(high, epochs.shape), epochs, jnp.full_like(epochs, _PURPOSE))
    if "sequence_ids" in examples:
        example = jnp.maximum(jnp.asarray(examples["sequence_ids"]).astype(jnp.int32) - 1, 0)
        position = jnp.asarray(examples["position_ids"]).astype(jnp.uint32)
    else:
        example = jnp.zeros((rows, length), jnp.int32)
        position = jnp.broadcast_to(jnp.arange(length, dtype=jnp.uint32), (rows, length))

    def of_token(values: jax.Array) -> jax.Array:
        return jnp.take_along_axis(values, example, axis=1)

    return _Tokens((of_token(key[0]), of_token(key[1])), of_token(example_ids), position, example, places)


def word_starts(examples: Batch, candidate: jax.Array) -> jax.Array:
    """(B, T) bool: where a word that may be masked begins. No word spans a special token, or A and B."""
    starts = jnp.asarray(examples["word_starts"]).astype(bool)
    before = jnp.pad(candidate, ((0, 0), (1, 0)))[:, :-1]
    for name in ("segment_ids", "sequence_ids"):
        if name in examples:
            values = jnp.asarray(examples[name]).astype(jnp.int32)
            before &= jnp.pad(values, ((0, 0), (1, 0)), constant_values=-1)[:, :-1] == values
    return candidate & (starts | ~before)


def _order(scores: jax.Array, candidate: jax.Array, tokens: _Tokens) -> tuple[jax.Array, jax.Array]:
    """Places of a row sorted by (example, score), candidates first, and the example of each, `examples` after them."""
    example = jnp.where(candidate, tokens.example, tokens.examples)
    place = jnp.broadcast_to(jnp.arange(scores.shape[1], dtype=jnp.int32), scores.shape)
    if tokens.examples > 1:
        example, _, place = jax.lax.sort((example, scores, place), num_keys=2, is_stable=True)
        return place, example
    # One key is cheaper: the largest score is left to the tokens that are no candidates.
    scores = jnp.where(candidate, jnp.minimum(scores, jnp.uint32(0xFFFFFFFE)), jnp.uint32(0xFFFFFFFF))
    scores, place = jax.lax.sort((scores, place), num_keys=1, is_stable=True)
    return place, (scores == jnp.uint32(0xFFFFFFFF)).astype(jnp.int32)


def _single_tokens(scores: jax.Array, candidate: jax.Array, tokens: _Tokens, budget: jax.Array) -> jax.Array:
    """(B, T): in some order the places of each example's candidates with its `budget` lowest scores, T elsewhere."""
    place, example = _order(scores, candidate, tokens)
    candidates = jax.nn.one_hot(example, tokens.examples, dtype=jnp.int32).sum(1)  # (B, P)
    first = jnp.cumsum(candidates, axis=1) - candidates  # where each example begins in the sorted row
    inside = jnp.minimum(example, tokens.examples - 1)
    rank = jnp.arange(scores.shape[1]) - jnp.take_along_axis(first, inside, axis=1)
    taken = (example < tokens.examples) & (rank < jnp.take_along_axis(budget, inside, axis=1))
    return jnp.where(taken, place, scores.shape[1])


def _whole_words(
    scores: jax.Array, candidate: jax.Array, starts: jax.Array, tokens: _Tokens, budget: jax.Array
) -> jax.Array:
    """Like `_single_tokens`, but by words in the order of their first token's score, each taken while it fits."""
    length = scores.shape[1]
    word = jnp.cumsum(starts, axis=1) - 1  # index of each token's word; no candidate stands before the first start
    sizes = jax.vmap(lambda at, one: jnp.zeros(length, jnp.int32).at[at].add(one))(word, candidate.astype(jnp.int32))
    size = jnp.take_along_axis(sizes, jnp.maximum(word, 0), axis=1)
    place, example = _order(scores, starts, tokens)
    words = (jnp.take_along_axis(size, place, axis=1).T, example.T)  # (T, B): one word of every row at a time

    def take(left: jax.Array, word: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        size, example = word
        own = jax.nn.one_hot(example, tokens.examples, dtype=jnp.int32)  # (B, P); all 0 past the last word
        fits = (example < tokens.examples) & (size <= jnp.sum(left * own, axis=1))
        return left - own * (size * fits)[:, None], fits

    _, taken = jax.lax.scan(take, budget, words)
    _, word_taken = jax.lax.sort((place, taken.T.astype(jnp.int32)), num_keys=1)  # back in the order of the row
    chosen = candidate & (jnp.take_along_axis(word_taken, _latest(starts), axis=1) > 0)
    return jnp.where(chosen, jnp.arange(length, dtype=jnp.int32), length)


def _latest(starts: jax.Array) -> jax.Array:
    """(B, T): the place of the last start at or before each place (0 before any)."""
    place = jnp.arange(starts.shape[1], dtype=jnp.int32)
    return jax.lax.cummax(jnp.where(starts, place, 0), axis=1)


def _replace(originals: jax.Array, action: jax.Array, draw: jax.Array, vocabulary: Vocabulary) -> jax.Array:
    """80 % [MASK], 10 % the token itself, 10 % any id; `action` and `draw` are 32 random bits each."""
    drawn = (draw % jnp.uint32(vocabulary.size)).astype(jnp.int32)  # off by at most size / 2**32 of an id's share
    kept_or_drawn = jnp.where(action < jnp.uint32(round(0.9 * 2**32)), originals, drawn)
    return jnp.where(action < jnp.uint32(round(0.8 * 2**32)), jnp.int32(vocabulary.mask_id), kept_or_drawn)
