"""`bench prepare`: text → token store, end to end, on all cores."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bert_jax.data.pool import available_cores
from bert_jax.data.prepare import prepare
from bert_jax.data.store import load_store
from bert_jax.scale.bench_record import process_peak_bytes, record
from bert_jax.scale.bench_tokenize import sources_or_synthetic, tokenizer_directory


def bench_prepare(
    *,
    source: Iterable[str] = (),
    tokenizer: str | None = None,
    workers: int | None = None,
    repeats: int = 1,
) -> dict[str, Any]:
    """MB/s from source text to a finished store (reading, sentences, ids, statistics, checksums), and peak memory.

    MB are 10^6 bytes of the documents' text in UTF-8, as the summary of `prepare` counts them. `peak_bytes` is the
    resident memory of the largest process, the owner or a worker. Without `source` the text is drawn from a seed;
    without `tokenizer` a vocabulary is made from it first, outside the clock.
    """
    seconds = []
    with tempfile.TemporaryDirectory() as cache:
        sources = sources_or_synthetic(source, Path(cache))
        directory = tokenizer_directory(tokenizer, sources, Path(cache))
        for number in range(repeats):
            out = Path(cache) / f"store-{number}"
            start = time.perf_counter()
            summary = prepare(list(sources), directory, out, workers=workers)
            seconds.append(time.perf_counter() - start)
        fingerprint = load_store(out).fingerprint
    megabytes = summary["bytes"] / 1e6
    median = statistics.median(seconds)
    owner, worker = process_peak_bytes(), process_peak_bytes(children=True)
    return record(
        "prepare",
        device_kind="cpu",
        peak_bytes=max(owner, worker),
        peak_of="process",
        store_fingerprint=fingerprint,
        megabytes=megabytes,
        seconds=median,
        megabytes_per_second=megabytes / median,
        peak_bytes_owner=owner,
        peak_bytes_worker=worker,
        workers=workers or available_cores(),
        documents=summary["documents"],
        tokens=summary["tokens"],
        repeats=repeats,
        source=list(source) or ["synthetic"],
    )
