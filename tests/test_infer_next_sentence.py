"""The next-sentence probability is the published label 0's, for pairs in any form."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from small_models import small_bert

from bert_jax.errors import BertJaxError
from bert_jax.infer.loaded import Bert


@pytest.fixture(scope="module")
def bert() -> Bert:
    return small_bert()


def test_probability_equals_the_models(bert: Bert) -> None:
    pairs = [("the cat sat", "it was tired"), ("rain .", "the street was wet ."), ("it ran", "a dog " * 20)]
    answers = bert.next_sentence(pairs)
    rows = [bert.tokenizer.encode(a, b, length=48) for a, b in pairs]
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    logits = np.asarray(jax.jit(bert.apply)(batch)["next_sentence_logits"], np.float64)
    shares = 1 / (1 + np.exp(logits[:, 1] - logits[:, 0]))
    for (a, b), answer, expected in zip(pairs, answers, shares.tolist(), strict=True):
        assert answer["probability"] == pytest.approx(expected, rel=1e-4)
        assert answer["follows"] == (expected >= 0.5)
        assert (answer["a"], answer["b"]) == (a, b.strip())
    assert len({round(answer["probability"], 4) for answer in answers}) == 3


def test_one_pair_or_many_as_tuple_or_text(bert: Bert) -> None:
    one = bert.next_sentence(("the cat", "it sat"))
    assert one == bert.next_sentence("the cat [SEP] it sat")
    many = bert.next_sentence(["the cat [SEP] it sat", ("the cat", "it sat")])
    np.testing.assert_allclose([answer["probability"] for answer in many], one["probability"], rtol=1e-4)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("one sentence", r"input 1 has 1 part\(s\): expected two sentences, as 'first \[SEP\] second'"),
        ("a [SEP] b [SEP] c", r"input 1 has 3 part\(s\)"),
        ("", r"input 1 has 1 part\(s\)"),
        ("[SEP] b", "input 1: A is empty"),
        (("a", " "), "input 1: B is empty"),
        (
            ("cat " * 40, "dog " * 40),
            "input 1 is 83 tokens long .* more than the limit of 64: give --truncate to cut it$",
        ),
    ],
)
def test_bad_pairs(bert: Bert, pair, message: str) -> None:
    with pytest.raises(BertJaxError, match=message):
        bert.next_sentence(pair)


def test_a_long_pair_loses_from_its_longer_side_when_asked(bert: Bert) -> None:
    short, long = "the cat sat", " ".join(["dog", "ran"] * 50)
    cut = bert.next_sentence((short, long), truncate=True)
    kept = bert.next_sentence((short, " ".join(["dog", "ran"] * 29)))
    assert cut["probability"] == pytest.approx(kept["probability"], abs=1e-6)
    assert cut["b"] == long
    turned = bert.next_sentence(f"{long} [SEP] {short}", truncate=True)
    kept = bert.next_sentence((" ".join(["dog", "ran"] * 29), short))
    assert turned["probability"] == pytest.approx(kept["probability"], abs=1e-6)


def test_repeated_calls_compile_nothing() -> None:
    bert = small_bert()
    pairs = [("cat", " ".join(["dog"] * number)) for number in range(1, 58)]
    bert.next_sentence(pairs)
    program = bert.compiled(("next_sentence",), lambda: pytest.fail("made twice"))
    compiled = program._cache_size()
    for order in (reversed(pairs), pairs[9:] + pairs[:9], pairs):
        bert.next_sentence(list(order))
    assert program._cache_size() == compiled <= 8
    for pair in pairs:
        bert.next_sentence(pair)
    alone = program._cache_size()
    for pair in reversed(pairs):
        bert.next_sentence(pair)
    assert program._cache_size() == alone <= compiled + 6


def test_packed_pairs_have_the_same_probabilities(bert: Bert) -> None:
    pairs = [("the cat sat", "it was tired"), ("rain .", "the street was wet ."), ("it", "a dog " * 20)] * 3
    one, packed = bert.next_sentence(pairs, packing=1), bert.next_sentence(pairs, packing=3)
    assert [answer["b"] for answer in packed] == [answer["b"] for answer in one]
    found, expected = ([answer["probability"] for answer in answers] for answers in (packed, one))
    np.testing.assert_allclose(found, expected, atol=1e-5)
