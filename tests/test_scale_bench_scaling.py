"""What each device sends stays flat as devices become more, and is that of the program compiled for them."""

from __future__ import annotations

import dataclasses

import pytest
from small_models import small_config

from bert_jax.config import Config, Mesh, Train
from bert_jax.errors import BertJaxError, UsageError
from bert_jax.scale import bench_scaling
from bert_jax.scale.bench import bench
from bert_jax.scale.bench_table import markdown

MODEL = dataclasses.replace(small_config(positions=16), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
CONFIG = Config(model=MODEL, train=Train(length=16, batch=64, predictions=3, steps=5))
TABLE = 4 * MODEL.known_vocab_size * MODEL.hidden_size


@pytest.mark.parametrize("counts", [(1, 2), pytest.param((1, 2, 4, 8), marks=pytest.mark.ci)])
def test_what_a_device_sends_stays_flat(counts: tuple[int, ...]) -> None:
    found = bench("scaling", CONFIG, batch=2, devices=counts[-1])  # type: ignore[arg-type]
    assert [(row["devices"], row["batch"], row["mesh"]["data"]) for row in found["rows"]] == [
        (count, 2 * count, count) for count in counts
    ]
    alone, *several = found["rows"]
    assert (alone["collective_bytes"], alone["sent_bytes"]) == ({}, 0)
    # Around a ring of n devices an all-reduce of S bytes sends 2 S (n - 1) / n: S is the same, so nothing passes 2 S.
    summed = [row["sent_bytes"] / (2 * (row["devices"] - 1) / row["devices"]) for row in several]
    assert summed == pytest.approx([summed[0]] * len(several), rel=1e-6)
    for row in several:
        assert row["collective_bytes"] == {"all-reduce": {"data": row["sent_bytes"]}}
        # The gradients once (and the counts behind the losses); XLA on a CPU sums both uses of the word table apart.
        assert row["parameter_bytes"] < summed[0] < row["parameter_bytes"] + TABLE + 100
    assert {row["parameter_bytes"] for row in found["rows"]} == {alone["parameter_bytes"]}


@pytest.mark.ci  # two more programs
def test_parameters_shared_along_fsdp_are_gathered_there() -> None:
    one, two = (bench_scaling.scaling_row(CONFIG, Mesh(data, 2, 1), 2) for data in (1, 2))
    assert {"all-gather", "all-reduce"} <= set(one["collective_bytes"]) | set(two["collective_bytes"])
    assert one["collective_bytes"]["all-gather"] == two["collective_bytes"]["all-gather"]
    assert set(one["collective_bytes"]["all-gather"]) == {"fsdp"}
    assert (one["batch"], two["batch"]) == (4, 8)


def test_a_line_for_each_number_of_devices() -> None:
    row = {"devices": 4, "mesh": {"data": 2, "fsdp": 2, "tensor": 1}, "batch": 1024, "parameter_bytes": 2_000_000}
    kinds = {"all-gather": {"fsdp": 1_500_000.0}, "all-reduce": {"data": 2_500_000.0}}
    row |= {"collective_bytes": kinds, "sent_bytes": 4_000_000.0}
    titles, line = bench_scaling.report([row])
    assert titles.split("  ")[0] == "devices" and titles.endswith("by kind")
    assert line.endswith("  all-gather over fsdp 1.5 MB, all-reduce over data 2.5 MB")
    assert markdown([row]) == "| batch | MB sent by each | devices |\n| --- | --- | --- |\n| 1024 | 4.00 | 4 |\n"
    assert "2 x 2 x 1" in line and "1,024" in line and "4.0 MB" in line and "2.00 times" in line


def test_meshes_double_along_data() -> None:
    assert bench_scaling._meshes(Mesh(1, 1, 1), 6) == [Mesh(1, 1, 1), Mesh(2, 1, 1), Mesh(4, 1, 1)]
    assert bench_scaling._meshes(Mesh(1, 2, 2), 8) == [Mesh(1, 2, 2), Mesh(2, 2, 2)]


def test_mistakes_are_said_before_anything_is_compiled() -> None:
    with pytest.raises(
        UsageError, match=r"--devices 2: the smallest mesh has 4; give more devices or a smaller --mesh"
    ):
        bench("scaling", devices=2, mesh="1x2x2")
    with pytest.raises(UsageError, match=r"--devices 0: expected at least 1"):
        bench("scaling", devices=0)
    with pytest.raises(BertJaxError, match=r"the batch of phase 0 is 2: expected a multiple of 4"):
        bench("scaling", "tiny", batch=2, accumulation=4, devices=1)
    with pytest.raises(UsageError, match=r"bench scaling has no option --steps"):
        bench("scaling", steps=3)
