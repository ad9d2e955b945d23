"""`bench feed`: how fast examples come, what a plan costs, and how soon a resumed run has its first batch."""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax.console import log
from bert_jax.data.drivers import batches
from bert_jax.data.feed import make_feed
from bert_jax.data.packed_feed import Packing
from bert_jax.data.packed_plan import PackedKey, example_lengths
from bert_jax.data.packing import plan_rows
from bert_jax.data.pairs import Walk
from bert_jax.data.plan import PlanKey, load_plan, open_plan
from bert_jax.data.store import Store, load_store
from bert_jax.data.synthetic import make_synthetic_store
from bert_jax.scale.bench_record import process_peak_bytes, record, spread

RESUME_STEP = 1_000_000
_LENGTHS = (128, 512)
_ROUND_SEQUENCES = 1 << 15
_PACKING = 4


def open_bench_store(store: str | None, cache: Path, seed: int, tokens: int, vocab_size: int = 30522) -> Store:
    """The store asked for, or a synthetic one drawn from `seed` under `cache`, equal on every machine."""
    if store is not None:
        return load_store(store)
    log(f"drawing a synthetic store of {tokens:,} tokens; --store PATH names a real one instead")
    return make_synthetic_store(cache / "store", seed, tokens, vocab_size)


def bench_feed(
    *,
    store: str | None = None,
    length: int | None = None,
    batch: int = 256,
    packing: int = _PACKING,
    driver: str | None = None,
    repeats: int = 5,
    seed: int = 0,
    tokens: int = 20_000_000,
) -> dict[str, Any]:
    """Sequences/s of real pairs with truncation and word starts, for lengths 128 and 512 and both drivers.

    `rows` has one entry per (length, driver, one sequence per row or up to `packing`): `sequences_per_second` (the
    median of `repeats`), its spread, `real_token_share` of the places, and `cores_used` (processor seconds per second,
    tf.data's among them); and per length what its plan costs (`plan_seconds_per_million`, and on top of it
    `packing_seconds_per_million`) and the seconds to the first batch of step 1,000,000 with the plan on disk and
    without (`resume_seconds`, `resume_seconds_without_plan`). The head of the answer repeats the first entry.
    """
    lengths = _LENGTHS if length is None else (length,)
    both = ("thread", "tf") if importlib.util.find_spec("tensorflow") is not None else ("thread",)
    drivers = both if driver is None else (driver,)
    rows: list[dict[str, Any]] = []
    plans: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as cache:
        opened = open_bench_store(store, Path(cache), seed, tokens)
        for wanted in lengths:
            folder = Path(cache) / f"plans-{wanted}"
            plans.append(measure_plan(opened, wanted, batch, seed, folder))
            plans[-1] |= measure_packing(opened, wanted, packing, seed, folder)
            for kind in drivers:
                for most in sorted({1, packing}):
                    rows.append(_measure_driver(opened, wanted, batch, seed, folder, kind, most, repeats))
        first = rows[0]
        return record(
            "feed",
            sequences_per_second=first["sequences_per_second"],
            real_tokens_per_second=first["real_tokens_per_second"],
            device_kind="cpu",
            peak_bytes=process_peak_bytes(),
            peak_of="process",
            batch=batch,
            length=first["length"],
            store_fingerprint=opened.fingerprint,
            driver=first["driver"],
            real_token_share=first["real_token_share"],
            rows=rows,
            plans=plans,
        )


def measure_plan(store: Store, length: int, batch: int, seed: int, folder: Path) -> dict[str, Any]:
    """Seconds to make one plan, and to the first batch of step 1,000,000 without and with what is then on disk."""
    start = time.perf_counter()
    plan = load_plan(store, "train", length=length, seed=seed + 1, variant=0, cache_dir=folder)
    seconds = time.perf_counter() - start
    without = _first_batch_seconds(store, length, batch, seed, folder)
    found = [_first_batch_seconds(store, length, batch, seed, folder) for _ in range(3)]
    return {
        "length": length,
        "plan_rows": len(plan.rows),
        "plan_seconds": seconds,
        "plan_seconds_per_million": seconds / max(1, len(plan.rows)) * 1e6,
        "resume_step": RESUME_STEP,
        "resume_seconds": statistics.median(found),
        "resume_seconds_without_plan": without,
    }


def measure_packing(store: Store, length: int, packing: int, seed: int, folder: Path) -> dict[str, Any]:
    """The share of real tokens that the examples of the plan that `measure_plan` made come to, and what packing costs.

    That hardly depends on how many examples there are below a million, so a million of the same lengths are packed.
    """
    key = PlanKey(store, "train", Walk(length), seed + 1, 0, folder)
    plan = open_plan(key)
    rows, sums = PackedKey(key, packing).open()
    lengths = np.resize(example_lengths(plan.rows), 1_000_000)
    start = time.perf_counter()
    plan_rows(lengths, length, packing, (seed,))
    seconds = time.perf_counter() - start
    return {
        "packing": packing,
        "packed_rows": len(rows),
        "packing_seconds_per_million": seconds,
        "real_token_share": sums["tokens"] / max(1, len(rows)) / length,
        "real_token_share_unpacked": plan.summary["tokens"] / max(1, len(plan.rows)) / length,
    }


def _first_batch_seconds(store: Store, length: int, batch: int, seed: int, folder: Path) -> float:
    """From a store that has just been opened to the batch of step 1,000,000."""
    start = time.perf_counter()
    feed = make_feed(load_store(store.path), length=length, seed=seed, plan_dir=folder)
    with batches(feed, RESUME_STEP, 1, batch, driver="thread") as source:
        next(source)
    return time.perf_counter() - start


def _measure_driver(
    store: Store, length: int, batch: int, seed: int, folder: Path, driver: str, packing: int, repeats: int
) -> dict[str, Any]:
    """One driver at one length, after a round that is not counted."""
    feed = make_feed(store, length=length, seed=seed, plan_dir=folder, packing=Packing(packing))
    steps = max(1, _ROUND_SEQUENCES // batch)
    rates: list[float] = []
    cores: list[float] = []
    tokens = sequences = 0
    with batches(feed, 0, None, batch, driver=driver) as source:
        for _ in range(steps):
            made = next(source)
            tokens += int(np.count_nonzero(made["input_mask"]))
            sequences += int(made["sequence_ids"].max(axis=1).sum()) if packing > 1 else batch
        for _ in range(repeats):
            start, used = time.perf_counter(), time.process_time()
            for _ in range(steps):
                next(source)
            seconds = time.perf_counter() - start
            rates.append(sequences / seconds)
            cores.append((time.process_time() - used) / seconds)
    figures = spread(rates)
    return {
        "length": length,
        "driver": driver,
        "batch": batch,
        "packing": packing,
        "real_token_share": tokens / (steps * batch * length),
        "sequences_per_second": figures["median"],
        "real_tokens_per_second": figures["median"] * tokens / sequences,
        "cores_used": statistics.median(cores),
        "spread": figures,
    }
