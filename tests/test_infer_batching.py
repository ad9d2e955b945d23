"""Inputs of any number and length go through few static shapes and come back in order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from bert_jax.errors import BertJaxError, UsageError
from bert_jax.infer.batching import (
    LENGTHS,
    LIVE_WINDOW,
    PACKING,
    UNUSED,
    WINDOW,
    Encoded,
    bucket,
    length_buckets,
    packed_batch,
    packed_parts_of,
    pad_batch,
    parts_of,
    row_sizes,
    stream,
)


def test_bucket_is_the_smallest_that_holds() -> None:
    assert [bucket(size, (16, 32)) for size in (0, 1, 16, 17, 32, 33, 100)] == [16, 16, 16, 32, 32, 64, 128]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(512, LENGTHS), (20, (8, 12, 16, 20)), (30, (8, 12, 16, 20, 24, 28, 30)), (8, (8,)), (5, (5,))],
)
def test_lengths_end_at_the_models_limit(limit: int, expected: tuple[int, ...]) -> None:
    assert length_buckets(limit) == expected


def test_pad_batch_by_hand() -> None:
    items = [Encoded([5, 6, 7], [0, 0, 1], (1,)), Encoded([8], [0], ())]
    batch = pad_batch(items, rows=3, length=4, slots=2, pad_id=9)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 9], [8, 9, 9, 9], [5, 6, 7, 9]]
    assert batch["segment_ids"].tolist() == [[0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 1, 0]]
    assert batch["input_mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 0]]
    assert batch["masked_lm_positions"].tolist() == [[1, 0], [0, 0], [1, 0]]
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int32)}


def test_order_is_kept_and_shapes_are_few() -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(1, 129, 500)
    items = [Encoded([number] * int(length), [0] * int(length)) for number, length in enumerate(lengths, start=1)]
    shapes = set()

    def compute(batch: dict[str, np.ndarray], members: list[Encoded]) -> list[tuple[int, int]]:
        shapes.add(batch["input_ids"].shape)
        assert batch["input_mask"].any(axis=1).all()  # no row without a real token
        sums = batch["input_mask"].sum(axis=1)
        return [(int(batch["input_ids"][row, 0]), int(sums[row])) for row in range(len(members))]

    answers = list(stream(items, compute, limit=128, pad_id=0, window=100, tokens=512))
    assert answers == [(number, int(length)) for number, length in enumerate(lengths, start=1)]
    lengths_in_use = {length for _, length in shapes}
    assert lengths_in_use <= set(length_buckets(128))
    for rows, length in shapes:
        assert rows in row_sizes(length, 512)
    full = sum(rows == row_sizes(length, 512)[-1] for rows, length in shapes)
    assert full >= len(shapes) - 4  # but for the ends of windows


def items_of(lengths: list[int]) -> list[Encoded]:
    return [Encoded([1] * length, [0] * length) for length in lengths]


def test_longest_first_in_full_batches() -> None:
    parts = list(parts_of(items_of([10, 30, 9, 31, 60, 12, 11]), (16, 32, 64), (), tokens=64, devices=1))
    assert [part.members for part in parts] == [[4], [3, 1], [5, 6, 0, 2]]
    assert [(part.rows, part.length) for part in parts] == [(1, 64), (2, 32), (4, 16)]


def test_a_row_that_would_be_mostly_padding_begins_a_batch() -> None:
    parts = list(parts_of(items_of([60, 10, 40]), (16, 64), (), tokens=256, devices=1))
    assert [part.members for part in parts] == [[0, 2], [1]]
    parts = list(parts_of(items_of([60, 17, 40]), (16, 32, 64), (), tokens=256, devices=1))
    assert [part.members for part in parts] == [[0, 2], [1]]


def test_little_padding_over_real_lengths() -> None:
    random = np.random.default_rng(1)
    items = items_of(np.clip(random.lognormal(3.2, 0.6, 2000), 4, 256).astype(int).tolist())
    places = sum(part.rows * part.length for part in parts_of(items, length_buckets(512), (), 512, 1))
    real = sum(len(item.input_ids) for item in items)
    assert real / places > 0.9


def test_the_shortest_rows_share_batches_too() -> None:
    """As short as they are, none is less than half of a shorter length that there is."""
    parts = list(parts_of(items_of([2, 3, 4, 5, 7, 2, 3]), length_buckets(512), (), 512, 1))
    assert [(len(part.members), part.length) for part in parts] == [(7, 16)]


@pytest.mark.parametrize("count", [1, 3, 9, 100])
def test_rows_are_a_multiple_of_the_devices(count: int) -> None:
    parts = list(parts_of(items_of([5] * count), (16,), (), tokens=64, devices=8))
    assert sum(len(part.members) for part in parts) == count
    assert {part.rows for part in parts} <= {8, 32}


def test_answers_before_an_input_that_cannot_be_read_are_given() -> None:
    def source() -> Iterator[Encoded]:
        yield from (Encoded([number], [0]) for number in range(3))
        raise BertJaxError("input 4 is bad")

    answers = stream(source(), lambda batch, items: [item.input_ids[0] for item in items], limit=16, pad_id=0)
    assert [next(answers) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(BertJaxError, match="input 4 is bad"):
        next(answers)


def test_only_a_window_is_read_ahead() -> None:
    read = []

    def source() -> Iterator[Encoded]:
        for number in range(1000):
            read.append(number)
            yield Encoded([number], [0])

    answers = stream(source(), lambda batch, items: [item.input_ids[0] for item in items], limit=16, pad_id=0, window=8)
    assert [next(answers) for _ in range(8)] == list(range(8))
    assert len(read) == 8


def test_typed_inputs_do_not_wait_for_a_whole_window() -> None:
    read = 0

    def source() -> Iterator[Encoded]:
        nonlocal read
        while True:
            read += 1
            yield Encoded([read], [0])

    def compute(batch: dict[str, np.ndarray], items: list[Encoded]) -> list[int]:
        return [item.input_ids[0] for item in items]

    answers = stream(source(), compute, limit=16, pad_id=0, first=LIVE_WINDOW)
    assert next(answers) == 1
    assert read == LIVE_WINDOW
    assert list(itertools.islice(answers, 5000)) == list(range(2, 5002))
    assert read <= 5001 + WINDOW


def test_packed_inputs_come_back_in_order_from_few_full_rows() -> None:
    random = np.random.default_rng(2)
    lengths = np.clip(random.lognormal(2.4, 0.5, 700), 1, 256).astype(int)
    lengths[[5, 600]] = 64, 128  # as long as a row
    items = [Encoded([number] * int(length), [0] * int(length)) for number, length in enumerate(lengths, start=1)]
    shapes, places = set(), 0

    def compute(batch: dict[str, np.ndarray], members: list[Encoded]) -> list[tuple[int, int]]:
        nonlocal places
        shapes.add(batch["input_ids"].shape)
        places += batch["input_ids"].size
        found = []
        for place in range(len(members)):  # nothing of `members` is used: the places must say the same
            row, number = divmod(place, 8)
            own = batch["sequence_ids"][row] == number + 1
            found.append((int(batch["input_ids"][row, batch["cls_positions"][row, number]]), int(own.sum())))
        return found

    answers = list(stream(items, compute, limit=256, pad_id=0, window=500, packing=8))
    assert answers == [(number, int(length)) for number, length in enumerate(lengths, start=1)]
    assert len(shapes) <= 5 and {length for _, length in shapes} <= {64, 128, 256}
    assert lengths.sum() / places > 0.9


@pytest.mark.parametrize("count", [1, 2, 7, 33])
@pytest.mark.parametrize("devices", [1, 4])
def test_any_number_of_packed_inputs(count: int, devices: int) -> None:
    items = items_of([1 + number % 16 for number in range(count)])
    parts = list(packed_parts_of(items, 16, 3, 64, devices))
    members = [index for part in parts for index in part.members if index != UNUSED]
    assert sorted(members) == list(range(count))
    assert {part.length for part in parts} == {16}  # the model has no more positions
    assert all(part.rows % devices == 0 and len(part.members) <= 3 * part.rows for part in parts)
    for part in parts:
        batch = packed_batch([items[max(index, 0)] for index in part.members], part, 3, pad_id=0)
        assert batch["cls_positions"].shape == (part.rows, 3)
        assert batch["input_mask"].sum() == sum(len(items[index].input_ids) for index in part.members if index >= 0)


def test_where_it_pays() -> None:
    """Many short inputs share rows; one alone, and long ones, do not, and of slots there is no question."""

    def shapes(lengths: list[int], packing: int | None = None) -> set[tuple[int, bool]]:
        found = set()

        def compute(batch: dict[str, np.ndarray], members: list[Encoded]) -> list[int]:
            packed = "cls_positions" in batch
            found.add((batch["input_ids"].shape[1], packed))
            firsts = batch["cls_positions"] if packed else np.zeros((len(batch["input_ids"]), 1), int)
            return np.take_along_axis(batch["input_ids"], firsts, axis=1).reshape(-1)[: len(members)].tolist()

        items = [Encoded([number] * length, [0] * length) for number, length in enumerate(lengths)]
        assert list(stream(items, compute, limit=512, pad_id=0, packing=packing)) == list(range(len(lengths)))
        return found

    short = np.clip(np.random.default_rng(0).lognormal(2.4, 0.5, 300), 4, 64).astype(int).tolist()
    assert shapes(short) == {(64, True)}
    assert not any(packed for _, packed in shapes(short, 1))
    assert shapes([12]) == {(16, False)}
    assert shapes([12], PACKING) == {(64, True)}
    assert not any(packed for _, packed in shapes([500] * 5 + [380] * 4))


def test_a_packing_that_is_none() -> None:
    with pytest.raises(UsageError, match="packing is 0: expected at least 1, the most inputs in a row"):
        list(stream(items_of([3]), lambda batch, items: [0], limit=16, pad_id=0, packing=0))
