"""Masking: counts and shares as published, bits that belong to the example, words kept whole."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bert_jax.train.masking import Vocabulary, mask_tokens, prediction_counts

PAD, UNK, CLS, SEP, MASK = range(5)
VOCABULARY = Vocabulary(size=100, mask_id=MASK, special_ids=(PAD, UNK, CLS, SEP, MASK))
ALPHA = 1e-7  # chance that a right program fails one bound


def make_examples(lengths: Any, length: int, seed: int = 0, starts: float = 1.0) -> dict[str, np.ndarray]:
    """[CLS] A [SEP] B [SEP] of random ordinary tokens, `lengths` real tokens each."""
    lengths = np.asarray(lengths)
    rows, rng = len(lengths), np.random.default_rng(seed)
    place = np.arange(length)
    real = place < lengths[:, None]
    ids = rng.integers(5, VOCABULARY.size, (rows, length))
    middle = lengths // 2
    ids[:, 0] = CLS
    ids[np.arange(rows), middle] = SEP
    ids[np.arange(rows), lengths - 1] = SEP
    return {
        "input_ids": np.where(real, ids, PAD).astype(np.int32),
        "input_mask": real.astype(np.int32),
        "segment_ids": (real & (place > middle[:, None])).astype(np.int32),
        "word_starts": rng.random((rows, length)) < starts,
        "example_ids": np.arange(rows, dtype=np.uint32),
        "epochs": np.zeros(rows, np.int32),
        "next_sentence_labels": np.zeros(rows, np.int32),
    }


_masked = jax.jit(
    mask_tokens,
    static_argnames=("seed", "vocabulary", "predictions", "masked_share", "whole_words", "row_predictions"),
)


def mask(examples: dict[str, Any], seed: int = 7, epoch: Any = None, **options: Any) -> dict[str, np.ndarray]:
    options = {"vocabulary": VOCABULARY, "predictions": 20} | options
    return {key: np.asarray(value) for key, value in _masked(examples, seed, epoch, **options).items()}


def within(count: float, trials: int, share: float) -> bool:
    low, high = stats.binom.interval(1 - ALPHA, trials, share)
    return bool(low <= count <= high)


def test_prediction_counts_are_python_s_half_even_rounding() -> None:
    counts = prediction_counts(128, 20)
    # 0.15 · 10 = 1.5 → 2, 0.15 · 30 = 4.5 → 4, 0.15 · 50 = 7.5 → 8, 0.15 · 70 = 10.5 → 10
    assert [int(counts[tokens]) for tokens in (1, 3, 10, 30, 50, 70, 128)] == [1, 1, 2, 4, 8, 10, 19]
    assert int(prediction_counts(512, 77)[512]) == 77
    assert int(prediction_counts(512, 20)[512]) == 20


def test_shares_over_a_million_tokens() -> None:
    rows, length = 2048, 512
    examples = make_examples(np.full(rows, length), length)
    out = mask(examples, predictions=77)
    assert rows * length >= 1e6
    used = out["masked_lm_weights"] == 1
    assert (used.sum(1) == 77).all()
    positions, originals = out["masked_lm_positions"], out["masked_lm_ids"]
    became = np.take_along_axis(out["input_ids"], positions, 1)
    total, size = used.sum(), VOCABULARY.size
    assert within((became == MASK).sum(), total, 0.8 + 0.1 / size)
    assert within((became == originals).sum(), total, 0.1 + 0.1 / size)
    drawn = became[(became != MASK) & (became != originals)]
    assert within(drawn.size, total, 0.1 * (1 - 2 / size))
    # The random tenth comes from the whole vocabulary, special ids among them, and evenly.
    counts = np.bincount(drawn, minlength=size)[np.arange(size) != MASK]
    assert stats.chisquare(counts).pvalue > ALPHA
    # Every candidate is equally likely.
    candidates = np.setdiff1d(np.arange(length), [0, length // 2, length - 1])
    chosen = np.bincount(positions[used], minlength=length)
    assert chosen.sum() == chosen[candidates].sum()
    assert all(within(count, rows, 77 / len(candidates)) for count in chosen[candidates])
    # Two epochs share no more than chance: each of n positions is drawn again with probability n / C.
    other = mask(examples, epoch=1, predictions=77)["masked_lm_positions"]
    again = sum(len(np.intersect1d(a, b)) for a, b in zip(positions, other, strict=True))
    share = 77 / len(candidates)
    assert abs(again - rows * 77 * share) < 6 * np.sqrt(rows * 77 * share)


def test_places_are_ascending_and_restore_the_original() -> None:
    lengths = np.array([5, 9, 60, 128, 128])
    examples = make_examples(lengths, 128)
    out = mask(examples)
    for row, tokens in enumerate(lengths):
        used = out["masked_lm_weights"][row] == 1
        positions = out["masked_lm_positions"][row]
        count = prediction_counts(128, 20)[tokens]
        assert used.sum() == count
        assert used[:count].all()
        assert (np.diff(positions[:count]) > 0).all()
        assert (positions[count:] == 0).all()
        assert (out["masked_lm_ids"][row][count:] == 0).all()
        restored = out["input_ids"][row].copy()
        restored[positions[:count]] = out["masked_lm_ids"][row][:count]
        np.testing.assert_array_equal(restored, examples["input_ids"][row])
        assert not set(examples["input_ids"][row][positions[:count]]) & set(VOCABULARY.special_ids)
    assert {key for key in examples if key not in out} == {"word_starts", "epochs"}


def test_small_cases() -> None:
    """One candidate, fewer than n candidates, none, and an empty row."""
    ids = np.array([[CLS, SEP, 9, SEP] + [PAD] * 16, [CLS, 7] + [SEP] * 18, [CLS, SEP] * 10, [PAD] * 20], np.int32)
    examples = {
        "input_ids": ids,
        "input_mask": (ids != PAD).astype(np.int32),
        "segment_ids": np.zeros_like(ids),
        "word_starts": np.ones_like(ids),
        "example_ids": np.arange(4),
        "next_sentence_labels": np.zeros(4, np.int32),
    }
    for whole_words in (False, True):
        out = mask(examples, whole_words=whole_words)
        np.testing.assert_array_equal(out["masked_lm_weights"].sum(1), [1, 1, 0, 0])
        np.testing.assert_array_equal(out["masked_lm_positions"][:, 0], [2, 1, 0, 0])
        np.testing.assert_array_equal(out["masked_lm_ids"][:, 0], [9, 7, 0, 0])
        np.testing.assert_array_equal(out["input_ids"][2:], ids[2:])


def test_padding_is_never_masked_whatever_it_holds() -> None:
    examples = make_examples(np.array([5, 60, 100]), 128)
    padded = examples["input_mask"] == 0
    strange = examples | {"input_ids": np.where(padded, 50, examples["input_ids"])}
    for whole_words in (False, True):
        out, other = mask(examples, whole_words=whole_words), mask(strange, whole_words=whole_words)
        np.testing.assert_array_equal(other["masked_lm_positions"], out["masked_lm_positions"])
        np.testing.assert_array_equal(other["input_ids"][padded], 50)


def test_bits_belong_to_the_example() -> None:
    """Another batch, order, padded length or place gives the same masks; another id, epoch or seed does not."""
    examples = make_examples(np.full(32, 40), 48, starts=0.6)
    for whole_words in (False, True):
        out = mask(examples, whole_words=whole_words)
        order = np.random.default_rng(1).permutation(32)[:11]
        part = mask(
            {key: value[order, :41] if value.ndim == 2 else value[order] for key, value in examples.items()},
            whole_words=whole_words,
        )
        np.testing.assert_array_equal(part["input_ids"], out["input_ids"][order, :41])
        np.testing.assert_array_equal(part["masked_lm_positions"], out["masked_lm_positions"][order])
        for changed in (
            examples | {"epochs": np.ones(32, np.int32)},
            examples | {"example_ids": examples["example_ids"] + 32},
        ):
            other = mask(changed, whole_words=whole_words)
            assert (other["masked_lm_positions"] != out["masked_lm_positions"]).any(1).mean() > 0.9
    out = mask(examples)
    for seed in (8, 7 + 2**32):
        other = mask(examples, seed=seed)
        assert (other["masked_lm_positions"] != out["masked_lm_positions"]).any(1).mean() > 0.9
    # Each row may be in an epoch of its own.
    epochs = np.arange(32) % 2
    mixed = mask(examples, epoch=epochs)["input_ids"]
    for epoch in (0, 1):
        whole = mask(examples | {"epochs": np.full(32, epoch)})["input_ids"]
        np.testing.assert_array_equal(mixed[epochs == epoch], whole[epochs == epoch])


@pytest.mark.parametrize("whole_words", [False, True])
def test_packed_equals_unpacked(whole_words: bool) -> None:
    lengths = [20, 31, 13, 40, 12, 12]
    examples = make_examples(lengths, 40, starts=0.5)
    single = mask(examples, whole_words=whole_words)
    rows = [(0, 1, 2), (3, 4, 5)]
    width = 66

    def pack(name: str) -> np.ndarray:
        joined = [np.concatenate([examples[name][i][: lengths[i]] for i in row]) for row in rows]
        return np.stack([np.pad(part, (0, width - len(part))) for part in joined])

    packed = {name: pack(name) for name in ("input_ids", "input_mask", "segment_ids", "word_starts")}
    spans = [np.concatenate([np.full(lengths[i], place + 1) for place, i in enumerate(row)]) for row in rows]
    packed["sequence_ids"] = np.stack([np.pad(span, (0, width - len(span))) for span in spans])
    inside = [np.concatenate([np.arange(lengths[i]) for i in row]) for row in rows]
    packed["position_ids"] = np.stack([np.pad(place, (0, width - len(place))) for place in inside])
    for name in ("example_ids", "epochs", "next_sentence_labels"):
        packed[name] = examples[name][np.array(rows)]
    out = mask(packed, whole_words=whole_words, row_predictions=24)
    for at, row in enumerate(rows):
        offset, positions = 0, []
        for i in row:
            count = int(single["masked_lm_weights"][i].sum())
            np.testing.assert_array_equal(
                out["input_ids"][at, offset : offset + lengths[i]], single["input_ids"][i][: lengths[i]]
            )
            positions.extend(single["masked_lm_positions"][i][:count] + offset)
            offset += lengths[i]
        used = out["masked_lm_weights"][at] == 1
        np.testing.assert_array_equal(out["masked_lm_positions"][at][used], positions)


def words_of(examples: dict[str, np.ndarray], row: int) -> list[list[int]]:
    """A row's words by the plain rule: a start and the pieces after it, never across a special token or A | B."""
    words: list[list[int]] = []
    for place, token in enumerate(examples["input_ids"][row]):
        if token in VOCABULARY.special_ids:
            continue
        previous = place - 1
        joined = words and words[-1][-1] == previous and not examples["word_starts"][row, place]
        if joined and examples["segment_ids"][row, place] == examples["segment_ids"][row, previous]:
            words[-1].append(place)
        else:
            words.append([place])
    return words


