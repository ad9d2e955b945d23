"""Count the words of a source on several processes, as a vocabulary is made from them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from bert_jax.arguments import require_at_least
from bert_jax.console import progress
from bert_jax.data.one_reader import one_reader
from bert_jax.data.pool import available_cores, map_unordered
from bert_jax.data.sources import Source, read_unit
from bert_jax.data.streams import Unit
from bert_jax.errors import UsageError
from bert_jax.files import require_absent, require_writable
from bert_jax.text.normalise import WordRules
from bert_jax.text.tokenizer_files import read_vocabulary
from bert_jax.text.vocabulary import SAMPLE_BYTES, make_vocabulary
from bert_jax.text.word_counts import VocabularyKind, WordCounts, count_words

_UNPACKED = 3  # a compressed file is taken to hold three times its size
_TASK_BYTES = 8 << 20  # small units are counted together: words they share are split once
_MANY = 16  # units that a sample is spread over at least; with fewer, documents are sampled instead


def unit_texts(unit: Unit) -> Iterator[str]:
    """The documents of a unit as they are, one string each, not split into sentences."""
    for document in read_unit(_unsplit(unit)):
        yield "\n".join(document)


def _unsplit(unit: Unit) -> Unit:
    return replace(unit, layout="sentences")


def count_source(
    source: Source,
    kind: VocabularyKind = "wordpiece",
    cased: bool = False,
    sample_bytes: float = SAMPLE_BYTES,
    workers: int | None = None,
    rules: WordRules | None = None,
) -> WordCounts:
    """`count_words` over a source; the result depends on neither the number of workers nor their speed.

    Of a source larger than about `sample_bytes`, evenly spread units are read; when it has few units, all are read and
    documents drawn by a hash of their text.
    """
    units = [_unsplit(unit) for unit in source.units()]
    total = sum(_text_bytes(unit) for unit in units)
    share = min(1.0, sample_bytes / max(total, 1))
    if share < 1.0 and share * len(units) >= _MANY:
        units = [unit for i, unit in enumerate(units) if int((i + 1) * share) > int(i * share)]
        share = 1.0
    workers = workers or available_cores()
    result = WordCounts(kind, cased)
    groups = _grouped(units)
    with progress("counting words", sum(unit.size for unit in units) / 1e6, "MB") as advance:
        read = 0
        # In waves, because parts are added in their order: only so many finished ones can be waiting.
        wave = 8 * workers
        for first in range(0, len(groups), wave):
            part = groups[first : first + wave]
            waiting: dict[int, WordCounts] = {}
            tasks = [(group, kind, cased, share, rules) for group in part]
            following = 0
            for index, counts in map_unordered(_start, (), _count, tasks, workers, one_reader()):
                read += sum(unit.size for unit in part[index])
                advance(read / 1e6)
                waiting[index] = counts
                while following in waiting:
                    result.add(waiting.pop(following))
                    following += 1
    return result


def _grouped(units: Sequence[Unit]) -> list[list[Unit]]:
    """Neighbouring units until they are worth a task; where they are cut does not depend on the workers."""
    groups: list[list[Unit]] = []
    size = _TASK_BYTES
    for unit in units:
        if size >= _TASK_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(unit)
        size += unit.size
    return groups


def _start() -> None:
    """Nothing has to be made ready."""


def _count(
    units: Sequence[Unit], kind: VocabularyKind, cased: bool, share: float, rules: WordRules | None
) -> WordCounts:
    return count_words((text for unit in units for text in unit_texts(unit)), kind, cased, share, rules=rules)


def _text_bytes(unit: Unit) -> int:
    return unit.size * _UNPACKED if unit.compression else unit.size


def vocabulary_from_source(
    source: Source,
    out: str | os.PathLike[str],
    size: int = 30522,
    kind: VocabularyKind = "wordpiece",
    cased: bool = False,
    sample_bytes: float = SAMPLE_BYTES,
    min_count: int | None = None,
    workers: int | None = None,
    compare: Sequence[str | os.PathLike[str]] = (),
) -> dict[str, Any]:
    """`make_vocabulary` from a source, its words counted on all cores.

    `compare`: files of other WordPiece vocabularies, measured on the same held-out words. Errors: as `make_vocabulary`;
    `UsageError` for an option that this kind of vocabulary does not have.
    """
    for name, given, of in (("--min-count", min_count is not None, "words"), ("--compare", compare, "wordpiece")):
        if given and kind != of:
            raise UsageError(f"{name} is for vocabularies of kind {of}, not {kind}: leave it out")
    require_at_least(1, size=size, min_count=min_count, workers=workers)
    require_absent(out)
    require_writable(out)
    others = {os.fspath(path): read_vocabulary(path) for path in compare}
    counts = count_source(source, kind, cased, sample_bytes, workers)
    return make_vocabulary(counts, size, kind, cased, out, min_count=min_count, compare=others)


def parse_bytes(text: str) -> int:
    """A size such as 2GB, 500MB, 64KB or 1000 in bytes (powers of ten). Errors: `UsageError`."""
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "B": 1}
    number, factor = text.strip().upper(), 1
    for unit, value in units.items():
        if number.endswith(unit):
            number, factor = number.removesuffix(unit), value
            break
    try:
        size = float(number) * factor
    except ValueError:
        size = 0.0
    if not 1 <= size < float("inf"):
        raise UsageError(f"{text!r} is no size: expected a number of bytes such as 2GB or 500MB")
    return int(size)
