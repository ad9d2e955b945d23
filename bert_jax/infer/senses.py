"""Senses: one word in many sentences, and in which layer its meanings part.

Dims: U uses of the word, L layers, B batch, T tokens, D model width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.errors import BertJaxError
from bert_jax.infer.batching import Encoded, stream
from bert_jax.infer.separation import DIGITS, cosines, plane, silhouette, two_groups, unit, within_and_between
from bert_jax.infer.windows import Fit, begin_of_kept
from bert_jax.text.normalise import is_chinese
from bert_jax.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from bert_jax.infer.loaded import Bert


class Labelled(NamedTuple):
    """A sentence and the sense of the word in it, as a person labelled it (None: not labelled)."""

    text: str
    label: str | None


class Use(NamedTuple):
    """One occurrence of the word: which sentence, its characters there, its tokens (of the text, without [CLS])."""

    sentence: int
    start: int
    end: int
    first: int
    last: int


def senses(
    bert: Bert, sentences: Iterable[str | Labelled], word: str, truncate: bool = False
) -> Iterator[dict[str, Any]]:
    """One answer for all `sentences` together: how alike the uses of `word` are in every layer, and the layer that
    tells its senses apart best. See `Bert.senses` for what the answer holds and for the errors.
    """
    texts, labels = _split(sentences)
    ids = _ids_of(bert.tokenizer, word)
    items: list[Encoded] = []
    uses: list[Use] = []
    positions = bert.config.max_position_embeddings
    fit = Fit(positions, positions, truncate, slides=False)
    for number, text in enumerate(texts):
        encoded, found = _encode(bert, text, number, word, ids, fit)
        begin = encoded.source
        items += [encoded._replace(slots=tuple(range(1 + use.first - begin, 1 + use.last - begin))) for use in found]
        uses += found
    fit.report()
    if len(uses) < 2:
        raise BertJaxError(f"{word!r} is used in {len(uses)} place(s): expected at least two to compare")
    vectors = _layer_vectors(bert, items)
    static = _static_vectors(bert, items)
    names = list(dict.fromkeys(labels)) if labels else []
    given = np.array([names.index(labels[use.sentence]) for use in uses]) if labels else None
    layers, groups = _layers(vectors, given)
    best, chosen_by = _best(layers)
    points, shares, beside = plane(unit(vectors[best]), unit(static).mean(axis=0, keepdims=True))
    yield {
        "word": word,
        "pieces": bert.tokenizer.pieces(ids),
        "sentences": texts,
        "senses": names or None,
        "uses": [
            {
                "sentence": use.sentence,
                "start": use.start,
                "end": use.end,
                "sense": labels[use.sentence] if labels else None,
                "group": int(group),
                "point": _rounded(point),
            }
            for use, group, point in zip(uses, groups[best], points, strict=True)
        ],
        "best_layer": best,
        "chosen_by": chosen_by,
        "layers": layers,
        "static": {"similarity": _rounded(cosines(static)), "point": _rounded(beside[0])},
        "axes": _rounded(shares),
    }


def _split(sentences: Iterable[str | Labelled]) -> tuple[list[str], list[str]]:
    """Texts and their labels, the latter empty without any. Errors: `BertJaxError` where only some are labelled, where
    all have one sense, for a pair of texts.
    """
    texts: list[str] = []
    labels: list[str | None] = []
    for number, sentence in enumerate(sentences, start=1):
        if not isinstance(sentence, str | Labelled):
            raise BertJaxError(f"input {number} is a {type(sentence).__name__}: expected one sentence")
        text, label = (sentence, None) if isinstance(sentence, str) else sentence
        texts.append(text)
        labels.append(label)
    known = [label for label in labels if label is not None]
    if not known:
        return texts, []
    if len(known) < len(labels):
        raise BertJaxError(
            f"sentence {labels.index(None) + 1} has no sense and others do: give every sentence its sense, or none"
        )
    if len(set(known)) == 1:
        raise BertJaxError(f"all sentences have the sense {known[0]!r}: expected at least two senses, or none given")
    return texts, known


def _ids_of(tokenizer: Tokenizer, word: str) -> list[int]:
    """Ids of the word by itself. Errors: `BertJaxError` when it is empty or the vocabulary has no pieces for it."""
    ids = tokenizer.ids(word)
    if not ids:
        raise BertJaxError(f"the word {word!r} is empty to this tokenizer: give a word that is in the sentences")
    if tokenizer.unk_id in ids:
        raise BertJaxError(
            f"the word {word!r} is unknown to this vocabulary ({' '.join(tokenizer.pieces(ids))}), as is every such "
            "word: there is no vector of its own to compare"
        )
    return ids


def _encode(bert: Bert, text: str, number: int, word: str, ids: list[int], fit: Fit) -> tuple[Encoded, list[Use]]:
    """`[CLS] text [SEP]` and the uses of the word in it. Its source: how many tokens were cut off at the beginning.

    Errors: `BertJaxError` for a text that is too long and not to be cut, or without the word.
    """
    found, offsets = bert.tokenizer.encode_with_offsets(text)
    uses = [
        Use(number, *characters_of(text, offsets, first, last), first, last)
        for first, last in find_word(bert.tokenizer, text, found, offsets, ids)
    ]
    if not uses:
        raise BertJaxError(
            f"sentence {number + 1} does not hold the word {word!r}: {text[:60]!r}; only whole words count, another "
            "form of it is another word"
        )
    fit.inputs += 1
    begin, room, name = 0, fit.limit - 2, f"sentence {number + 1}"
    if len(found) > room:
        fit.count_cut(len(found) + 2, pair=False, name=name)
        begin = begin_of_kept(uses[0].first, uses[-1].last - 1, len(found), room, name, "use of the word")
    tokens = [bert.tokenizer.cls_id, *found[begin : begin + room].tolist(), bert.tokenizer.sep_id]
    return Encoded(tokens, [0] * len(tokens), source=begin), uses


def find_word(
    tokenizer: Tokenizer, text: str, found: np.ndarray, offsets: np.ndarray, ids: Sequence[int]
) -> list[tuple[int, int]]:
    """Tokens (first, past last) of every occurrence in `text` of the word whose ids are `ids`, in order.

    found (T,), offsets (T, 2): of `Tokenizer.encode_with_offsets`. What is compared is what the tokenizer makes of the
    characters by themselves, so capitals and accents count exactly where they count to the model, and only whole words
    are found: a piece on either side that continues the word makes it another one.
    """
    starts = tokenizer.word_starts(found)
    edges = [_is_edge(text, starts, offsets, place) for place in range(len(found) + 1)]
    occurrences: list[tuple[int, int]] = []
    place = 0
    while place < len(found):
        # A piece more than by itself: SentencePiece may cut off the mark of a word's beginning.
        for last in range(place + 1, min(place + len(ids) + 1, len(found)) + 1):
            surface = text[offsets[place, 0] : offsets[last - 1, 1]]
            if edges[place] and edges[last] and surface.strip() and tokenizer.ids(surface) == list(ids):
                occurrences.append((place, last))
                place = last - 1
                break
        place += 1
    return occurrences


def characters_of(text: str, offsets: np.ndarray, first: int, last: int) -> tuple[int, int]:
    """First and past-last character of tokens `first` to `last`, without the blank that a SentencePiece may hold."""
    start, end = int(offsets[first, 0]), int(offsets[last - 1, 1])
    return end - len(text[start:end].lstrip()), end


def _is_edge(text: str, starts: np.ndarray, offsets: np.ndarray, place: int) -> bool:
    """Whether words may meet before token `place`: one begins there, or two characters meet that make no word."""
    if place == 0 or place == len(starts) or starts[place]:
        return True
    before, after = text[: offsets[place - 1, 1]][-1:], text[offsets[place, 0] :][:1]
    return not all(char.isalnum() and not is_chinese(char) for char in (before, after))


def _layer_vectors(bert: Bert, items: list[Encoded]) -> np.ndarray:
    """Vectors (1 + L, U, D) float32, the embeddings' output first, each the mean over the item's slots."""
    mean = bert.compiled(("word_vectors",), lambda: _make_word_vectors(bert))

    def compute(batch: dict[str, np.ndarray], members: list[Encoded]) -> list[np.ndarray]:
        shares = np.zeros(batch["input_ids"].shape, np.float32)
        for row, item in enumerate(members):
            shares[row, list(item.slots)] = 1 / len(item.slots)
        vectors = np.asarray(mean(bert.params, batch, shares))
        return [vectors[:, row] for row in range(len(members))]

    limit = bert.config.max_position_embeddings
    vectors: list[np.ndarray] = list(stream(items, compute, limit=limit, pad_id=bert.tokenizer.pad_id))
    return np.stack(vectors, axis=1)


def _make_word_vectors(bert: Bert) -> Callable[..., jax.Array]:
    def word_vectors(params: Any, batch: dict[str, jax.Array], shares: jax.Array) -> jax.Array:
        states = bert.apply(batch, params, hidden_states=True)["hidden_states"]
        exact = jax.lax.Precision.HIGHEST
        return jnp.stack([jnp.einsum("BTD,BT->BD", x.astype(jnp.float32), shares, precision=exact) for x in states])

    return word_vectors


def _static_vectors(bert: Bert, items: list[Encoded]) -> np.ndarray:
    """Vectors (U, D): the mean over each use's pieces of their rows of the embedding table, whatever stands around."""
    table = np.asarray(bert.params["embeddings"]["word_embeddings"])
    return np.stack([table[[item.input_ids[slot] for slot in item.slots]].mean(axis=0) for item in items])


