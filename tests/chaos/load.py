"""Many predictions and many steps in one process: is the memory flat, and does nothing compile again?

    python tests/chaos/load.py predictions --count 1000
    python tests/chaos/load.py predictions --count 1000 --model all-MiniLM-L6-v2
    python tests/chaos/load.py steps --count 20000

predictions: one request after the other, texts of random length; without --model by a model of one layer drawn from a
seed. steps: a training whose steps cost a millisecond, with its metrics, evaluations and checkpoints. Memory is the
process's resident set, read after a quarter and at the end.

Ends with one JSON object on stdout: `growth` is the end by the quarter, less 1; `compilations`, and for predictions
`buckets`, the lengths in use. Exit 1 when memory grew by more than 5 %, or more was compiled than there are buckets.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax

COMPILED = "/jax/core/compile/backend_compile_duration"


class Memory:
    """Resident bytes of this process at a quarter of the way and at the end."""

    def __init__(self, count: int):
        self._count, self._early = count, 0

    def at(self, done: int) -> None:
        """Told how far it is."""
        if done == self._count // 4:
            self._early = self._now()

    @staticmethod
    def _now() -> int:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    def result(self) -> dict[str, Any]:
        """Both, and the growth between them."""
        last = self._now()
        return {"bytes_at_a_quarter": self._early, "bytes_at_the_end": last, "growth": last / self._early - 1}


def predictions(count: int, model: str | None, draw: random.Random) -> dict[str, Any]:
    """`count` texts of random length, each a request of its own."""
    from small_models import WORDS, small_bert

    from bert_jax.infer.batching import length_buckets
    from bert_jax.infer.loaded import load

    bert = small_bert() if model is None else load(model)
    compiled: list[str] = []
    limit = bert.config.max_position_embeddings
    bert.embed("the cat")  # what is compiled once for whatever comes, such as constants
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: compiled.append(event))
    memory = Memory(count)
    for number in range(1, count + 1):
        words = draw.choices(WORDS[:15], k=draw.randint(1, min(limit - 2, 200)))
        bert.embed(" ".join(words))
        memory.at(number)
    return {"compilations": compiled.count(COMPILED), "buckets": len(length_buckets(limit)), **memory.result()}


def steps(count: int) -> dict[str, Any]:
    """`count` steps of a tiny training."""
    from tiny_training import TinyFeed, run_tiny, tiny_config

    from bert_jax.config import Checkpoint, Evaluate, Log

    memory, compiled = Memory(count), []  # type: ignore[var-annotated]
    every = count // 20
    config = tiny_config(
        count,
        log=Log(every=10, tensorboard=True),
        checkpoint=Checkpoint(every=every, keep=2),
        evaluate=Evaluate(every=every, sequences=20),
    )
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: compiled.append(event))
    at_a_tenth: list[int] = []

    def on_metrics(line: dict[str, Any]) -> None:
        memory.at(line["step"])
        if line["step"] == count // 10:
            at_a_tenth.append(compiled.count(COMPILED))

    with tempfile.TemporaryDirectory() as folder:
        run_tiny(Path(folder) / "run", config, TinyFeed(config), on_metrics=on_metrics)
        return {"compilations": compiled.count(COMPILED) - at_a_tenth[-1], "buckets": 0, **memory.result()}


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("what", choices=("predictions", "steps"))
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--model", help="for predictions: a MODEL")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    begun = time.monotonic()
    if given.what == "predictions":
        found = predictions(given.count, given.model, random.Random(given.seed))
    else:
        found = steps(given.count)
    seconds = round(time.monotonic() - begun, 1)
    print(json.dumps({"schema": 1, "what": given.what, "count": given.count, "seconds": seconds, **found}))
    return 0 if abs(found["growth"]) <= 0.05 and found["compilations"] <= found["buckets"] else 1


if __name__ == "__main__":
    sys.exit(main())