def test_whole_words_are_whole_and_fill_the_budget() -> None:
    lengths = np.random.default_rng(3).integers(5, 65, 256)
    examples = make_examples(lengths, 64, starts=0.45)
    examples["input_ids"][::7, 20] = np.where(examples["input_mask"][::7, 20] > 0, UNK, PAD)  # a special inside a word
    examples["segment_ids"][::5, 10] = 1 - examples["segment_ids"][::5, 10]  # a change of segment without [SEP]
    out = mask(examples, whole_words=True)
    for row, tokens in enumerate(lengths):
        used = out["masked_lm_weights"][row] == 1
        chosen = set(out["masked_lm_positions"][row][used].tolist())
        left = int(prediction_counts(64, 20)[tokens]) - len(chosen)
        assert left >= 0
        for word in words_of(examples, row):
            part = chosen & set(word)
            assert part in (set(), set(word)), (row, word, chosen)
            assert part or len(word) > left, (row, word, left)  # skipped only because it did not fit


def test_whole_words_by_chance_as_by_every_order() -> None:
    """Words of 3, 1, 1 and 2 pieces under a budget of 3: the exact chance of each choice over all 24 orders."""
    sizes, budget, rows = (3, 1, 1, 2), 3, 40_000
    starts = np.concatenate([[1], *[[1] + [0] * (size - 1) for size in sizes], [1]])
    ids = np.array([CLS, 11, 12, 13, 21, 31, 41, 42, SEP])
    length = 20  # 0.15 · 20 = 3
    tail = length - len(ids)
    row = np.concatenate([ids, np.full(tail, SEP)])
    examples = {
        "input_ids": np.tile(row, (rows, 1)).astype(np.int32),
        "input_mask": np.ones((rows, length), np.int32),
        "segment_ids": np.zeros((rows, length), np.int32),
        "word_starts": np.tile(np.concatenate([starts, np.ones(tail)]), (rows, 1)),
        "example_ids": np.arange(rows),
        "next_sentence_labels": np.zeros(rows, np.int32),
    }
    expected: Counter[frozenset[int]] = Counter()
    for order in itertools.permutations(range(4)):
        left, taken = budget, set()
        for word in order:
            if sizes[word] <= left:
                left -= sizes[word]
                taken.add(word)
        expected[frozenset(taken)] += 1
    out = mask(examples, whole_words=True)
    first = {1: 0, 4: 1, 5: 2, 6: 3}
    found = Counter(
        frozenset(first[p] for p in positions[weights == 1].tolist() if p in first)
        for positions, weights in zip(out["masked_lm_positions"], out["masked_lm_weights"], strict=True)
    )
    assert set(found) == set(expected)
    for choice, count in expected.items():
        assert within(found[choice], rows, count / 24), (choice, found[choice], rows * count / 24)


