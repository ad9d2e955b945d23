"""`bert-jax` that writes down what each step is trained on: python recording_worker.py FILE COMMAND ARGUMENTS...

Each process adds to FILE.PROCESS a line of JSON per train step: the step, and the epochs and example ids of the rows
that its own devices hold, by the row they begin at. With STOP_AT=N in the environment it asks itself to stop at step N.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bert_jax import cli
from bert_jax.train.program import Program


def main() -> int:
    path, stop_at = Path(sys.argv[1]), int(os.environ.get("STOP_AT", "-1"))
    train_step = Program.train_step

    def recording(program: Program, state: Any, batch: Mapping[str, jax.Array]) -> Any:
        step = int(state.step)
        rows = {
            int(shard.index[0].start or 0): [np.asarray(shard.data).tolist(), np.asarray(epochs.data).tolist()]
            for shard, epochs in zip(
                batch["example_ids"].addressable_shards, batch["epochs"].addressable_shards, strict=True
            )
        }
        with open(f"{path}.{jax.process_index()}", "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "rows": rows}) + "\n")
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        if 0 <= stop_at <= step and jax.process_count() > 1:
            time.sleep(0.3)  # the others are told of it within a second
        return train_step(program, state, batch)

    Program.train_step = recording  # type: ignore[method-assign]
    return cli.main(sys.argv[2:])


def recorded(path: Path) -> dict[int, list[tuple[int, int]]]:
    """By step, (epoch, example id) of all its rows in their order, put together from all processes."""
    parts: dict[int, dict[int, list[tuple[int, int]]]] = {}
    for file in sorted(path.parent.glob(f"{path.name}.*")):
        for line in file.read_text().splitlines():
            found = json.loads(line)
            rows = {int(first): list(zip(epochs, ids, strict=True)) for first, (ids, epochs) in found["rows"].items()}
            known = parts.setdefault(found["step"], {})
            for first, pairs in rows.items():  # the same rows on several devices are the same rows
                if known.setdefault(first, pairs) != pairs:
                    raise AssertionError(f"step {found['step']}: other rows from {first} on")
    return {step: [pair for first in sorted(rows) for pair in rows[first]] for step, rows in sorted(parts.items())}


if __name__ == "__main__":
    sys.exit(main())
