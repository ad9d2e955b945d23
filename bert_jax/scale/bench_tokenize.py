"""`bench tokenize`: text → ids on one core, with an empty memo and with a full one."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bert_jax.console import log
from bert_jax.data.sources import open_sources, read_unit
from bert_jax.data.synthetic import write_synthetic_text
from bert_jax.errors import BertJaxError
from bert_jax.scale.bench_record import process_peak_bytes, record, spread
from bert_jax.text.tokenizer import Tokenizer, load_tokenizer
from bert_jax.text.vocabulary import make_vocabulary

SYNTHETIC_MEGABYTES = 20.0
VOCABULARY_SIZE = 30522
_BATCH_CHARACTERS = 1 << 18


def sources_or_synthetic(source: Iterable[str], cache: Path, megabytes: float = SYNTHETIC_MEGABYTES) -> tuple[str, ...]:
    """The sources asked for, or a text drawn from a seed, equal on every machine, under `cache`."""
    given = tuple(source)
    if given:
        return given
    log(f"drawing {megabytes:g} MB of synthetic text; --source PATH names a real one instead")
    write_synthetic_text(cache / "synthetic.txt", megabytes=megabytes)
    return (str(cache / "synthetic.txt"),)


def documents_of(sources: Iterable[str], megabytes: float | None = None) -> Iterator[list[str]]:
    """Documents (lists of sentences) in reading order, up to `megabytes` (10^6 bytes of UTF-8) of them."""
    left = None if megabytes is None else megabytes * 1e6
    source = open_sources(tuple(sources))  # kept: what it spooled is deleted with it
    for unit in source.units():
        for document in read_unit(unit):
            yield document
            if left is not None:
                left -= text_bytes([document])
                if left <= 0:
                    return


def text_bytes(documents: Iterable[list[str]]) -> int:
    """Size of the text in UTF-8, a line end behind each sentence."""
    return sum(len(sentence.encode()) + 1 for document in documents for sentence in document)


def tokenizer_directory(tokenizer: str | None, sources: Iterable[str], cache: Path) -> Path:
    """The tokenizer asked for, or a WordPiece vocabulary of 30,522 made from the sources under `cache`."""
    if tokenizer is not None:
        return Path(tokenizer)
    log(
        f"making a vocabulary of {VOCABULARY_SIZE:,} entries from up to {SYNTHETIC_MEGABYTES:g} MB first; "
        "--tokenizer DIR names one instead"
    )
    texts = (" ".join(document) for document in documents_of(sources, SYNTHETIC_MEGABYTES))
    make_vocabulary(texts, size=VOCABULARY_SIZE, kind="wordpiece", cased=False, out=cache / "tokenizer")
    return cache / "tokenizer"


def bench_tokenize(
    *,
    source: Iterable[str] = (),
    tokenizer: str | None = None,
    megabytes: float = 20.0,
    repeats: int = 5,
) -> dict[str, Any]:
    """MB/s (10^6 bytes of UTF-8) of tokenizing documents on one core.

    Cold: a tokenizer just loaded, nothing memoised. Warm: the same text once more. Medians of `repeats` fresh
    tokenizers. Without `source` the text is drawn from a seed; without `tokenizer` a vocabulary is made from it first.
    """
    with tempfile.TemporaryDirectory() as cache:
        drawn = megabytes if tokenizer is not None else max(megabytes, SYNTHETIC_MEGABYTES)  # for the vocabulary
        sources = sources_or_synthetic(source, Path(cache), drawn)
        directory = tokenizer_directory(tokenizer, sources, Path(cache))
        documents = list(documents_of(sources, megabytes))
        size = text_bytes(documents) / 1e6
        if not documents:
            raise BertJaxError(f"{', '.join(sources)} holds no text to tokenize")
        batches = list(line_batches(documents))
        cold, warm, tokens = [], [], 0
        for _ in range(repeats):
            fresh = load_tokenizer(directory)
            seconds, tokens = _pass(fresh, batches)
            cold.append(size / seconds)
            seconds, _ = _pass(fresh, batches)
            warm.append(size / seconds)
    cold_figures, warm_figures = spread(cold), spread(warm)
    return record(
        "tokenize",
        device_kind="cpu",
        peak_bytes=process_peak_bytes(),
        peak_of="process",
        megabytes=size,
        documents=len(documents),
        tokens=tokens,
        megabytes_per_second_cold=cold_figures["median"],
        megabytes_per_second_warm=warm_figures["median"],
        tokens_per_second_cold=tokens / size * cold_figures["median"],
        tokens_per_second_warm=tokens / size * warm_figures["median"],
        cold=cold_figures,
        warm=warm_figures,
        tokenizer=str(tokenizer or "made from the source"),
        vocab_size=fresh.vocab_size,
        source=list(source) or ["synthetic"],
    )


def _pass(tokenizer: Tokenizer, batches: list[list[str]]) -> tuple[float, int]:
    """Seconds and tokens of one pass, many lines at a time, as `prepare` does it."""
    tokens = 0
    start = time.perf_counter()
    for lines in batches:
        ids, _ = tokenizer.bulk_ids(lines)
        tokens += len(ids)
    return time.perf_counter() - start, tokens


def line_batches(documents: Iterable[list[str]]) -> Iterator[list[str]]:
    """The sentences of documents, some 2^18 characters at a time."""
    lines: list[str] = []
    characters = 0
    for document in documents:
        lines += document
        characters += sum(map(len, document))
        if characters >= _BATCH_CHARACTERS:
            yield lines
            lines, characters = [], 0
    if lines:
        yield lines
