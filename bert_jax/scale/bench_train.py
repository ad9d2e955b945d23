"""`bench train`: the very step `pretrain` runs, timed: masks, dropout, both losses, clip and update."""

from __future__ import annotations

import dataclasses
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from bert_jax.bert_config import PRESETS, BertConfig
from bert_jax.config import Config, Mesh, Train
from bert_jax.config_files import check_values, load_config
from bert_jax.console import progress
from bert_jax.data.feed import make_feed
from bert_jax.data.pretraining import packing_of
from bert_jax.data.store import Store
from bert_jax.errors import UsageError, bad_usage
from bert_jax.model.flops import peak_flops, training_flops
from bert_jax.scale.bench_feed import open_bench_store
from bert_jax.scale.bench_record import device_figures, percentiles, record
from bert_jax.scale.matrix_rate import matrix_rate
from bert_jax.text.tokenizer import load_tokenizer
from bert_jax.train.masking import vocabulary_of
from bert_jax.train.program import Program, make_program
from bert_jax.train.sharding import make_mesh
from bert_jax.train.step import row_places

DEFAULT_PRESET = "mini"
_BATCHES = 4  # different ones, in turn: a step's time does not depend on which
_SUMMED = ("sequences", "real_tokens", "real_tokens_squared", "tokens", "mlm_count")


class Timing(NamedTuple):
    """What timing the step gave: seconds of the first one (compilation included) and of each counted one, processor
    seconds of this process per step, and the mean of the step's sums."""

    first_seconds: float
    seconds: list[float]
    processor_seconds: float
    sums: dict[str, float]


def bench_train(
    *,
    config: str | Config | None = None,
    store: str | None = None,
    batch: int | None = None,
    length: int | None = None,
    predictions: int | None = None,
    packing: int | None = None,
    dtype: str | None = None,
    attention: str | None = None,
    dropout: str | None = None,
    accumulation: int | None = None,
    remat: str | None = None,
    attention_dropout: float | None = None,
    mesh: str | None = None,
    steps: int = 20,
    warmup: int = 3,
    seed: int = 0,
    tokens: int = 2_000_000,
) -> dict[str, Any]:
    """Time the training step of the first phase of a CONFIG, or of a preset such as `base` (default: `mini`).

    A preset is timed with batch 32, length 128 and 20 predictions, unless told otherwise; each further argument that
    is given replaces the configuration's. With `packing` above 1 the batch is of packed rows. Data come from `store`,
    or from a synthetic store drawn from `seed`, through the same feed. Every step is timed from the previous one's end
    to its own, one step being dispatched ahead, so that neither the host nor a synchronisation is in the figures unless
    it holds the device up. `mfu` counts real tokens only, `mfu_padded` all; both null where the device's peak is not
    known, as of a CPU. Beside the step large matrices are multiplied, in the same dtype: `matrix_flops_per_second` of
    all devices, and the step's share of it, padded places counted.
    """
    overrides = {
        "batch": batch,
        "length": length,
        "predictions": predictions,
        "packing": packing,
        "dtype": dtype,
        "attention": attention,
        "dropout": dropout,
        "accumulation": accumulation,
        "remat": remat,
    }
    settings = bench_config(config, {name: value for name, value in overrides.items() if value is not None})
    if attention_dropout is not None:
        model = dataclasses.replace(settings.model, attention_probs_dropout_prob=attention_dropout)
        settings = dataclasses.replace(settings, model=model)
    if mesh is not None:
        settings = dataclasses.replace(settings, mesh=parse_mesh(mesh))
    with tempfile.TemporaryDirectory() as cache:
        size = settings.model.vocab_size or settings.data.vocab_size or 30522
        opened = open_bench_store(store, Path(cache), seed, tokens, size)
        if store is not None:
            settings = dataclasses.replace(settings, model=dataclasses.replace(settings.model, vocab_size=None))
        program = _make_program(settings, opened)
        batches = _make_batches(program, opened, Path(cache) / "plans")
        timing = time_steps(program, batches, warmup, steps)
        fingerprint = opened.fingerprint
    figures = train_figures(program, timing)
    figures |= _matrix_figures(program.mesh, figures)
    name = None if isinstance(config, Config) else config or DEFAULT_PRESET
    return record("train", **figures, store_fingerprint=fingerprint, model=name, steps=steps)


def train_figures(program: Program, timing: Timing) -> dict[str, Any]:
    """The figures of a timed program: speeds, FLOPs, and what it ran with."""
    phase, mesh, sums = program.config.phases[0], program.mesh, timing.sums
    timed = percentiles(timing.seconds)
    median = timed["step_seconds_median"]
    places = phase.predictions if phase.packing == 1 else row_places(program.config, 0)
    real = training_flops(program.config.model, sums)
    padded = training_flops(program.config.model, full_rows(sums, phase.length, places))
    peak = peak_flops(mesh.devices.flat[0].device_kind, mesh.devices.size)
    return {
        "sequences_per_second": sums["sequences"] / median,
        "rows_per_second": phase.batch / median,
        "real_tokens_per_second": sums["real_tokens"] / median,
        "mfu": None if peak is None else real / (median * peak),
        "mfu_padded": None if peak is None else padded / (median * peak),
        **timed,
        **device_figures(),
        "compile_seconds": max(0.0, timing.first_seconds - median),
        "dtype": str(program.choices["dtype"].value),
        "batch": phase.batch,
        "length": phase.length,
        "predictions": phase.predictions,
        "packing": phase.packing,
        "sequences_per_row": sums["sequences"] / phase.batch,
        "attention_engine": program.choices["attention"].value,
        "flops_per_sequence": real / sums["sequences"],
        "flops_per_sequence_padded": padded / sums["sequences"],
        "padding_share": 1 - sums["real_tokens"] / sums["tokens"],
        "step_seconds_min": min(timing.seconds),
        "step_seconds_max": max(timing.seconds),
        "processor_seconds_per_step": timing.processor_seconds,
        "mesh": {name: int(size) for name, size in mesh.shape.items()},
    }


