"""What a corpus is like, measured while it is prepared, in bounded memory and the same whatever the order of work.

Counts are exact. Distinct lines are estimated from the smallest hashes seen (exact up to 65,536 distinct lines, within
about 0.4 % beyond), the most repeated lines are found by Misra–Gries counting (counts are lower bounds, at most lines /
1,024 too low), and the share of random pairs comes from walking over the documents with the smallest hashes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax.data.pairs import Walk, make_rows
from bert_jax.files import clear_errors

REPEATED_LIMIT = 0.10
RANDOM_PAIR_LIMIT = 0.60
CHINESE_LIMIT = 0.30
_DISTINCT = 1 << 16  # hashes kept
_FREQUENT = 1 << 13  # lines counted
_FREQUENT_KEPT = 1 << 10  # of them, in what a shard leaves behind
_KEY_CHARACTERS = 200
_SAMPLED_DOCUMENTS = 2048
_SAMPLED_SENTENCES = 2048  # of one document
_NO_LIMIT = 1 << 64
_COUNTS = ("documents", "sentences", "tokens", "bytes", "one_sentence_documents", "unknown_tokens")
_DROPPED = ("dropped_documents", "dropped_repeated_lines")


class Statistics:
    """Running counts over documents; `merge` adds another's, `save` and `load` keep them on disk."""

    def __init__(self, vocab_size: int, unknown: int):
        self.unknown = unknown
        self.counts: dict[str, int] = dict.fromkeys((*_COUNTS, *_DROPPED), 0)
        self.token_counts = np.zeros(vocab_size, np.int64)
        self._hashes = np.zeros(0, np.uint64)  # the smallest distinct ones, ascending
        self._new_hashes: list[np.ndarray] = []
        self._frequent: Counter[str] = Counter()
        self._documents: dict[int, np.ndarray] = {}  # hash of a document → its sentences' lengths in tokens, int32
        self._sample_limit = _NO_LIMIT  # only documents with hashes below it can still be of the sample

    def add(
        self,
        ids: np.ndarray,
        sentence_lengths: np.ndarray,
        document_sentences: Sequence[int],
        document_hashes: Sequence[int],
        lines: Sequence[str],
        line_hashes: np.ndarray,
        size: int,
    ) -> None:
        """Count a batch of documents: their token ids, sentence lengths in tokens, documents' lengths in sentences and
        hashes, and the texts of their sentences with hashes and their size in UTF-8 bytes."""
        token_counts = np.bincount(ids, minlength=len(self.token_counts))
        self.token_counts += token_counts
        self.counts["documents"] += len(document_sentences)
        self.counts["sentences"] += len(lines)
        self.counts["tokens"] += len(ids)
        self.counts["bytes"] += size
        self.counts["one_sentence_documents"] += list(document_sentences).count(1)
        self.counts["unknown_tokens"] += int(token_counts[self.unknown])
        self._frequent.update(line[:_KEY_CHARACTERS] for line in lines)
        if len(self._frequent) > 2 * _FREQUENT:
            self._prune(_FREQUENT)
        self._new_hashes.append(line_hashes)
        self._condense(when_over=4 * _DISTINCT)
        first = 0
        for number, key in zip(document_sentences, document_hashes, strict=True):
            if key < self._sample_limit:
                lengths = sentence_lengths[first : first + min(number, _SAMPLED_SENTENCES)]
                self._documents[key] = lengths.astype(np.int32)
                if len(self._documents) > 2 * _SAMPLED_DOCUMENTS:
                    self._shrink_sample()
            first += number

    def merge(self, other: Statistics) -> None:
        """Add the counts of `other`; merging in one fixed order gives one result."""
        for name, count in other.counts.items():
            self.counts[name] += count
        self.token_counts += other.token_counts
        self._frequent.update(other._frequent)
        self._prune(_FREQUENT)
        self._new_hashes += [other._hashes, *other._new_hashes]
        self._condense(when_over=16 * _DISTINCT)
        self._documents |= other._documents
        self._shrink_sample()

    def _prune(self, keep: int) -> None:
        """Misra–Gries: take the largest count that has no place from all, and drop what is not above zero."""
        if len(self._frequent) > keep:
            counts = np.fromiter(self._frequent.values(), np.int64, len(self._frequent))
            excess = int(np.partition(counts, -keep - 1)[-keep - 1])
            left = {line: count - excess for line, count in self._frequent.items() if count > excess}
            self._frequent = Counter(left)

    def _condense(self, when_over: int = 0) -> None:
        if sum(map(len, self._new_hashes)) > when_over:
            merged = np.sort(np.concatenate([self._hashes, *self._new_hashes]))  # np.unique is slower
            is_first = np.ones(len(merged), bool)
            is_first[1:] = merged[1:] != merged[:-1]
            self._hashes, self._new_hashes = merged[is_first][:_DISTINCT], []

    def _shrink_sample(self) -> None:
        if len(self._documents) > _SAMPLED_DOCUMENTS:
            keys = sorted(self._documents)[:_SAMPLED_DOCUMENTS]
            self._documents = {key: self._documents[key] for key in keys}
            self._sample_limit = keys[-1]

    def save(self, path: Path) -> None:
        """Write everything to one `.npz` file that `load` reads."""
        self._prune(_FREQUENT_KEPT)
        self._condense()
        self._shrink_sample()
        keys = sorted(self._documents)
        lengths = [self._documents[key] for key in keys]
        frequent = sorted(self._frequent.items(), key=lambda item: (-item[1], item[0]))
        with clear_errors("write", path), open(path, "wb") as file:
            np.savez(
                file,
                counts=np.array(list(self.counts.values()), np.int64),
                token_counts=self.token_counts,
                hashes=self._hashes,
                lines=np.frombuffer(json.dumps([line for line, _ in frequent]).encode(), np.uint8),
                line_counts=np.array([count for _, count in frequent], np.int64),
                document_keys=np.array(keys, np.uint64),
                document_sizes=np.array([len(item) for item in lengths], np.int64),
                document_lengths=np.concatenate([np.zeros(0, np.int32), *lengths]),
            )

    @classmethod
    def load(cls, path: Path, unknown: int) -> Statistics:
        """What `save` wrote."""
        with clear_errors("read", path), np.load(path, allow_pickle=False) as saved:
            statistics = cls(len(saved["token_counts"]), unknown)
            statistics.counts = dict(zip(statistics.counts, saved["counts"].tolist(), strict=True))
            statistics.token_counts = saved["token_counts"]
            statistics._hashes = saved["hashes"]
            lines = json.loads(saved["lines"].tobytes())
            statistics._frequent = Counter(dict(zip(lines, saved["line_counts"].tolist(), strict=True)))
            pieces = np.split(saved["document_lengths"], np.cumsum(saved["document_sizes"])[:-1])
            statistics._documents = dict(zip(saved["document_keys"].tolist(), pieces, strict=False))
        return statistics

    # --- what they say ------------------------------------------------------------------------------------------------

    def repeated_share(self) -> float:
        """Share of lines that equal another one and are not the first of their kind."""
        self._condense()
        lines = self.counts["sentences"]
        if not lines:
            return 0.0
        distinct = float(len(self._hashes))
        if len(self._hashes) == _DISTINCT:  # k smallest of n uniform hashes: n is about (k - 1) / the k-th as a share
            distinct = (_DISTINCT - 1) / (float(self._hashes[-1]) / 2.0**64)
        return min(max(1 - distinct / lines, 0.0), 1.0)

    def top_lines(self, count: int = 5) -> list[dict[str, Any]]:
        """The most repeated lines (their first 200 characters): `text`, `count`, `share` of all lines."""
        top = sorted(self._frequent.items(), key=lambda item: (-item[1], item[0]))[:count]
        lines = self.counts["sentences"]
        return [
            {"text": text.encode("utf-8", "replace").decode(), "count": number, "share": number / lines}
            for text, number in top
            if number > 1
        ]

    def random_pair_share(self, length: int) -> float | None:
        """Share of next-sentence pairs whose second half is random by the published walk, p₁ + ½(1 − p₁) with p₁ the
        share of chunks of one sentence, from a sample of documents; None without documents."""
        self._shrink_sample()
        keys = sorted(self._documents)
        sample = _Sample([self._documents[key] for key in keys])
        labels = [rows[:, 4] & 1 for rows in make_rows(sample, Walk(length), seed=0, variant=0)]
        return float(np.concatenate(labels).mean()) if labels else None

    def entropy(self) -> float:
        """Entropy of the distribution of single tokens, in nats: the loss of a model that knows only frequencies."""
        counts = self.token_counts[self.token_counts > 0].astype(np.float64)
        shares = counts / counts.sum()
        return float(-(shares * np.log(shares)).sum())

    def share_of(self, chosen: np.ndarray) -> float:
        """Share of tokens whose id is in `chosen`, bool (vocabulary,)."""
        return float(self.token_counts[chosen].sum() / max(self.counts["tokens"], 1))


