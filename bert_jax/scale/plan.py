"""`plan`: does a configuration fit a TPU slice, how fast can it be there, and what does the run cost; without the TPU.

The train step of each phase is compiled for the slice (`plan_compile`), its memory and what it sends read from the
result. Times are bounds from three rates of the chip: no step is faster, and one that overlaps well comes near.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bert_jax.arguments import require_at_least
from bert_jax.config import Config, Phase
from bert_jax.config_files import find_config, load_config, override
from bert_jax.console import log
from bert_jax.data.pool import available_cores
from bert_jax.errors import BertJaxError, UsageError
from bert_jax.scale.bench_record import versions
from bert_jax.scale.hlo_collectives import by_kind
from bert_jax.scale.plan_advice import remarks, ways_to_fit
from bert_jax.scale.plan_compile import Compiler, require_libtpu
from bert_jax.scale.plan_estimate import (
    estimated_collectives,
    estimated_figures,
    recomputed_flops,
    step_flops,
)
from bert_jax.scale.plan_report import phase_report, run_report, scaling_report
from bert_jax.scale.plan_search import estimated_max_batch, largest_batch
from bert_jax.scale.plan_shapes import with_batch
from bert_jax.scale.plan_stop import stop_figures
from bert_jax.scale.topologies import Topology, parse_topology
from bert_jax.text.tokenizer import load_tokenizer
from bert_jax.train.memory import abstract_mesh, parameter_bytes, resolve_accumulation, with_accumulation
from bert_jax.train.sharding import AXES, check_divisible, mesh_sizes

Step = Callable[[int, int], dict[str, Any]]
"""Figures of (phase, batch): compiled or estimated."""

_DEFAULT_VOCABULARY = 30522
_TOP = (
    "hbm_bytes",
    "hbm_limit_bytes",
    "hbm_bytes_by_kind",
    "flops_per_step",
    "collective_bytes",
    "bound",
    "step_seconds_bound",
    "mfu_bound",
    "max_batch_per_chip",
)


def plan(
    config: str | Config,
    topology: str | None = None,
    *,
    max_batch: bool = False,
    quick: bool = False,
    price: float | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """The plan of a configuration on a topology; the arguments are those of `bert_jax.plan`.

    Of several topologies, separated by commas, the plans of all, and a table of what grows with the chips.
    Errors: `UsageError` for a topology that is not known or not given; `BertJaxError` without libtpu (for a TPU) and
    for what the configuration does not allow on so many devices. A step that does not fit is no error: `fits` is false.
    """
    require_at_least(0, price=price)
    several = (topology or "").split(",")
    if len(several) > 1:
        places = [parse_topology(name).name for name in several]  # a mistake is said before anything is compiled
        plans = [
            plan(config, place, max_batch=max_batch, quick=quick, price=price, overrides=overrides) for place in places
        ]
        for line in scaling_report(plans):
            log(line)
        return {"config": plans[0]["config"], "fits": all(found["fits"] for found in plans), "plans": plans}
    where = parse_topology(topology or named_topology(config))
    compiled = where.chip.kind == "tpu"
    if compiled:
        require_libtpu()
    settings, vocabulary = _settings(config, overrides)
    log(
        f"{where.name}: {where.chips} chips, {where.chip.device_kind}"
        + ("" if compiled else "; by formula, not compiled")
    )
    _check(settings, where)
    if compiled:
        with _compilers(where, settings, vocabulary, quick) as step:
            phases = _phases(settings, where, step, max_batch)
    else:
        phases = _phases(settings, where, _formulas(settings, where), max_batch)
    tightest = max(phases, key=lambda found: found["hbm_bytes"])
    result: dict[str, Any] = {
        "config": config if isinstance(config, str) else None,
        "topology": where.name,
        "chips": where.chips,
        "device_kind": where.chip.device_kind,
        "compiled": compiled,
        "quick": quick and compiled,
        "fits": all(found["fits"] for found in phases),
        "phase": tightest["phase"],
        **{name: tightest[name] for name in _TOP},
        **_whole_run(config, overrides, phases, where, price),
        **stop_figures(settings, phases[0]["mesh"]),
        "compile_seconds": sum(found["compile_seconds"] for found in phases),
        "phases": phases,
        "versions": versions(),
    }
    for line in run_report(result, price):
        log(line)
    return result


def named_topology(config: str | Config) -> str:
    """The topology that the docstring of a CONFIG file names, in a line `Topology: v5e:4x4`.

    Errors: `UsageError` when there is none.
    """
    if isinstance(config, str):
        path = find_config(config)
        found = re.search(r"^Topology: (\S+?)\.?$", _docstring(path), re.MULTILINE)
        if found:
            return found[1]
    raise UsageError("give --topology, such as v5e:4x4: the configuration names none (a line 'Topology: v5e:4x4')")


def _docstring(path: Path) -> str:
    try:
        return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    except (SyntaxError, ValueError):  # loading it says what is wrong
        return ""


def _settings(config: str | Config, overrides: Sequence[str]) -> tuple[Config, int]:
    """The configuration with a vocabulary size and with steps, and that size. No data are opened but a tokenizer."""
    settings = load_config(config)
    if overrides:
        settings = override(settings, list(overrides))
    if settings.train.steps is None:  # --train.minutes: nothing here depends on how many
        settings = dataclasses.replace(settings, train=dataclasses.replace(settings.train, steps=1, minutes=None))
    size = settings.model.vocab_size or settings.data.vocab_size
    if size is None and settings.data.tokenizer is not None:
        size = load_tokenizer(Path(settings.data.tokenizer)).vocab_size
    if size is None:
        log(f"the vocabulary's size is not known before there is a tokenizer: taking {_DEFAULT_VOCABULARY}")
        size = _DEFAULT_VOCABULARY
    return dataclasses.replace(settings, model=dataclasses.replace(settings.model, vocab_size=size)), size


def _check(settings: Config, where: Topology) -> None:
    """What the configuration does not allow on so many devices is said before minutes of compiling."""
    mesh = dict(zip(AXES, mesh_sizes(settings.mesh, where.devices), strict=True))
    parameter_bytes(settings, mesh)
    for index, phase in enumerate(settings.phases):
        check_divisible(_in_microbatches(settings, index, where), index, abstract_mesh(mesh))
        if phase.length > settings.model.max_position_embeddings:
            raise BertJaxError(
                f"phase {index} has sequences of {phase.length} tokens: the model has "
                f"{settings.model.max_position_embeddings} positions; raise model.max_position_embeddings"
            )


@contextlib.contextmanager
def _compilers(where: Topology, settings: Config, vocabulary: int, quick: bool) -> Iterator[Step]:
    """Compiles each phase in a process of its own, all of them at once as they stand in the configuration."""
    phases = settings.phases
    with ThreadPoolExecutor(min(len(phases), available_cores())) as pool, contextlib.ExitStack() as stack:
        own = [_in_microbatches(settings, index, where) for index in range(len(phases))]
        compilers = [stack.enter_context(Compiler(where, each, vocabulary)) for each in own]
        ahead = [
            pool.submit(compiler.compile, index, phase.batch, quick=quick)
            for index, (compiler, phase) in enumerate(zip(compilers, phases, strict=True))
        ]

        def step(index: int, batch: int) -> dict[str, Any]:
            if batch == phases[index].batch:
                return ahead[index].result()
            return compilers[index].compile(index, batch, quick=quick)

        yield step


def _formulas(settings: Config, where: Topology) -> Step:
    mesh = dict(zip(AXES, mesh_sizes(settings.mesh, where.devices), strict=True))

    def step(phase: int, batch: int) -> dict[str, Any]:
        changed = with_batch(_in_microbatches(settings, phase, where), phase, batch, {})
        return estimated_figures(changed, phase, mesh, where.chip.hbm_bytes)

    return step


def _in_microbatches(settings: Config, index: int, where: Topology) -> Config:
    """The settings with the microbatches that `train.sequences_per_chip` means for a phase on so many chips."""
    mesh = dict(zip(AXES, mesh_sizes(settings.mesh, where.devices), strict=True))
    dtype = "bfloat16" if settings.train.dtype == "auto" else settings.train.dtype
    choice = resolve_accumulation(settings, index, mesh, dtype, where.chip.hbm_bytes)
    return with_accumulation(settings, choice.value)


def _phases(settings: Config, where: Topology, step: Step, max_batch: bool) -> list[dict[str, Any]]:
    found = []
    for index, phase in enumerate(settings.phases):
        if where.chip.kind == "tpu":
            log(f"compiling the step of phase {index} ({phase.batch:,} × {phase.length}); this takes a minute or more")
        own = _in_microbatches(settings, index, where)
        figures = _phase(own, index, phase, where, step(index, phase.batch))
        if max_batch:
            figures["max_batch_per_chip"] = largest_batch(own, index, figures, step)
            figures["max_batch_source"] = "compiled" if where.chip.kind == "tpu" else "estimated"
        for line in phase_report(figures):
            log(line)
        found.append(figures)
    return found


def _phase(settings: Config, index: int, phase: Phase, where: Topology, made: dict[str, Any]) -> dict[str, Any]:
    """All figures of one phase, from what compiling (or estimating) its step gave."""
    mesh = made["mesh"]
    parameters = parameter_bytes(settings, mesh)
    found: dict[str, Any] = {
        "phase": index,
        "length": phase.length,
        "batch": phase.batch,
        "batch_per_chip": phase.batch // (mesh["data"] * mesh["fsdp"]),
        "predictions": phase.predictions,
        "steps": phase.steps,
        "mesh": mesh,
        "dtype": made["dtype"],
        "attention_engine": made["attention"][0],
        "attention_reason": made["attention"][1],
        "kernels": made.get("kernels"),
        "remat": settings.train.remat,
        "accumulation": settings.train.accumulation,
        "layers_scanned": made["scanned"],
        "fits": made["fits"],
        "hbm_bytes": made["hbm_bytes"],
        "hbm_limit_bytes": made.get("hbm_limit_bytes", where.chip.hbm_bytes),
        "hbm_bytes_by_kind": _memory(made, parameters),
        **_bounds(settings, phase, where, made, parameters),
        "compile_seconds": made["compile_seconds"],
        "compile_processor_seconds": made.get("compile_processor_seconds", 0.0),
    }
    found["max_batch_per_chip"] = estimated_max_batch(settings, found)
    found["max_batch_source"] = "estimated"
    notes = [] if found["fits"] else ways_to_fit(settings, phase, found)
    found["notes"] = notes + remarks(settings, phase, found, where)
    return found


def _memory(made: dict[str, Any], parameters: int) -> dict[str, int]:
    """Bytes by kind; they add up to `hbm_bytes`. Of what does not fit the rest is all called temporaries."""
    other = made.get("arguments", 3 * parameters) - 3 * parameters + made.get("results", 0)
    program = made.get("program", 0)
    return {
        "parameters": parameters,
        "optimizer": 2 * parameters,
        "temporaries": made["hbm_bytes"] - 3 * parameters - other - program,
        "program": program,
        "batch_and_results": other,
    }


def _bounds(settings: Config, phase: Phase, where: Topology, made: dict[str, Any], parameters: int) -> dict[str, Any]:
    """Work, traffic and the least time that each takes at the chip's rates."""
    chip, mesh = where.chip, made["mesh"]
    collectives = made.get("collectives")
    if collectives is None:  # what does not fit is not compiled to the end
        rows = phase.batch // (mesh["data"] * mesh["fsdp"])
        collectives = estimated_collectives(settings, phase, mesh, rows, made["dtype"], parameters)
    flops, attention_share = step_flops(settings, phase, phase.batch)
    traffic, source = _traffic(made, parameters)
    seconds = {
        "matrix": recomputed_flops(settings.train, flops, attention_share) / (where.devices * chip.peak),
        "hbm": traffic / chip.hbm_bandwidth,
        "interconnect": sum(row[2] for row in collectives) / chip.link_bandwidth,
    }
    bound = max(seconds, key=lambda name: seconds[name])
    return {
        "flops_per_step": flops,
        "collective_bytes": by_kind(collectives),
        "hbm_traffic_bytes": traffic,
        "hbm_traffic_source": source,
        "bound": bound,
        "bound_seconds": seconds,
        "step_seconds_bound": seconds[bound],
        "mfu_bound": flops / (seconds[bound] * where.devices * chip.peak),
        "sequences_per_second_bound": phase.batch / seconds[bound],
    }