def test_a_first_word_longer_than_the_budget_is_skipped() -> None:
    examples = make_examples([10], 12)
    examples["word_starts"] = np.zeros((1, 12), bool)  # A and B are one word each, of 4 and 3 pieces; n is 2
    out = mask(examples, whole_words=True)
    assert out["masked_lm_weights"].sum() == 0
    np.testing.assert_array_equal(out["input_ids"], examples["input_ids"])


def test_chinese_words() -> None:
    """Word starts from a segmenter: one character per token, words of one to three."""
    examples = make_examples([16], 16)
    ids = np.array([CLS, 50, 51, 52, 53, 54, SEP, 60, 61, 62, 63, 64, 65, 66, 67, SEP])
    starts = np.array([1, 1, 0, 1, 0, 0, 1, 1, 0, 1, 0, 1, 0, 1, 0, 1])
    examples |= {"input_ids": np.tile(ids, (500, 1)), "word_starts": np.tile(starts, (500, 1))}
    for name in ("input_mask", "segment_ids"):
        examples[name] = np.repeat(examples[name], 500, 0)
    for name in ("epochs", "next_sentence_labels"):
        examples[name] = np.zeros(500, np.int32)
    examples["example_ids"] = np.arange(500)
    out = mask(examples, whole_words=True)  # n = round(2.4) = 2: any of the words of two, never the one of three
    choices = {tuple(p[w == 1]) for p, w in zip(out["masked_lm_positions"], out["masked_lm_weights"], strict=True)}
    assert choices == {(1, 2), (7, 8), (9, 10), (11, 12), (13, 14)}


def test_the_bits_stay_what_they_are() -> None:
    """A run resumed under a newer version must see the masks it would have seen."""
    out = mask(make_examples([40], 40), seed=12345)
    assert out["masked_lm_positions"][0][:6].tolist() == GOLDEN_POSITIONS, (
        "masks changed for the same (seed, epoch, example, position): runs made by earlier versions no longer resume "
        "exactly. Unless that is intended, find the change; if it is, put the new positions here and say so"
    )


GOLDEN_POSITIONS = [8, 13, 22, 31, 34, 37]


def test_no_collectives() -> None:
    """Cut over devices along the batch, masking exchanges nothing."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    examples = {key: jnp.asarray(value) for key, value in make_examples(np.full(16, 30), 32).items()}
    for whole_words in (False, True):
        step = jax.jit(
            lambda batch, whole_words=whole_words: mask_tokens(
                batch, 1, vocabulary=VOCABULARY, predictions=5, whole_words=whole_words
            ),
            in_shardings=rows,
            out_shardings=rows,
        )
        text = step.lower(examples).compile().as_text()
        assert "fusion" in text
        assert not re.findall(r"(all-gather|all-reduce|all-to-all|collective-permute)\(", text)
