"""A token store, or a text, drawn from a seed: the lengths and frequencies of a real one, equal on every machine.

For measuring, where no corpus is at hand. Sentences per document, tokens per sentence and token ids follow tables made
with sums and quotients only, so that no mathematical library's rounding enters; means are near English Wikipedia's.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bert_jax.data.manifest import make_manifest
from bert_jax.data.permutation import Bits
from bert_jax.data.shard import ShardWriter
from bert_jax.data.store import Store, load_store
from bert_jax.errors import BertJaxError
from bert_jax.files import atomic_writer, make_directory, write_json
from bert_jax.text.interface import SPECIAL_PIECES
from bert_jax.text.tokenizer import Tokenizer, WordPieceTokenizer

_SHARD_TOKENS = 1 << 22
_EVAL_EVERY = 50  # one document in so many is held out
_CONTINUATIONS = 0.3  # share of ## entries; rarer ones, so about a sixth of the tokens
_TABLE_BITS = 20
_MAX_SENTENCE, _MAX_DOCUMENT = 200, 1_000
_TEXT_WORDS = 200_000
_CONSONANTS, _VOWELS = "bdfghklmnprstvwz", "aeiou"


def make_synthetic_store(
    path: str | os.PathLike[str], seed: int = 0, tokens: int = 10_000_000, vocab_size: int = 30_522
) -> Store:
    """Write a store of at least `tokens` tokens to `path` and load it; its bytes depend on the other arguments alone.

    Ids follow Zipf's law over an uncased WordPiece vocabulary of made-up entries, `##` entries do not begin a word.
    Errors: `BertJaxError` when `path` is not empty, the vocabulary is too small or the disk refuses.
    """
    if vocab_size < 16:
        raise BertJaxError(f"a synthetic vocabulary of {vocab_size} entries is too small: expected at least 16")
    tokenizer, begins_word = _made_up_tokenizer(vocab_size)
    in_document = _Table([1 / (n + 4) ** 2 for n in range(1, _MAX_DOCUMENT + 1)])
    words = _Table([1 / (rank + 2.7) for rank in range(vocab_size - len(SPECIAL_PIECES))])
    tables = _Table(_falling(_MAX_SENTENCE)), in_document, words

    def build(root: Path) -> None:
        tokenizer.save(root / "tokenizer")
        records = []
        for number in range(max(1, -(-tokens // _SHARD_TOKENS))):
            directory = root / "shards" / f"{number:05d}"
            directory.mkdir(parents=True)
            wanted = min(_SHARD_TOKENS, tokens - number * _SHARD_TOKENS)
            records.append(
                {"name": directory.name, **_write_shard(directory, seed, number, wanted, begins_word, tables)}
            )
        settings = {"synthetic": {"seed": seed, "tokens": tokens, "vocab_size": vocab_size}}
        write_json(root / "manifest.json", make_manifest(tokenizer, root / "tokenizer", records, settings=settings))

    make_directory(path, build)
    return load_store(Path(path))


def write_synthetic_text(path: str | os.PathLike[str], seed: int = 0, megabytes: float = 20.0) -> None:
    """Write at least `megabytes` (10^6 bytes) of made-up text: a sentence per line, blank lines between documents.

    Words are spelt in syllables and follow Zipf's law; the bytes depend on the arguments alone.
    """
    spelt = [_spelt(rank) for rank in range(_TEXT_WORDS)]
    in_sentence, in_document = _Table(_falling(_MAX_SENTENCE)), _Table([1 / (n + 4) ** 2 for n in range(1, 201)])
    words = _Table([1 / (rank + 2.7) for rank in range(_TEXT_WORDS)])
    bits = Bits(seed, "synthetic text", 0)
    left = megabytes * 1e6
    with atomic_writer(path, "w") as file:
        while left > 0:
            lengths = 1 + in_sentence.draw(bits, 1 + int(in_document.draw(bits, 1)[0]))
            ranks = iter(words.draw(bits, int(lengths.sum())).tolist())
            lines = []
            for length in lengths.tolist():
                line = " ".join([spelt[rank] for rank in itertools.islice(ranks, length)])
                lines.append(f"{line[0].upper()}{line[1:]}.".replace(" ba ", ", ba "))
            text = "\n".join(lines) + "\n\n"
            file.write(text)
            left -= len(text)


def _spelt(rank: int) -> str:
    """A word for a rank, the commoner the shorter."""
    letters = []
    rank += 1
    while rank:
        rank, syllable = divmod(rank, len(_CONSONANTS) * len(_VOWELS))
        letters.append(_CONSONANTS[syllable % len(_CONSONANTS)] + _VOWELS[syllable // len(_CONSONANTS)])
    return "".join(letters)


def _made_up_tokenizer(vocab_size: int) -> tuple[Tokenizer, NDArray[np.bool_]]:
    """A tokenizer, and whether each id begins a word."""
    ordinary = vocab_size - len(SPECIAL_PIECES)
    # None among the commonest, then three in ten.
    is_continuation = [rank > ordinary // 50 and rank * _CONTINUATIONS % 1 < _CONTINUATIONS for rank in range(ordinary)]
    entries = [f"##c{rank}" if continued else f"w{rank}" for rank, continued in enumerate(is_continuation)]
    lines = [*SPECIAL_PIECES.values(), *entries]
    begins_word = np.array([*[True] * len(SPECIAL_PIECES), *(not continued for continued in is_continuation)])
    return WordPieceTokenizer(lines, cased=False), begins_word


def _write_shard(
    directory: Path, seed: int, number: int, tokens: int, begins_word: NDArray[np.bool_], tables: Sequence[_Table]
) -> Any:
    bits = Bits(seed, "synthetic", number)
    in_sentence, in_document, words = tables
    special = len(SPECIAL_PIECES)
    with ShardWriter(directory, len(begins_word)) as shard:
        document = written = 0
        while written < tokens:
            sizes = 1 + in_document.draw(bits, 64)
            lengths = 1 + in_sentence.draw(bits, int(sizes.sum()))
            ids = special + words.draw(bits, int(lengths.sum()))
            token_stops = np.cumsum(lengths)
            stops = np.cumsum(sizes)
            for first, stop in zip((stops - sizes).tolist(), stops.tolist(), strict=True):
                begin, end = int(token_stops[first] - lengths[first]), int(token_stops[stop - 1])
                split = "eval" if document % _EVAL_EVERY == _EVAL_EVERY - 1 else "train"
                starts = begins_word[ids[begin:end]]
                starts[token_stops[first:stop] - lengths[first:stop] - begin] = True  # a sentence begins a word
                shard.add(split, ids[begin:end], lengths[first:stop], starts)
                document, written = document + 1, written + end - begin
                if written >= tokens:
                    break
        return shard.finish()


def _falling(count: int) -> list[float]:
    """n · 0.92ⁿ for n = 1…count, by products: sentence lengths with a mean of 24 and a long tail."""
    weights, power = [], 1.0
    for n in range(1, count + 1):
        power *= 0.92
        weights.append(n * power)
    return weights


class _Table:
    """Draws indices with the given weights, to one part in 2²⁰."""

    def __init__(self, weights: list[float]):
        total = np.cumsum(np.asarray(weights, np.float64))
        quantiles = (np.arange(1 << _TABLE_BITS) + 0.5) / (1 << _TABLE_BITS)
        self._indices = np.searchsorted(total / total[-1], quantiles, side="right").astype(np.int32)

    def draw(self, bits: Bits, count: int) -> NDArray[np.int64]:
        return self._indices[bits.words(count) >> np.uint64(64 - _TABLE_BITS)].astype(np.int64)