class _Sample:
    """Documents as `pairs` wants them: one shard, offsets in memory."""

    def __init__(self, lengths: list[np.ndarray]):
        empty = np.zeros(0, np.int64)
        self.documents = len(lengths)
        sentence_ends = np.cumsum(np.concatenate([empty, *lengths]), dtype=np.int64)
        document_ends = np.cumsum([len(item) for item in lengths], dtype=np.int64)
        self.sentences, self.tokens = len(sentence_ends), int(sentence_ends[-1]) if len(sentence_ends) else 0
        self.document_offsets = np.array([0, self.documents])
        self.token_offsets = np.array([0, self.tokens])
        self._arrays = {"sentence_ends": sentence_ends, "document_ends": document_ends}

    def map(self, array: str) -> tuple[np.ndarray, np.ndarray]:
        return self._arrays[array], np.zeros(1, np.int64)


def summarise(statistics: Statistics, piece: Callable[[int], str], lengths: Sequence[int]) -> dict[str, Any]:
    """The summary that `prepare` returns and logs, as plain JSON values; `piece(id)` names a token."""
    counts, tokens = statistics.counts, statistics.counts["tokens"]
    commonest = int(statistics.token_counts.argmax())
    return {
        "documents": counts["documents"],
        "sentences": counts["sentences"],
        "tokens": tokens,
        "bytes": counts["bytes"],
        "unknown_rate": counts["unknown_tokens"] / tokens,
        "one_sentence_documents_share": counts["one_sentence_documents"] / counts["documents"],
        "repeated_lines_share": statistics.repeated_share(),
        "top_lines": statistics.top_lines(),
        "random_pairs_share": {str(length): statistics.random_pair_share(length) for length in lengths},
        "unigram_entropy": statistics.entropy(),
        "commonest_token": piece(commonest),
        "commonest_token_share": int(statistics.token_counts[commonest]) / tokens,
        **{name: counts[name] for name in _DROPPED},
    }


