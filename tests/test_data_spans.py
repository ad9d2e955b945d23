"""Rows hold spans of any store, and truncation drops what dropping token by token drops."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from bert_jax.data import spans as module
from bert_jax.data.permutation import Bits
from bert_jax.data.spans import Spans, decode_rows, encode_rows, truncate
from bert_jax.errors import BertJaxError


def drawn_spans(count: int, tokens: int) -> Spans:
    rng = np.random.default_rng(0)
    a0, b0 = rng.integers(0, tokens, (2, count))
    return Spans(a0, a0 + rng.integers(1, 512, count), b0, b0 + rng.integers(0, 512, count), rng.integers(0, 2, count))


@pytest.mark.parametrize("tokens", [1 << 16, 1 << 31, 1 << 40, (1 << 45) - 512])
def test_rows_hold_any_token_number(tokens: int) -> None:
    spans = drawn_spans(1_000, tokens)
    rows = encode_rows(spans)
    assert rows.dtype == np.int32
    assert (rows >= 0).all()
    for field, back in zip(spans, decode_rows(rows), strict=True):
        assert np.array_equal(field, back)


def test_too_many_tokens_are_refused() -> None:
    with pytest.raises(BertJaxError, match="cannot be planned"):
        encode_rows(drawn_spans(10, 1 << 50))


def one_by_one(in_a: int, in_b: int, room: int) -> tuple[int, int]:
    while in_a + in_b > room:
        if in_a > in_b:
            in_a -= 1
        else:
            in_b -= 1
    return in_a, in_b


def test_truncation_takes_from_the_longer_side() -> None:
    sizes = np.array([(a, b) for a in range(1, 30) for b in range(1, 30)])
    in_a, in_b = sizes.T
    for room in (3, 4, 10, 57):
        a0, b0 = np.full(len(sizes), 100), np.full(len(sizes), 900)
        cut = truncate(Spans(a0, a0 + in_a, b0, b0 + in_b, np.zeros(len(sizes), np.int32)), room, Bits(1, room))
        expected = [one_by_one(a, b, room) for a, b in sizes.tolist()]
        assert list(zip((cut.a1 - cut.a0).tolist(), (cut.b1 - cut.b0).tolist(), strict=True)) == expected
        assert (cut.a0 >= 100).all()
        assert (cut.a1 <= 100 + in_a).all()
        assert (cut.b0 >= 900).all()
        assert (cut.b1 <= 900 + in_b).all()


@pytest.mark.parametrize("dropped", [1, 2, 5, 63, 64, 65, 200])
def test_front_or_back_is_a_fair_coin_per_token(dropped: int) -> None:
    """The number dropped in front is binomial: mean, variance, and for few tokens each probability."""
    count = 20_000
    zeros = np.zeros(count, np.int64)
    spans = Spans(zeros, zeros + 10 + dropped, zeros, zeros + 5, np.zeros(count, np.int32))
    front = truncate(spans, 15, Bits(2, dropped)).a0
    assert abs(front.mean() - dropped / 2) < 4.5 * math.sqrt(dropped / 4 / count)
    assert front.var() == pytest.approx(dropped / 4, rel=4.5 * math.sqrt(2 / count))
    if dropped <= 5:
        counts = Counter(front.tolist())
        for number in range(dropped + 1):
            expected = count * math.comb(dropped, number) / 2**dropped
            assert abs(counts[number] - expected) < 4.5 * math.sqrt(expected)


def test_bits_are_counted_alike_without_numpy_2(monkeypatch: pytest.MonkeyPatch) -> None:
    words = Bits(3).words(100)
    expected = [bin(int(word)).count("1") for word in words]
    assert module._bit_count(words).tolist() == expected
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert module._bit_count(words).tolist() == expected
