"""Seconds and memory to load a MODEL: `python import_cost.py MODEL` prints them as JSON, measured in this process."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path


def peak_bytes() -> int:
    """Most memory of this process; `getrusage` alone would count what its parent held when it started this one."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(spec: str) -> None:
    started = time.perf_counter()
    import jax

    from bert_jax.formats.model import load_model

    model = load_model(spec)
    bytes_of_model = sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))
    peak = peak_bytes()
    print(
        json.dumps(
            {
                "seconds": round(time.perf_counter() - started, 2),
                "model_bytes": bytes_of_model,
                "peak_bytes": peak,
                "ratio": round(peak / bytes_of_model, 2),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1])
