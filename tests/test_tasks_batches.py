"""Batches of like length: every row once per epoch, shapes that no seed changes, targets where they belong."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any, ClassVar

import numpy as np
import pytest
from small_models import small_tokenizer

from bert_jax.finetune_config import TaskOptions
from bert_jax.tasks.batches import (
    PACKED_ROWS,
    Epochs,
    PackedEpochs,
    Part,
    TrainingRows,
    _rows_in_use,
    bucket_lengths,
    make_batch,
    make_packed_batch,
    packed_parts,
)
from bert_jax.tasks.task import Form, Row

BUCKETS = (8, 16, 24)


class Counting(Form):
    """A form of no task: rows with a target per row and one per token."""

    head = None
    outputs = ()
    token_targets: ClassVar = {"marks": -1}

    def encode(self, example: Any) -> list[Row]:
        raise NotImplementedError

    def loss(self, outputs: Any, batch: Any) -> Any:
        raise NotImplementedError

    def decode(self, example: Any, rows: Any, outputs: Any) -> Any:
        raise NotImplementedError


@pytest.fixture(scope="module")
def form() -> Form:
    return Counting(small_tokenizer(), (), TaskOptions(length=24))


def lengths(count: int, seed: int = 0) -> list[int]:
    return [int(size) for size in np.random.default_rng(seed).integers(3, 25, count)]


def row(length: int, number: int = 0, sequences: int = 1) -> Row:
    ids = np.arange(1, length + 1, dtype=np.int32)
    targets = {"labels": np.int32(number), "marks": np.arange(length, dtype=np.int32)}
    return Row(ids=(ids,) * sequences, segments=(np.zeros(length, np.int32),) * sequences, targets=targets)


def test_bucket_lengths_end_with_the_limit() -> None:
    assert bucket_lengths((64, 16, 16, 128), 100) == (16, 64, 100)
    assert bucket_lengths((), 100) == (100,)


@pytest.mark.parametrize("count", [1, 7, 8, 100])
def test_every_row_is_trained_on_once_per_epoch_in_a_length_that_holds_it(count: int) -> None:
    sizes = lengths(count)
    epochs = Epochs(sizes, BUCKETS, batch=8)
    for epoch in range(3):
        parts = epochs.of(epoch, seed=5)
        assert len(parts) == epochs.steps_per_epoch
        assert Counter(int(index) for part in parts for index in part.rows) == Counter(range(count))
        assert all(sizes[index] <= part.length for part in parts for index in part.rows)
        assert sum(len(part.rows) < 8 for part in parts) <= 1


def test_the_shapes_belong_to_the_epoch_and_the_rows_to_the_seed() -> None:
    epochs = Epochs(lengths(200), BUCKETS, batch=8)
    one, other = epochs.of(3, seed=0), epochs.of(3, seed=1)
    assert [part.length for part in one] == [part.length for part in other]
    assert [part.length for part in one] != [part.length for part in epochs.of(4, seed=0)]
    assert any(not np.array_equal(a.rows, b.rows) for a, b in zip(one, other, strict=True))
    again = Epochs(lengths(200), BUCKETS, batch=8).of(3, seed=0)
    assert all(np.array_equal(a.rows, b.rows) for a, b in zip(one, again, strict=True))


def test_padding_share_is_what_the_batches_hold() -> None:
    sizes = lengths(100)
    epochs = Epochs(sizes, BUCKETS, batch=8)
    places = sum(8 * part.length for part in epochs.of(0, 0))
    assert epochs.padding_share == pytest.approx(1 - sum(sizes) / places)


def test_a_batch_pads_with_rows_that_weigh_nothing(form: Form) -> None:
    rows = [row(5, 0), row(7, 1), row(3, 2)]
    batch = make_batch(rows, Part(8, np.array([2, 1])), 4, 1, form)
    assert batch["input_ids"].shape == (4, 8)
    assert batch["input_mask"].sum(axis=1).tolist() == [3, 7, 3, 3]
    assert batch["weights"].tolist() == [1, 1, 0, 0]
    assert batch["example_ids"].tolist() == [2, 1, 0, 0]
    assert batch["labels"].tolist() == [2, 1, 2, 2]
    assert batch["marks"][1].tolist() == [0, 1, 2, 3, 4, 5, 6, -1]
    assert batch["input_ids"][0].tolist() == [1, 2, 3, *[form.tokenizer.pad_id] * 5]


def test_several_sequences_have_a_mask_of_those_that_are_there(form: Form) -> None:
    rows = [row(5, 0, sequences=3), row(4, 1, sequences=2)]
    batch = make_batch(rows, Part(8, np.array([0, 1])), 2, 3, form)
    assert batch["input_ids"].shape == (2, 3, 8)
    assert batch["sequence_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["input_mask"][1, 2].sum() == 4  # what is missing repeats the first: no row without a token


def test_training_goes_on_at_any_step_as_if_it_had_not_stopped(form: Form) -> None:
    rows = [row(size, number) for number, size in enumerate(lengths(50))]
    feed = TrainingRows(rows, form, BUCKETS, 8, [0, 1])
    whole = feed.batches(0)
    steps = [next(whole) for _ in range(2 * feed.steps_per_epoch + 3)]
    later = feed.batches(feed.steps_per_epoch + 2)
    for index in range(feed.steps_per_epoch + 2, len(steps)):
        batch = next(later)
        assert batch["input_ids"].shape[0] == 2
        for name, array in steps[index].items():
            np.testing.assert_array_equal(batch[name], array)


def test_one_seed_alone_sees_what_it_sees_beside_others(form: Form) -> None:
    rows = [row(size, number) for number, size in enumerate(lengths(50))]
    alone, beside = TrainingRows(rows, form, BUCKETS, 8, [1]), TrainingRows(rows, form, BUCKETS, 8, [0, 1])
    for _, one, both in zip(range(10), alone.batches(0), beside.batches(0), strict=False):
        for name, array in one.items():
            np.testing.assert_array_equal(both[name][1], array)


@pytest.mark.parametrize("count", [1, 7, 8, 100])
@pytest.mark.parametrize("split", [1, 4])
def test_packed_every_row_is_trained_on_once_per_epoch(count: int, split: int) -> None:
    sizes = [24, *lengths(count)][:count]  # the first is as long as a row
    epochs = PackedEpochs(sizes, 24, batch=8, most=3, split=split)
    for epoch in range(3):
        parts = epochs.of(epoch, seed=5)
        assert len(parts) == epochs.steps_per_epoch == -(-count // 8)
        used = [part.rows[part.rows >= 0] for part in parts]
        assert Counter(np.concatenate(used).tolist()) == Counter(range(count))
        assert [len(own) for own in used[:-1]] == [8] * (len(parts) - 1)
        whole = [len(part.rows) for part in parts[:-1]]
        assert not whole or len(parts[-1].rows) >= min(whole)  # the last is no shape for itself
        for part in parts:
            assert part.length == 24 and part.rows.shape[1] == 3 and len(part.rows) % split == 0
            filled = np.where(part.rows >= 0, np.asarray(sizes)[part.rows], 0).sum(axis=1)
            assert filled.max() <= 24
            assert np.count_nonzero(filled == 0) < split or (whole and part is parts[-1])
    assert 1 - epochs.padding_share == pytest.approx(
        sum(sizes) / sum(part.rows.shape[0] * 24 for part in epochs.of(0, 9))
    )


def test_packed_shapes_belong_to_the_epoch_and_examples_to_the_seed() -> None:
    sizes = np.asarray(lengths(200))
    epochs = PackedEpochs(sizes.tolist(), 24, batch=8, most=4)
    one, other, later = epochs.of(3, seed=0), epochs.of(3, seed=1), epochs.of(4, seed=0)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.rows >= 0, b.rows >= 0)
        np.testing.assert_array_equal(sizes[a.rows][a.rows >= 0], sizes[b.rows][b.rows >= 0])
    assert any(not np.array_equal(a.rows, b.rows) for a, b in zip(one, other, strict=True))
    assert any(a.rows.shape != b.rows.shape or (a.rows != b.rows).any() for a, b in zip(one, later, strict=True))
    again = PackedEpochs(sizes.tolist(), 24, batch=8, most=4).of(3, seed=0)
    assert all(np.array_equal(a.rows, b.rows) for a, b in zip(one, again, strict=True))


def test_packing_takes_fewer_places_of_few_shapes() -> None:
    sizes = np.clip(np.random.default_rng(0).lognormal(2.4, 0.5, 2000), 4, 128).astype(int).tolist()
    plain = Epochs(sizes, (16, 24, 32, 48, 64, 96, 128), batch=64)
    packed = PackedEpochs(sizes, 128, batch=64, most=24)
    assert packed.steps_per_epoch == plain.steps_per_epoch
    assert packed.padding_share < 0.15 < plain.padding_share
    assert len({part.rows.shape for epoch in range(3) for part in packed.of(epoch, 0)}) <= 3


@pytest.mark.parametrize(
    ("needed", "split", "expected"), [(1, 1, 1), (16, 1, 16), (17, 1, 18), (33, 1, 36), (3, 8, 8), (130, 8, 144)]
)
def test_numbers_of_rows_in_use(needed: int, split: int, expected: int) -> None:
    assert _rows_in_use(needed, split) == expected


def test_a_packed_batch_by_hand(form: Form) -> None:
    rows = [row(5, 0), row(3, 1), dataclasses.replace(row(7, 2), weight=0.5)]
    batch = make_packed_batch(rows, Part(8, np.array([[0, 1], [2, -1], [-1, -1]])), form)
    pad = form.tokenizer.pad_id
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 1, 2, 3], [1, 2, 3, 4, 5, 6, 7, pad], [pad] * 8]
    assert batch["sequence_ids"].tolist() == [[1] * 5 + [2] * 3, [1] * 7 + [0], [0] * 8]
    assert batch["cls_positions"].tolist() == [[0, 5], [0, 0], [0, 0]]
    assert batch["example_ids"].tolist() == [0, 1, 2, 0, 0, 0] and batch["example_ids"].dtype == np.uint32
    assert batch["weights"].tolist() == [1, 1, 0.5, 0, 0, 0] and batch["weights"].dtype == np.float32
    assert batch["labels"].tolist()[:3] == [0, 1, 2] and batch["labels"].shape == (6,)
    assert {name for name in batch if batch[name].shape[0] == 3} == set(PACKED_ROWS)


def test_packed_training_goes_on_at_any_step_and_seeds_see_the_same_alone(form: Form) -> None:
    rows = [row(size, number) for number, size in enumerate(lengths(50))]
    alone, both = (TrainingRows(rows, form, BUCKETS, 8, seeds, packing=3) for seeds in ([1], [0, 1]))
    whole = both.batches(0)
    steps = [next(whole) for _ in range(2 * both.steps_per_epoch + 3)]
    for index, own in zip(range(len(steps)), alone.batches(0), strict=False):
        for name, array in own.items():
            np.testing.assert_array_equal(steps[index][name][1], array)
    later = both.batches(both.steps_per_epoch + 2)
    for index in range(both.steps_per_epoch + 2, len(steps)):
        for name, array in next(later).items():
            np.testing.assert_array_equal(steps[index][name], array)


def test_packed_parts_hold_every_example_in_batches_of_one_size() -> None:
    parts = packed_parts(lengths(50), 24, batch=4, most=3)
    assert {part.rows.shape for part in parts} == {(4, 3)}
    members = np.concatenate([part.rows.reshape(-1) for part in parts])
    assert Counter(members[members >= 0].tolist()) == Counter(range(50))
