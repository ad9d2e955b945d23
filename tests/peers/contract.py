"""What every peer has in common: its arguments, a batch of random ids, the timing, and the JSON line it prints.

Plain numpy and standard library, because each peer runs in its own process and not all in the same environment.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

# The published shapes: layers, width, heads, feed-forward width. All have 512 positions and 30,522 entries.
MODELS = {
    "tiny": (2, 128, 2, 512),
    "mini": (4, 256, 4, 1024),
    "base": (12, 768, 12, 3072),
    "large": (24, 1024, 16, 4096),
}
VOCABULARY = 30522
POSITIONS = 512


def train_arguments(description: str) -> argparse.ArgumentParser:
    """The arguments of a training peer."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", choices=MODELS, default="mini")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--predictions", type=int, default=20)
    parser.add_argument("--steps", type=int, default=5, help="measured steps")
    parser.add_argument("--warmup", type=int, default=2, help="steps before the measured ones")
    return parser


def random_batch(batch: int, length: int, predictions: int) -> dict[str, np.ndarray]:
    """A masked batch of full-length rows, in google's names; every prediction counts."""
    random = np.random.default_rng(0)
    positions = np.sort(np.argsort(random.random((batch, length - 2)), axis=1)[:, :predictions] + 1, axis=1)
    segments = np.zeros((batch, length), np.int32)
    segments[:, length // 2 :] = 1
    return {
        "input_ids": random.integers(1000, VOCABULARY, (batch, length), dtype=np.int32),
        "input_mask": np.ones((batch, length), np.int32),
        "segment_ids": segments,
        "masked_lm_positions": positions.astype(np.int32),
        "masked_lm_ids": random.integers(1000, VOCABULARY, (batch, predictions), dtype=np.int32),
        "masked_lm_weights": np.ones((batch, predictions), np.float32),
        "next_sentence_labels": random.integers(0, 2, batch, dtype=np.int32),
    }


def train_flops(model: str, length: int, head_positions: int) -> int:
    """FLOPs of one training sequence: 3 x forward, multiplications and additions, head at `head_positions`.

    Per layer 2 T (4 D^2 + 2 D F) for the matrices and 4 T^2 D for the attention; head 2 M (D^2 + D V); pooler 2 D^2.
    """
    layers, width, _, feed_forward = MODELS[model]
    layer = 2 * length * (4 * width**2 + 2 * width * feed_forward) + 4 * length**2 * width
    head = 2 * head_positions * (width**2 + width * VOCABULARY) + 2 * width**2 + 4 * width
    return 3 * (layers * layer + head)


class Timing(NamedTuple):
    """Seconds of the first call (compilation included), of each counted call, processor seconds per counted call."""

    first_seconds: float
    seconds: list[float]
    processor_seconds: float


def time_steps(step: Callable[[], Any], warmup: int, steps: int) -> Timing:
    """Time `steps` calls after `warmup` calls; `step` returns only when its result is there."""
    start = time.perf_counter()
    step()
    first = time.perf_counter() - start
    for _ in range(warmup - 1):
        step()
    seconds = []
    used = time.process_time()
    for _ in range(steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return Timing(first, seconds, (time.process_time() - used) / steps)


def train_record(peer: str, arguments: argparse.Namespace, timing: Timing, flops: int) -> dict[str, Any]:
    """The keys of `bert-jax bench train`; `mfu` is null because a CPU's peak is unknown."""
    median = statistics.median(timing.seconds)
    ordered = sorted(timing.seconds)

    def percentile(share: float) -> float:
        return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]

    return {
        "peer": peer,
        "model": arguments.model,
        "batch": arguments.batch,
        "length": arguments.length,
        "predictions": arguments.predictions,
        "step_seconds_median": median,
        "seconds_p50": percentile(0.5),
        "seconds_p90": percentile(0.9),
        "seconds_p99": percentile(0.99),
        "sequences_per_second": arguments.batch / median,
        "real_tokens_per_second": arguments.batch * arguments.length / median,
        "mfu": None,
        "flops_per_sequence": flops,
        "compile_seconds": max(0.0, timing.first_seconds - median),
        "processor_seconds_per_step": timing.processor_seconds,
        "dtype": "float32",
        "device_kind": "cpu",
        "devices": 1,
    }


def tokenize_record(peer: str, megabytes: float, cold_seconds: float, warm_seconds: float, tokens: int) -> dict:
    """The keys of `bert-jax bench tokenize` that a peer can give; MB are 10^6 bytes of UTF-8."""
    return {
        "peer": peer,
        "megabytes": megabytes,
        "tokens": tokens,
        "megabytes_per_second_cold": megabytes / cold_seconds,
        "megabytes_per_second_warm": megabytes / warm_seconds,
    }


def versions(*packages: str) -> dict[str, str]:
    """Installed versions of the named packages, and Python's."""
    return {"python": sys.version.split()[0]} | {name: importlib.metadata.version(name) for name in packages}


def answer(record: dict, *packages: str) -> None:
    """Print the one line of JSON that `peers.py` reads."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(record | {"peak_bytes": peak, "versions": versions(*packages), "cores": os.cpu_count()}))