def _layers(vectors: np.ndarray, given: np.ndarray | None) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """Of each layer its entry in the answer and its groups (U,): the `given` ones, or the two that are found in it."""
    entries, all_groups = [], []
    for number, layer in enumerate(vectors):
        similarity = cosines(layer)
        groups = two_groups(layer) if given is None else given
        within, between = within_and_between(similarity, groups)
        gap = None if within is None or between is None else within - between
        scores = {"silhouette": silhouette(similarity, groups), "within": within, "between": between, "gap": gap}
        entries.append({"layer": number, **_rounded(scores), "similarity": _rounded(similarity)})
        all_groups.append(groups)
    return entries, all_groups


def _best(layers: list[dict[str, Any]]) -> tuple[int, str]:
    """The layer that separates best and by what: the silhouette; without one (two uses), by the least mean cosine.

    Never layer 0: its vectors of a word differ by position alone, so that whatever parts there is no sense.
    """
    scored = [layer for layer in layers[1:] if layer["silhouette"] is not None]
    if scored:
        return max(scored, key=lambda layer: layer["silhouette"])["layer"], "silhouette"
    means = [float(np.sum(layer["similarity"])) for layer in layers[1:]]
    return 1 + int(np.argmin(means)), "similarity"


def _rounded(value: Any) -> Any:
    """`value` for JSON, floats at the digits that mean something."""
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return value if value is None else np.round(value, DIGITS).tolist()
