"""`bench scaling`: what each device sends in a training step, as the devices become more.

The step is compiled for 1, 2, 4, … CPU devices that a process of its own pretends to have, with as many sequences on
each, and never run: the bytes are the program's, and this machine's speed is in none of them.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from bert_jax.config import Config, Mesh
from bert_jax.config_files import from_dict, to_dict
from bert_jax.console import log
from bert_jax.errors import BertJaxError, UsageError
from bert_jax.scale.bench_apart import run_apart
from bert_jax.scale.bench_record import machine
from bert_jax.scale.hlo_collectives import by_kind, collectives
from bert_jax.scale.plan_report import columns, sent
from bert_jax.train.memory import abstract_mesh, parameter_bytes
from bert_jax.train.sharding import check_divisible

_VOCABULARY = 30522  # where neither configuration nor preset says
_UNOPTIMISED = "--xla_backend_optimization_level=0"  # code that is never run; what is sent is settled before


def bench_scaling(
    *,
    config: str | Config | None = None,
    devices: int = 8,
    batch: int = 8,
    length: int | None = None,
    predictions: int | None = None,
    packing: int | None = None,
    accumulation: int | None = None,
    mesh: str | None = None,
) -> dict[str, Any]:
    """Compile the step of the first phase of a CONFIG or preset (default: `mini`) for 1, 2, 4, … up to `devices` CPU
    devices → `rows`, one for each number, and a table on stderr.

    batch: sequences (or packed rows) on each device, or on each group that shares them (tensor). mesh: the smallest
    one, DATAxFSDPxTENSOR (default 1x1x1); its data axis is doubled. A row: `devices mesh batch parameter_bytes` (of
    each device), `collective_bytes` ({kind: {mesh axis: bytes}} that one device sends when each collective goes around
    a ring), their sum `sent_bytes`, `compile_seconds`. Errors: `UsageError` for fewer devices than the smallest mesh
    has, `BertJaxError` for what a mesh does not divide.
    """
    from bert_jax.scale.bench_train import DEFAULT_PRESET, bench_config, parse_mesh

    options = {"length": length, "predictions": predictions, "packing": packing, "accumulation": accumulation}
    settings = bench_config(config, {name: value for name, value in options.items() if value is not None})
    meshes = _meshes(parse_mesh(mesh or "1x1x1"), devices)
    for each in meshes:
        check_divisible(_on(settings, each, batch), 0, abstract_mesh(dataclasses.asdict(each)))
    request = {"config": to_dict(settings), "meshes": [dataclasses.astuple(each) for each in meshes], "batch": batch}
    log(f"compiling the step for {', '.join(str(_size(each)) for each in meshes)} CPU devices")
    found = run_apart(
        ["bert_jax.scale.bench_scaling", json.dumps(request)],
        {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {_UNOPTIMISED}"},
    )
    if "error" in found:
        raise BertJaxError(f"the step was not compiled: {found['error']}")
    for line in report(found["rows"]):
        log(line)
    model = None if isinstance(config, Config) else config or DEFAULT_PRESET
    return {"bench": "scaling", "model": model, **machine(), "rows": found["rows"]}


def _meshes(smallest: Mesh, devices: int) -> list[Mesh]:
    least = _size(smallest)
    if least > devices:
        raise UsageError(f"--devices {devices}: the smallest mesh has {least}; give more devices or a smaller --mesh")
    doublings = (devices // least).bit_length()
    return [dataclasses.replace(smallest, data=smallest.data << power) for power in range(doublings)]


def _size(mesh: Mesh) -> int:
    return mesh.data * mesh.fsdp * mesh.tensor


def _on(config: Config, mesh: Mesh, batch: int) -> Config:
    """The configuration on a mesh, with `batch` sequences for each of its splits of the rows."""
    train = dataclasses.replace(config.train, batch=batch * mesh.data * mesh.fsdp)
    size = config.model.vocab_size or config.data.vocab_size or _VOCABULARY
    return dataclasses.replace(config, mesh=mesh, train=train, model=config.model.with_vocab_size(size))


def scaling_row(config: Config, mesh: Mesh, batch: int) -> dict[str, Any]:
    """The row of one mesh, its step compiled for the first of this process's CPU devices."""
    import jax

    from bert_jax import compat
    from bert_jax.scale.plan_shapes import phase_program, step_shapes

    config = _on(config, mesh, batch)
    begun = time.perf_counter()
    devices = jax.devices("cpu")[: _size(mesh)]
    program = phase_program(config, devices, config.model.known_vocab_size, 0, config.train.batch, {})
    with compat.set_mesh(program.mesh):
        compiled = compat.compile_program(program.compiled_train_step.lower(*step_shapes(program)))
    sizes = {name: int(size) for name, size in program.mesh.shape.items()}
    kinds = by_kind(collectives(compiled.as_text(), tuple(sizes.values()), tuple(sizes)))
    return {
        "name": f"devices={_size(mesh)}",
        "devices": _size(mesh),
        "mesh": sizes,
        "batch": config.train.batch,
        "length": config.train.length,
        "parameter_bytes": parameter_bytes(config, sizes),
        "collective_bytes": kinds,
        "sent_bytes": sum(size for axes in kinds.values() for size in axes.values()),
        "compile_seconds": time.perf_counter() - begun,
    }


def report(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each number of devices, under titles."""
    lines = [("devices", "data x fsdp x tensor", "sequences", "sent per device", "of the parameters", "by kind")]
    for row in rows:
        shape = " x ".join(str(size) for size in row["mesh"].values())
        share = f"{row['sent_bytes'] / row['parameter_bytes']:.2f} times"
        size = f"{row['sent_bytes'] / 1e6:,.1f} MB"
        lines.append((str(row["devices"]), shape, f"{row['batch']:,}", size, share, sent(row["collective_bytes"])))
    return columns(lines)


def main() -> None:
    """The child: one argument of JSON in, one line of JSON out."""
    request = json.loads(sys.argv[1])
    config: Config = from_dict(request["config"])
    rows = [scaling_row(config, Mesh(*sizes), request["batch"]) for sizes in request["meshes"]]
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
