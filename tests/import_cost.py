"""Seconds and memory to load a MODEL, by itself, for predictions, or to convert it, measured in this process:

python import_cost.py load_model|load|convert MODEL [OUT]
"""

from __future__ import annotations

import json
import math
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


def resident_bytes() -> int:
    """Memory of this process now, where the system tells; else the most it ever had."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return peak_bytes()


def main(what: str, spec: str, *out: str) -> None:
    started = time.perf_counter()
    import jax

    import bert_jax
    from bert_jax.formats.model import load_model

    verb = {"load_model": load_model, "load": bert_jax.load, "convert": bert_jax.convert}[what]
    made = verb(spec, *out)  # type: ignore[operator]
    seconds, peak, after = time.perf_counter() - started, peak_bytes(), resident_bytes()
    if what == "convert":
        from safetensors import safe_open

        with safe_open(Path(out[0]) / "model.safetensors", framework="np") as file:
            size = sum(4 * math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    else:
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(made.params))
    cost = {"seconds": round(seconds, 2), "model_bytes": size, "peak_bytes": peak, "ratio": round(peak / size, 2)}
    print(json.dumps(cost | {"resident_bytes": after}))


if __name__ == "__main__":
    main(*sys.argv[1:])