def warnings_of(summary: Mapping[str, Any]) -> list[str]:
    """What a user should mend before training on such a corpus, each with its remedy."""
    warnings = []
    repeated = summary["repeated_lines_share"]
    if repeated > REPEATED_LIMIT:
        top = f" (most often {summary['top_lines'][0]['text']!r})" if summary["top_lines"] else ""
        warnings.append(
            f"{repeated:.0%} of the lines repeat another one{top}: the model learns them by heart; "
            "--drop-repeated-lines keeps only the first of each"
        )
    for length, share in summary["random_pairs_share"].items():
        if share is not None and share > RANDOM_PAIR_LIMIT:
            lonely = summary["one_sentence_documents_share"]
            if lonely > 0.1:
                remedy = f"{lonely:.0%} of the documents have one sentence; --min-document-sentences 2 drops them"
            else:
                remedy = (
                    "most documents or sentences fill a row alone, and the second segment then comes from elsewhere; "
                    "give longer documents, one sentence per line, or train with a greater length"
                )
            warnings.append(
                f"{share:.0%} of the pairs at length {length} will be random, so always saying 'random' scores that: "
                f"{remedy}"
            )
            break
    return warnings


def table_of(summary: Mapping[str, Any]) -> list[str]:
    """The summary as aligned lines for people."""
    rows = [
        ("documents", f"{summary['documents']:,} ({summary['one_sentence_documents_share']:.1%} of one sentence)"),
        ("sentences", f"{summary['sentences']:,} ({summary['repeated_lines_share']:.1%} repeat another one)"),
        ("tokens", f"{summary['tokens']:,} ({summary['unknown_rate']:.3%} unknown)"),
        ("text", f"{summary['bytes'] / 1e6:,.1f} MB"),
        ("unigram entropy", f"{summary['unigram_entropy']:.3f} nats"),
        ("commonest token", f"{summary['commonest_token']!r}, {summary['commonest_token_share']:.1%} of all"),
    ]
    for length, share in summary["random_pairs_share"].items():
        rows.append((f"random pairs at {length}", "none" if share is None else f"{share:.1%}"))
    if summary["dropped_documents"] or summary["dropped_repeated_lines"]:
        dropped = f"{summary['dropped_documents']:,} documents, {summary['dropped_repeated_lines']:,} repeated lines"
        rows.append(("dropped", dropped))
    rows += [("repeated line", f"{line['count']:,} × {line['text']!r}") for line in summary["top_lines"]]
    return [f"  {name:<22}{value}" for name, value in rows]
