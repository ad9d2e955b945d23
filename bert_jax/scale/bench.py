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
    "suite": Workload("bert_jax.scale.bench_suite", "bench_suite"),
    "sweep": Workload("bert_jax.scale.bench_sweep", "bench_sweep"),
    "scaling": Workload("bert_jax.scale.bench_scaling", "bench_scaling"),
    "table": Workload("bert_jax.scale.bench_table", "bench_table"),
}
_COUNTS = (
    *("length", "batch", "predictions", "packing", "accumulation"),
    *("steps", "workers", "tokens", "repeats", "devices"),
)


def bench(what: str, *names: str, **options: Any) -> dict[str, Any]:
    """Measure `what` (a key of `WORKLOADS`); `names`: a CONFIG for train, sweep and scaling, a MODEL for predict.

    "table" measures nothing: it prints the records in the files that are named.

    `options` that are None or empty are left at the workload's default. Returns the keys of `bench_record.KEYS` and
    what is particular to the workload. Errors: `UsageError` for an unknown workload or an option it does not have.
    """
    if what not in WORKLOADS:
        raise UsageError(f"no benchmark {what!r}: expected one of {', '.join(WORKLOADS)}")
    function = _function(WORKLOADS[what])
    given = {name: value for name, value in options.items() if value not in (None, (), [])}
    known = inspect.signature(function).parameters
    takes = "files" if "files" in known else "config"
    if names and (takes not in known or (takes == "config" and len(names) > 1)):
        raise UsageError(
            f"bench {what} has no use for {names[-1]!r}: it takes {'one name' if takes in known else 'none'}"
        )
    if names:
        given[takes] = list(names) if takes == "files" else names[0]
    for name in given:
        if name not in known:
            spelt = ", ".join(f"--{key.replace('_', '-')}" for key in known if key not in ("config", "files"))
            raise UsageError(f"bench {what} has no option --{name.replace('_', '-')}: it has {spelt}")
    require_at_least(1, **{name: given.get(name) for name in _COUNTS})
    require_at_least(0, warmup=given.get("warmup"), seed=given.get("seed"))
    require_at_least(0.001, megabytes=given.get("megabytes"))
    return function(**given)


def _function(workload: Workload) -> Callable[..., dict[str, Any]]:
    return getattr(importlib.import_module(workload.module), workload.function)
