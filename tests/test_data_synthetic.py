"""The synthetic store: equal everywhere, and shaped like text."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from bert_jax.data import synthetic
from bert_jax.data.sources import open_source
from bert_jax.data.synthetic import make_synthetic_store, write_synthetic_text
from bert_jax.errors import BertJaxError
from bert_jax.text.tokenizer import load_tokenizer


def test_the_bytes_are_pinned(tmp_path: Path) -> None:
    """Speeds measured on this store are compared between machines and over time: it must not change."""
    store = make_synthetic_store(tmp_path / "store", seed=3, tokens=5_000, vocab_size=100)
    sums = [int(shard.tokens.sum(dtype=np.int64)) for shard in store.split("train").shards]
    assert (store.split("train").tokens, store.split("eval").tokens, sums) == PINNED


PINNED = (6658, 0, [181574])


def test_is_shaped_like_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "_SHARD_TOKENS", 100_000)
    store = make_synthetic_store(tmp_path / "store", seed=0, tokens=300_000)
    store.verify()
    train, held_out = store.split("train"), store.split("eval")
    assert len(train.shards) == 3
    assert 300_000 <= train.tokens + held_out.tokens < 310_000
    assert 0.005 < held_out.tokens / train.tokens < 0.06
    assert 18 < train.tokens / train.sentences < 30
    assert 12 < train.sentences / train.documents < 30
    tokens = np.concatenate([shard.tokens for shard in train.shards])
    assert tokens.min() >= 5
    assert tokens.max() < store.vocab_size == 30_522
    counts = np.sort(np.bincount(tokens))[::-1]
    assert 0.02 < counts[0] / len(tokens) < 0.08
    assert counts[10] / counts[100] == pytest.approx(102.7 / 12.7, rel=0.3)  # Zipf's law
    starts = np.unpackbits(train.shards[0].word_starts, count=train.shards[0].tokens_count, bitorder="little")
    assert 0.7 < starts.mean() < 0.95


def test_its_tokenizer_loads_and_knows_the_pieces(tmp_path: Path) -> None:
    store = make_synthetic_store(tmp_path / "store", tokens=1_000, vocab_size=50)
    tokenizer = load_tokenizer(store.tokenizer_path)
    assert tokenizer.fingerprint == store.tokenizer_fingerprint
    assert tokenizer.vocab_size == 50
    assert tokenizer.cls_id == 2


def test_seed_matters_and_place_does_not(tmp_path: Path) -> None:
    prints = [
        make_synthetic_store(tmp_path / name, seed, 2_000, 100).fingerprint
        for name, seed in [("a", 0), ("b", 0), ("c", 1)]
    ]
    assert prints[0] == prints[1] != prints[2]


def test_refuses_a_tiny_vocabulary_and_a_taken_place(tmp_path: Path) -> None:
    with pytest.raises(BertJaxError, match="too small"):
        make_synthetic_store(tmp_path / "store", vocab_size=5)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("x")
    with pytest.raises(BertJaxError, match="exists"):
        make_synthetic_store(tmp_path / "taken", tokens=10)


def test_the_text_is_pinned_and_reads_as_documents(tmp_path: Path) -> None:
    write_synthetic_text(tmp_path / "text.txt", seed=3, megabytes=0.05)
    text = (tmp_path / "text.txt").read_text()
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == TEXT
    documents = list(open_source(tmp_path / "text.txt"))
    assert 50_000 <= sum(len(line) for document in documents for line in document) + 1_000 < 70_000
    lines = [line for document in documents for line in document]
    assert 12 < sum(len(line.split()) for line in lines) / len(lines) < 40
    assert all(line[0].isupper() and line.endswith(".") for line in lines)


TEXT = "a10392604a962afd"