def _matrix_figures(mesh: jax.sharding.Mesh, figures: dict[str, Any]) -> dict[str, Any]:
    """What the devices reach on nothing but matrices, and the step's share of that."""
    first = mesh.devices.flat[0]
    count = 1 if first.platform == "cpu" else mesh.devices.size  # CPU devices share the cores
    rate = count * matrix_rate(first, figures["dtype"])
    done = figures["flops_per_sequence_padded"] * figures["sequences_per_second"]
    return {"matrix_flops_per_second": rate, "matrix_share": done / rate}


def bench_config(config: str | Config | None, overrides: dict[str, Any]) -> Config:
    """The configuration to time: its first phase alone, of more steps than will be run."""
    if config is None or (isinstance(config, str) and config in PRESETS):
        train = Train(batch=32, length=128, predictions=20)
        settings = Config(model=BertConfig.preset(config or DEFAULT_PRESET), train=train)
    else:
        settings = load_config(config)
    train = dataclasses.replace(settings.train, steps=1_000_000, minutes=None, later_phases=(), **overrides)
    if "length" in overrides and "predictions" not in overrides:
        train = dataclasses.replace(train, predictions=math.ceil(train.masked_share * train.length))
    if "length" in overrides or "packing" in overrides:
        train = dataclasses.replace(train, row_predictions=None)
    settings = dataclasses.replace(settings, train=train)
    with bad_usage():
        check_values(settings)
    return settings


def parse_mesh(text: str) -> Mesh:
    """`4x1x2` as a mesh of data × fsdp × tensor. Errors: `UsageError` for anything else."""
    sizes = text.split("x")
    if len(sizes) != 3 or not all(size.isdecimal() and int(size) for size in sizes):
        raise UsageError(f"--mesh {text}: expected DATAxFSDPxTENSOR, three numbers of at least 1, such as 4x1x2")
    return Mesh(*map(int, sizes))


def _make_program(config: Config, store: Store) -> Program:
    return make_program(config, 0, make_mesh(config.mesh), vocabulary_of(load_tokenizer(store.tokenizer_path)))


def _make_batches(program: Program, store: Store, plan_dir: Path) -> list[dict[str, jax.Array]]:
    """The first batches of the run, on the device."""
    config, phase = program.config, program.config.phases[0]
    feed = make_feed(
        store,
        length=phase.length,
        seed=config.train.seed,
        objective=config.train.objective,
        short_share=config.train.short_share,
        plan_dir=plan_dir,
        packing=packing_of(phase, config.train.masked_share),
    )
    starts = range(0, _BATCHES * phase.batch, phase.batch)
    return [program.place(feed.examples(np.arange(start, start + phase.batch, dtype=np.int64))) for start in starts]


def time_steps(program: Program, batches: list[dict[str, jax.Array]], warmup: int, steps: int) -> Timing:
    """Run one step, `warmup` - 1 more (at least one), `steps` that count, and one more behind them.

    The step ahead of the one waited for keeps the device busy; where dispatching waits for the result (as on some
    CPUs), every interval still holds one step, because the last one also has another behind it.
    """
    state = program.init_state()
    start = time.perf_counter()
    state, metrics = program.train_step(state, batches[0])
    jax.block_until_ready(metrics)
    first, used = time.perf_counter() - start, time.process_time()
    total = max(2, warmup) - 1 + steps
    ends: list[float] = []
    pending: list[dict[str, jax.Array]] = []
    with progress("timing", total, "steps") as advance:
        for number in range(total + 1):
            state, metrics = program.train_step(state, batches[(number + 1) % len(batches)])
            pending.append(metrics)
            if number:
                pending[number - 1]["loss"].block_until_ready()
                ends.append(time.perf_counter())
                advance(number)
    jax.block_until_ready(state)
    used = (time.process_time() - used) / (total + 1)
    seconds = np.diff(ends)[-steps:].tolist()
    fetched = jax.device_get(pending[-steps - 1 : -1])
    sums = {name: statistics.fmean(float(row[name]) for row in fetched) for name in _SUMMED}
    return Timing(first, seconds, used, sums)


def full_rows(sums: dict[str, float], length: int, predictions: int) -> dict[str, float]:
    """The sums of the same rows if no place were padding: what the device really multiplies."""
    rows = sums["tokens"] / length
    return sums | {
        "sequences": rows,
        "real_tokens": rows * length,
        "real_tokens_squared": rows * length * length,
        "mlm_count": rows * predictions,
    }
