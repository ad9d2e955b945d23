"""What every benchmark answers with: the same keys, the machine, the versions, and medians."""

from __future__ import annotations

import contextlib
import importlib.metadata
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax.data.pool import available_cores
from bert_jax.train import run

KEYS = (
    "sequences_per_second",
    "real_tokens_per_second",
    "mfu",
    "step_seconds_median",
    "seconds_p50",
    "seconds_p90",
    "seconds_p99",
    "compile_seconds",
    "peak_bytes",
    "device_kind",
    "devices",
    "dtype",
    "batch",
    "length",
    "attention_engine",
    "flops_per_sequence",
    "versions",
    "commit",
    "store_fingerprint",
)
_FURTHER_PACKAGES = ("tensorflow", "tensorflow-cpu", "sentencepiece", "libtpu")


def record(workload: str, **figures: Any) -> dict[str, Any]:
    """The JSON object of one benchmark: all of `KEYS` (null where they do not apply), then what is particular to it."""
    return {"bench": workload} | dict.fromkeys(KEYS) | machine() | figures


def machine() -> dict[str, Any]:
    """What every record says of where it was made: `versions commit cores`."""
    return {"versions": versions(), "commit": commit(), "cores": available_cores()}


def versions() -> dict[str, str]:
    """Versions of Python, this package and the packages that decide speed."""
    found = run.versions()
    for name in _FURTHER_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def commit() -> str | None:
    """The commit of the checkout this package runs from (`-dirty` with changes), None when it is installed."""
    root = Path(__file__).resolve().parent.parent.parent
    if not (root / ".git").exists() or not (root / "pyproject.toml").is_file():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """`seconds_p50 seconds_p90 seconds_p99` and `step_seconds_median`, by linear interpolation."""
    p50, p90, p99 = (float(value) for value in np.percentile(seconds, (50, 90, 99)))
    return {"step_seconds_median": p50, "seconds_p50": p50, "seconds_p90": p90, "seconds_p99": p99}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest of repeated figures."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "repeats": len(values)}


def process_peak_bytes(children: bool = False) -> int:
    """Peak resident memory of this process, or of the largest of its ended children, in bytes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF)
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def device_figures() -> dict[str, Any]:
    """`device_kind devices peak_bytes peak_of`: the fullest device's peak, this process's where devices do not say."""
    import jax

    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    known = [peak for peak in peaks if peak]
    return {
        "device_kind": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "peak_bytes": max(known) if known else process_peak_bytes(),
        "peak_of": "device" if known else "process",
    }