def _traffic(made: dict[str, Any], parameters: int) -> tuple[float, str]:
    """Bytes that each device reads and writes in a step, and how they were counted."""
    if "traffic" in made:
        return made["traffic"], "by formula: state, gradients and activations written and read once"
    if not made["scanned"] and made["quick"] and made.get("bytes_accessed") is not None:
        return made["bytes_accessed"], "the compiler's count, as if nothing stayed on the chip"
    temporaries = made.get("temporaries", made["hbm_bytes"] - 3 * parameters)
    floor = 2.0 * (3 * parameters + temporaries)
    # With more effort programs hold arrays on the chip, and the count takes what is read there for traffic too.
    why = "a scan's layers are not counted one by one" if made["scanned"] else "the count without --quick is too high"
    return floor, f"at least: state and temporaries written and read once ({why})"


def _whole_run(
    config: str | Config, overrides: Sequence[str], phases: list[dict[str, Any]], where: Topology, price: float | None
) -> dict[str, Any]:
    """Days and cost of all steps at the bound; null when the configuration says minutes instead of steps."""
    settings = load_config(config)
    if overrides:
        settings = override(settings, list(overrides))
    if settings.train.steps is None:
        return {"steps": None, "days_bound": None, "cost_bound": None}
    seconds = sum(found["steps"] * found["step_seconds_bound"] for found in phases)
    cost = None if price is None else seconds / 3600 * where.chips * price
    return {"steps": settings.total_steps, "days_bound": seconds / 86400, "cost_bound": cost}
