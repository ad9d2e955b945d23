"""`bench`: one workload, measured; the workloads themselves lie in `bench_*.py`."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from bert_jax.arguments import require_at_least
from bert_jax.errors import UsageError


class Workload(NamedTuple):
    """Where a workload's function lies (imported when asked for: some need no device, some no text)."""

    module: str
    function: str


WORKLOADS = {
    "train": Workload("bert_jax.scale.bench_train", "bench_train"),
    "feed": Workload("bert_jax.scale.bench_feed", "bench_feed"),
    "prepare": Workload("bert_jax.scale.bench_prepare", "bench_prepare"),
    "tokenize": Workload("bert_jax.scale.bench_tokenize", "bench_tokenize"),
    "predict": Workload("bert_jax.scale.bench_predict", "bench_predict"),
}


def bench(what: str, config: str | None = None, **options: Any) -> dict[str, Any]:
    """Measure `what` (train, feed, prepare, tokenize or predict); `config` is a CONFIG for train, a MODEL for predict.

    `options` that are None or empty are left at the workload's default. Returns the keys of `bench_record.KEYS` and
    what is particular to the workload. Errors: `UsageError` for an unknown workload or an option it does not have.
    """
    if what not in WORKLOADS:
        raise UsageError(f"no benchmark {what!r}: expected one of {', '.join(WORKLOADS)}")
    function = _function(WORKLOADS[what])
    given = {name: value for name, value in {"config": config, **options}.items() if value not in (None, (), [])}
    known = inspect.signature(function).parameters
    for name in given:
        if name not in known:
            spelt = ", ".join(f"--{key.replace('_', '-')}" for key in known if key != "config")
            raise UsageError(f"bench {what} has no option --{name.replace('_', '-')}: it has {spelt}")
    counts = ("length", "batch", "predictions", "packing", "accumulation", "steps", "workers", "tokens", "repeats")
    require_at_least(1, **{name: given.get(name) for name in counts})
    require_at_least(0, warmup=given.get("warmup"), seed=given.get("seed"))
    require_at_least(0.001, megabytes=given.get("megabytes"))
    return function(**given)


def _function(workload: Workload) -> Callable[..., dict[str, Any]]:
    return getattr(importlib.import_module(workload.module), workload.function)
