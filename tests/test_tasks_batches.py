"""Batches of like length: every row once per epoch, shapes that no seed changes, targets where they belong."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

import numpy as np
import pytest
from small_models import small_tokenizer

from bert_jax.finetune_config import TaskOptions
from bert_jax.tasks.batches import Epochs, Part, TrainingRows, bucket_lengths, make_batch
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
