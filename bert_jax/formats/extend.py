"""`vocab --extend`: a MODEL whose vocabulary also holds the words that a new text uses most."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bert_jax.console import log
from bert_jax.data.counting import count_source
from bert_jax.data.sources import Source
from bert_jax.errors import BertJaxError, UsageError
from bert_jax.files import make_directory, require_absent, require_writable
from bert_jax.formats.convert import require_class, write_hugging_face
from bert_jax.formats.model import LoadedModel, load_model
from bert_jax.text.tokenizer import WordPieceTokenizer
from bert_jax.text.vocabulary import SAMPLE_BYTES, held_out_measures

_UNUSED = re.compile(r"\[unused\d+\]")
_SHOWN = 20


class NewWord(NamedTuple):
    """A word to add: the pieces it was until now, the pieces it saves in the text, its id."""

    word: str
    pieces: tuple[int, ...]
    saves: int
    id: int


def extend_model(
    model: str,
    source: Source,
    out: str | os.PathLike[str],
    add: int,
    sample_bytes: float = SAMPLE_BYTES,
    workers: int | None = None,
) -> dict[str, Any]:
    """Write MODEL to the Hugging Face directory `out`, with the `add` words more that save most pieces in `source`.

    They take the places of `[unusedN]` entries, then new rows at the end. A new word's embedding, and its bias in the
    masked_lm head, are the means of its pieces'; everything else stays. Returns what was added and how many pieces a
    held-out word takes before and after. Errors: `BertJaxError` for a model whose tokenizer is not WordPiece or whose
    head Hugging Face lacks, or a text that has fewer such words.
    """
    if add < 1:
        raise UsageError(f"--add {add}: expected at least 1")
    require_absent(out)
    require_writable(out)
    loaded = load_model(model)
    tokenizer = loaded.tokenizer
    if not isinstance(tokenizer, WordPieceTokenizer):
        raise BertJaxError(f"{model} has a tokenizer of kind {tokenizer.kind}: only WordPiece can be extended")
    require_class(loaded, "extend the model that it was fine-tuned from, and fine-tune that")
    counts = count_source(source, "wordpiece", tokenizer.cased, sample_bytes, workers, tokenizer.rules)
    words = new_words(tokenizer, counts.words, add)
    lines = _extended(tokenizer.lines, words)
    params = _with_rows(loaded, words, len(lines))
    config = dataclasses.replace(loaded.config, vocab_size=len(params["embeddings"]["word_embeddings"]))
    extended = dataclasses.replace(loaded, config=config, params=params, tokenizer=tokenizer.with_lines(lines))
    in_unused = sum(word.id < len(tokenizer.lines) for word in words)
    log(f"{len(words)} words added, {in_unused} in the places of [unusedN]; each starts as the mean of its pieces")

    def build(folder: Path) -> None:
        write_hugging_face(extended, folder)

    make_directory(out, build)
    before, after = (held_out_measures(entries, counts.held_out) for entries in (tokenizer.lines, lines))
    return {
        "model": model,
        "out": os.fspath(out),
        "added": len(words),
        "in_unused": in_unused,
        "vocab_size": len(lines),
        "initialised": "the mean of the pieces",
        "words": [{"word": word.word, "saves": word.saves} for word in words[:_SHOWN]],
        "pieces_per_word": {"before": before["pieces_per_word"], "after": after["pieces_per_word"]},
    }


def new_words(tokenizer: WordPieceTokenizer, counts: Mapping[str, int], add: int) -> list[NewWord]:
    """The `add` words that save most pieces (count × (pieces − 1)), the alphabet deciding between equals."""
    found = []
    for word, count in counts.items():
        pieces = tuple(tokenizer.ids(word))
        if len(pieces) > 1 and tokenizer.id_of(word) is None:
            found.append((-count * (len(pieces) - 1), word, pieces))
    if len(found) < add:
        raise BertJaxError(f"the text has {len(found)} words of several pieces: --add {add} is more; ask for fewer")
    places = [index for index, line in enumerate(tokenizer.lines) if _UNUSED.fullmatch(line.strip())]
    places += range(len(tokenizer.lines), len(tokenizer.lines) + add)
    return [
        NewWord(word, pieces, -saves, place)
        for (saves, word, pieces), place in zip(sorted(found)[:add], places, strict=False)
    ]


def _extended(lines: Sequence[str], words: Sequence[NewWord]) -> list[str]:
    extended = [*lines, *[""] * sum(word.id >= len(lines) for word in words)]
    for word in words:
        extended[word.id] = word.word
    return extended


def _with_rows(loaded: LoadedModel, words: Sequence[NewWord], entries: int) -> dict[str, Any]:
    """The parameters with the rows of the new words; a table that had rows to spare keeps its size."""
    embeddings = dict(loaded.params["embeddings"])
    params = {**loaded.params, "embeddings": embeddings}
    embeddings["word_embeddings"] = _means(embeddings["word_embeddings"], words, entries)
    if "masked_lm" in params:
        params["masked_lm"] = {**params["masked_lm"], "bias": _means(params["masked_lm"]["bias"], words, entries)}
    return params


def _means(table: Any, words: Sequence[NewWord], entries: int) -> np.ndarray:
    old = np.asarray(table)
    new = np.zeros((max(len(old), entries), *old.shape[1:]), np.float32)
    new[: len(old)] = old
    for word in words:
        new[word.id] = old[list(word.pieces)].mean(axis=0)
    return new
