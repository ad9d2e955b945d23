"""train.memory: how many microbatches a ceiling on the rows of a chip means, from the memory of a chip or given."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from tiny_training import VOCABULARY, examples, tiny_config

from bert_jax import BertConfig, BertJaxError, Config, Mesh, Train
from bert_jax.config_files import check_values, override
from bert_jax.train import memory
from bert_jax.train.masking import Vocabulary
from bert_jax.train.memory import accumulated, evaluation_batch, resolve_accumulation, rows_ceiling
from bert_jax.train.program import make_program
from bert_jax.train.sharding import make_mesh


def config(batch: int = 48, **train: Any) -> Config:
    return Config(model=BertConfig(vocab_size=1000), train=Train(batch=batch, steps=1, **train))


@pytest.mark.parametrize(
    ("batch", "chips", "ceiling", "least", "expected"),
    [
        (48, 8, None, 1, 1),
        (48, 8, 6, 1, 1),  # six rows on each chip, and six may lie there
        (48, 2, 6, 1, 4),  # twenty-four
        (48, 1, 6, 1, 8),
        (48, 2, 5, 1, 6),  # five does not divide: four at once
        (48, 2, 1, 1, 24),
        (14, 2, 3, 1, 7),  # a prime number of rows: one by one
        (48, 8, 6, 3, 3),  # train.accumulation is the least
        (48, 2, 6, 2, 4),
    ],
)
def test_the_smallest_number_that_keeps_to_the_ceiling(
    batch: int, chips: int, ceiling: int | None, least: int, expected: int
) -> None:
    settings = config(batch, sequences_per_chip=ceiling, accumulation=least)
    found = resolve_accumulation(settings, 0, {"data": chips, "fsdp": 1, "tensor": 1}, "float32", None)
    assert found.value == expected
    if ceiling is not None:
        rows = batch // chips
        assert found.reason == (
            f"{rows} rows per chip, {rows // expected} at once; train.sequences_per_chip {ceiling}, as configured"
        )


def test_auto_takes_what_the_memory_holds() -> None:
    """BERT-base in 16 GB: some tens of sequences of 512; on more chips of the same kind as many at once."""
    settings = Config(
        model=BertConfig(vocab_size=30522),
        train=Train(batch=2048, length=512, predictions=77, steps=1, sequences_per_chip="auto"),
    )
    mesh = {"data": 8, "fsdp": 1, "tensor": 1}
    ceiling = rows_ceiling(settings, settings.phases[0], mesh, "bfloat16", 16 * 10**9)
    assert ceiling is not None and 4 <= ceiling <= 64
    few = resolve_accumulation(settings, 0, mesh, "bfloat16", 16 * 10**9)
    many = resolve_accumulation(settings, 0, {**mesh, "data": 64}, "bfloat16", 16 * 10**9)
    assert 256 // few.value <= ceiling < 256 // few.value * 2 or few.value == 256
    assert many.value < few.value
    assert "auto" in few.reason
    unknown = resolve_accumulation(settings, 0, mesh, "bfloat16", None)
    assert (unknown.value, "does not say how much memory" in unknown.reason) == (1, True)
    assert rows_ceiling(settings, settings.phases[0], mesh, "bfloat16", 10**8) == 1  # too small for the state alone


def test_the_memory_is_that_of_the_smallest_device(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = make_mesh(Mesh(), jax.devices())
    settings = config(sequences_per_chip="auto")
    assert memory.device_memory(settings, mesh) is None  # a CPU does not say

    class Device:
        process_index, platform = 0, "tpu"

        def __init__(self, limit: int) -> None:
            self.limit = limit

        def memory_stats(self) -> dict[str, int]:
            return {"bytes_limit": self.limit}

    class Chips:
        devices = np.array([Device(7), Device(5)])

    assert memory.device_memory(settings, Chips()) == 5  # type: ignore[arg-type]
    assert memory.device_memory(config(), Chips()) is None  # type: ignore[arg-type]


def test_values() -> None:
    assert override(config(), ["--train.sequences-per-chip", "auto"]).train.sequences_per_chip == "auto"
    assert override(config(), ["--train.sequences-per-chip", "4"]).train.sequences_per_chip == 4
    assert (
        override(config(sequences_per_chip=4), ["--train.sequences-per-chip", "None"]).train.sequences_per_chip is None
    )
    for wrong in (0, -1, "all", 2.5):
        with pytest.raises(BertJaxError, match="sequences_per_chip"):
            check_values(config(sequences_per_chip=wrong))


def test_evaluation_keeps_to_it_too() -> None:
    mesh = make_mesh(Mesh(), jax.devices()[:2])
    settings = config(sequences_per_chip=3)
    assert evaluation_batch(settings, settings.phases[0], mesh, 48) == 6
    assert evaluation_batch(settings, settings.phases[0], mesh, 4) == 4
    assert evaluation_batch(config(), config().phases[0], mesh, 48) == 48


def test_a_program_takes_them_and_says_so() -> None:
    settings = tiny_config(4)
    settings = dataclasses.replace(settings, train=dataclasses.replace(settings.train, sequences_per_chip=2))
    vocabulary = Vocabulary(VOCABULARY, 4, (0, 1, 2, 3, 4))
    losses = []
    for chips, expected in ((4, 1), (2, 2), (1, 4)):
        program = make_program(settings, 0, make_mesh(settings.mesh, jax.devices()[:chips]), vocabulary)
        assert program.choices["accumulation"].value == program.config.train.accumulation == expected
        _, metrics = program.train_step(program.init_state(), program.place(_batch()))
        losses.append(float(metrics["loss"]))
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)
    plain = make_program(tiny_config(4), 0, make_mesh(settings.mesh, jax.devices()[:1]), vocabulary)
    assert "accumulation" not in plain.choices
    assert accumulated(tiny_config(4), 0, plain.mesh)[0].train == tiny_config(4).train


def _batch() -> dict[str, np.ndarray]:
    batch = examples(0)
    del batch["poison"]
    return batch
