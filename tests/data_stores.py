"""Small token stores for the tests of the data room."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bert_jax.data.store import Store, write_store
from bert_jax.text.tokenizer import SPECIAL_PIECES, WordPieceTokenizer


def made_up_tokenizer(entries: int = 5_000) -> WordPieceTokenizer:
    """Ids 0–4 are the special pieces; every third entry after them continues a word."""
    names = [f"##c{number}" if number % 3 == 2 else f"w{number}" for number in range(entries - 5)]
    return WordPieceTokenizer([*SPECIAL_PIECES.values(), *names], cased=False)


def lengths_store(path: Path, documents: Sequence[Sequence[int]], shards: int = 1, eval_fraction: float = 0.0) -> Store:
    """A store of documents given by the lengths of their sentences; its train tokens are 5, 6, 7, … while ids last."""
    tokenizer = made_up_tokenizer(60_000)
    ids = 5 + np.arange(sum(map(sum, documents))) % 59_000
    ends = iter(np.split(ids, np.cumsum([length for document in documents for length in document])[:-1]))
    return write_store(
        path,
        [[next(ends) for _ in document] for document in documents],
        tokenizer,
        shards=shards,
        eval_fraction=eval_fraction,
    )


def drawn_documents(count: int, seed: int = 0, sentences: int = 8, tokens: int = 12) -> list[list[int]]:
    """Lengths of the sentences of `count` documents, with some of one sentence and some long sentences."""
    rng = np.random.default_rng(seed)
    sizes = 1 + rng.geometric(1 / sentences, count) - 1
    return [(1 + rng.geometric(1 / tokens, size)).tolist() for size in sizes]
