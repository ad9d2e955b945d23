"""Measures of a corpus: exact on small ones, close on large ones, the same in whatever pieces they were counted."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bert_jax.data import statistics as module
from bert_jax.data.repeats import mark_repeated
from bert_jax.data.shard import hashes_of
from bert_jax.data.statistics import Statistics, summarise, table_of, warnings_of

VOCABULARY = 50


def count(documents: Sequence[Sequence[str]], statistics: Statistics | None = None) -> Statistics:
    """Statistics of documents whose words are numbers, their ids."""
    statistics = statistics or Statistics(VOCABULARY, unknown=1)
    for document in documents:
        encoded = [line.encode() for line in document]
        ids = [[int(word) for word in line.split()] for line in document]
        statistics.add(
            np.concatenate([np.array(line, np.int64) for line in ids]),
            np.array([len(line) for line in ids]),
            [len(document)],
            hashes_of([b"\n".join(encoded)]).tolist(),
            list(document),
            hashes_of(encoded),
            sum(map(len, encoded)),
        )
    return statistics


def summary_of(statistics: Statistics) -> dict:
    return summarise(statistics, lambda number: f"#{number}", (128,))


def random_documents(number: int, seed: int = 0) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    return [
        [" ".join(map(str, rng.integers(0, VOCABULARY, rng.integers(1, 12)))) for _ in range(rng.integers(1, 9))]
        for _ in range(number)
    ]


def test_a_corpus_small_enough_to_count_by_hand() -> None:
    summary = summary_of(count([["2 2 2 2", "3 1"], ["4 5"], ["2 2 2 2", "3 1", "6 7"], ["4 5"]]))
    assert summary["documents"] == 4
    assert summary["sentences"] == 7
    assert summary["tokens"] == 18
    assert summary["bytes"] == 2 * 7 + 2 * 3 + 3 * 3 + 2 * 3 - 6
    assert summary["one_sentence_documents_share"] == 0.5
    assert summary["unknown_rate"] == pytest.approx(2 / 18)
    assert summary["repeated_lines_share"] == pytest.approx(3 / 7)
    assert [(line["text"], line["count"]) for line in summary["top_lines"]] == [("2 2 2 2", 2), ("3 1", 2), ("4 5", 2)]
    assert (summary["commonest_token"], summary["commonest_token_share"]) == ("#2", pytest.approx(8 / 18))
    shares = np.array([8, 2, 2, 2, 2, 1, 1]) / 18
    assert summary["unigram_entropy"] == pytest.approx(-(shares * np.log(shares)).sum())


def test_pieces_merged_from_disk_equal_the_whole(tmp_path: Path) -> None:
    documents = random_documents(300)
    whole = count(documents)
    merged = Statistics(VOCABULARY, unknown=1)
    for index in range(3):
        count(documents[index * 100 : (index + 1) * 100]).save(tmp_path / str(index))
        merged.merge(Statistics.load(tmp_path / str(index), unknown=1))
    assert summary_of(merged) == summary_of(whole)


def test_lines_of_any_characters_survive_the_disk(tmp_path: Path) -> None:
    lines = ["nul \0 byte", "surrogate \ud800", 'quote " newline \\n', "普通话", "x" * 10_000]
    statistics = Statistics(VOCABULARY, unknown=1)
    hashes = np.arange(10, dtype=np.uint64)
    statistics.add(np.zeros(10, int), np.ones(10, int), [10], [7], lines * 2, hashes, 1)
    statistics.save(tmp_path / "s")
    top = Statistics.load(tmp_path / "s", unknown=1).top_lines()
    assert {line["count"] for line in top} == {2}
    texts = {line["text"] for line in top}
    assert texts == {"nul \0 byte", "surrogate ?", 'quote " newline \\n', "普通话", "x" * 200}


def test_an_empty_shard_can_be_merged(tmp_path: Path) -> None:
    Statistics(VOCABULARY, unknown=1).save(tmp_path / "empty")
    statistics = Statistics.load(tmp_path / "empty", unknown=1)
    statistics.merge(count([["2 3"]]))
    assert summary_of(statistics)["documents"] == 1


def test_many_distinct_lines_are_estimated_in_bounded_memory() -> None:
    rng = np.random.default_rng(3)
    distinct = rng.integers(0, 2**64, 400_000, np.uint64)
    hashes = np.concatenate([distinct, distinct[:100_000]])
    rng.shuffle(hashes)
    statistics = Statistics(VOCABULARY, unknown=1)
    for some in np.split(hashes, 50):
        lines = [""] * len(some)
        statistics.add(np.zeros(len(some), int), np.ones(len(some), int), [len(some)], [1], lines, some, 0)
    assert statistics.repeated_share() == pytest.approx(0.2, abs=0.01)
    assert len(statistics._hashes) == module._DISTINCT


def test_frequent_lines_are_found_among_very_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FREQUENT", 100)
    rng = np.random.default_rng(4)
    lines = [f"rare {index}" for index in range(20_000)] + ["often"] * 2_000 + ["less often"] * 1_000
    rng.shuffle(lines)
    statistics = Statistics(VOCABULARY, unknown=1)
    for some in np.array_split(np.array(lines, object), 200):
        hashes = hashes_of([line.encode() for line in some])
        statistics.add(np.zeros(len(some), int), np.ones(len(some), int), [len(some)], [1], list(some), hashes, 0)
    assert len(statistics._frequent) <= 2 * 100
    top = statistics.top_lines(2)
    assert [line["text"] for line in top] == ["often", "less often"]
    assert all(
        exact - len(lines) / 100 <= line["count"] <= exact for line, exact in zip(top, (2000, 1000), strict=True)
    )


def test_the_sample_of_documents_does_not_depend_on_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SAMPLED_DOCUMENTS", 20)
    documents = random_documents(500)
    shares = {count(order).random_pair_share(64) for order in (documents, documents[::-1])}
    assert len(shares) == 1
    statistics = count(documents)
    assert len(statistics._documents) <= 40


def walked_share(documents: list[list[str]], length: int) -> float:
    """Share of random pairs by the published rules, sentence by sentence (the coin taken as one half)."""
    rng = random.Random(0)
    pairs, expected_random = 0, 0.0
    for document in documents:
        sizes = [len(line.split()) for line in document]
        target = rng.randint(2, length - 3) if rng.random() < 0.1 else length - 3
        first = 0
        while first < len(sizes):
            last = first
            while last < len(sizes) - 1 and sum(sizes[first : last + 1]) < target:
                last += 1
            sentences = last + 1 - first
            in_a = rng.randint(1, sentences - 1) if sentences > 1 else 1
            pairs += 1
            expected_random += 1.0 if sentences == 1 else 0.5
            is_random = sentences == 1 or rng.random() < 0.5
            first += in_a if is_random else sentences
    return expected_random / pairs


def test_the_share_of_random_pairs_is_that_of_the_published_walk() -> None:
    assert count([[f"{index % 50} {index // 50}"] for index in range(300)]).random_pair_share(128) == 1.0
    documents = random_documents(1500)
    for length in (16, 64):
        share = walked_share(documents, length)
        assert 0.55 < share < 0.95
        assert count(documents).random_pair_share(length) == pytest.approx(share, abs=0.03)


def test_warnings_name_the_remedy() -> None:
    fine = {"repeated_lines_share": 0.09, "top_lines": [], "random_pairs_share": {"128": 0.59, "512": None}}
    fine["one_sentence_documents_share"] = 0.2
    assert warnings_of(fine) == []
    repeated = {**fine, "repeated_lines_share": 0.11, "top_lines": [{"text": "Share this", "count": 9, "share": 0.1}]}
    (warning,) = warnings_of(repeated)
    assert "--drop-repeated-lines" in warning
    assert "'Share this'" in warning
    (warning,) = warnings_of({**fine, "random_pairs_share": {"128": 0.5, "512": 0.61}})
    assert "--min-document-sentences 2" in warning
    assert "length 512" in warning
    few = {**fine, "random_pairs_share": {"128": 0.7, "512": None}, "one_sentence_documents_share": 0.01}
    (warning,) = warnings_of(few)
    assert "give longer documents, one sentence per line" in warning


def test_the_table_holds_every_figure() -> None:
    summary = summary_of(count(random_documents(30)))
    text = "\n".join(table_of(summary))
    for word in ("documents", "unknown", "nats", "random pairs at 128", "commonest token", "repeat"):
        assert word in text
    assert not math.isnan(summary["unigram_entropy"])


@pytest.mark.parametrize("part_lines", [1 << 22, 50, 7])
def test_every_line_but_the_first_of_its_kind_is_marked(tmp_path: Path, part_lines: int) -> None:
    rng = np.random.default_rng(part_lines)
    kinds = rng.integers(0, 2**64, 60, np.uint64)
    files = [rng.choice(kinds, size) for size in (100, 0, 37, 200)]
    hashes = [tmp_path / f"{index}.npy" for index in range(4)]
    for path, lines in zip(hashes, files, strict=True):
        np.save(path, lines)
    marks = [tmp_path / f"{index}.marks.npy" for index in range(4)]
    repeated = mark_repeated(hashes, marks, part_lines)
    seen: set[int] = set()
    for path, lines in zip(marks, files, strict=True):
        expected = []
        for line in lines.tolist():
            expected.append(line in seen)
            seen.add(line)
        assert np.load(path).tolist() == expected
    assert repeated == 337 - len(seen)
