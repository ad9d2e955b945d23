"""What `doctor` finds out about devices: which there are, how fast they multiply and exchange, whether a step runs;
and about the model or configuration that is to run on them."""

from __future__ import annotations

import glob
import os
import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bert_jax import compat
from bert_jax.config import Config
from bert_jax.config_files import bound_names, find_config, load_config, similar_config
from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import FinetuneConfig
from bert_jax.formats.model import open_model
from bert_jax.model.flops import peak_flops
from bert_jax.scale.bench_train import bench_train
from bert_jax.scale.doctor_machine import Finding
from bert_jax.scale.plan_stop import NOTICE_SECONDS, STOP_SECONDS, stop_figures
from bert_jax.text.interface import Tokenizer
from bert_jax.train.processes import TPU_DEVICES
from bert_jax.train.sharding import AXES, check_divisible, make_mesh, mesh_sizes
from bert_jax.train.state import resolve_dtype

_GPU_DEVICES = ("/dev/nvidia[0-9]*",)
_EXCHANGED = {"cpu": 1 << 20}
"""Bytes per device that are exchanged, by platform; 64 MiB elsewhere."""
_SLOW_SHARE = 0.5
_CAPITALS = 0.02


def devices() -> Iterator[Finding]:
    """The devices that JAX sees, and whether they are those that the machine has."""
    attached = _attached()
    try:
        found = jax.devices()
    except RuntimeError as error:
        fix = "install the jax that goes with the accelerator, or set JAX_PLATFORMS=cpu to do without it"
        yield Finding("devices", "failing", f"JAX cannot start its devices: {' '.join(str(error).split())[:300]}", fix)
        return
    first = found[0]
    limit = (first.memory_stats() or {}).get("bytes_limit")
    memory = f", {limit / 1e9:.1f} GB each" if limit else ""
    text = f"{len(found)} × {first.device_kind} ({first.platform}{memory})"
    if first.platform == "cpu" and attached is not None:
        name, extra = attached
        asked = os.environ.get("JAX_PLATFORMS", "")
        if "cpu" in asked.split(","):
            fix = "unset JAX_PLATFORMS to use it"
            yield Finding("devices", "note", f"{text}: JAX_PLATFORMS={asked}, and {name} is here", fix)
        else:
            yield Finding("devices", "failing", f"{text}, yet {name} is here", f'pip install "bert-jax[{extra}]"')
        return
    dtype = resolve_dtype("auto", first)
    yield Finding("devices", "good", f"{text}; computes in {dtype.value} ({dtype.reason})")


def _attached() -> tuple[str, str] | None:
    """The accelerator whose device files are here, and the extra that serves it."""
    for name, patterns, extra in (("a TPU", TPU_DEVICES, "tpu"), ("an NVIDIA GPU", _GPU_DEVICES, "cuda")):
        files = sorted(path for pattern in patterns for path in glob.glob(pattern))
        if files:
            return f"{name} ({files[0]})", extra
    return None


def exchange(all_devices: list[jax.Device] | None = None) -> Iterator[Finding]:
    """Whether devices add up what each of them has, and how many bytes per second pass each one's links."""
    all_devices = jax.devices() if all_devices is None else all_devices
    count = len(all_devices)
    if count == 1:
        return
    size = _EXCHANGED.get(all_devices[0].platform, 64 << 20) // 4
    mesh = Mesh(np.array(all_devices), ("all",))
    spec = PartitionSpec("all")
    add = jax.jit(
        compat.shard_map(lambda part: jax.lax.psum(part, "all"), mesh=mesh, in_specs=spec, out_specs=PartitionSpec())
    )
    ranks = np.repeat(np.arange(count, dtype=np.float32), size)
    parts = jax.make_array_from_callback(ranks.shape, NamedSharding(mesh, spec), lambda index: ranks[index])
    wanted = count * (count - 1) / 2
    result = add(parts).block_until_ready()
    if not all(bool(jnp.all(shard.data == wanted)) for shard in result.addressable_shards):
        fix = "a link or a device is broken: leave this machine"
        yield Finding("exchange", "failing", f"{count} devices add up to other than {wanted:g}", fix)
        return
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        add(parts).block_until_ready()
        seconds.append(time.perf_counter() - begun)
    # What a ring all-reduce sends and receives on each device.
    rate = 2 * (count - 1) / count * 4 * size / statistics.median(seconds)
    yield Finding("exchange", "good", f"{count} devices add up 4 × {size:,} bytes at {rate / 1e9:.2f} GB/s each")


def step() -> Iterator[Finding]:
    """Make text, a store and a small model, train a few steps of it; and how fast matrices are multiplied."""
    count = jax.device_count()
    try:
        found = bench_train(config="tiny", batch=8 * count, length=32, steps=3, warmup=2, tokens=20_000)
    except Exception as error:  # whatever stops a step is what is asked for here
        text = " ".join(str(error).split())[:300]
        said = f"a training step ends with {type(error).__name__}: {text}"
        yield Finding("step", "failing", said, "see bert-jax bench train tiny --debug")
        return
    spent = f"compiled in {found['compile_seconds']:.1f} s, then {1000 * found['step_seconds_median']:.1f} ms"
    yield Finding("step", "good", f"a step of BERT-tiny on all devices: {spent} each")
    kind, rate = jax.devices()[0].device_kind, found["matrix_flops_per_second"]
    peak = peak_flops(kind, count)
    text = f"{rate / 1e12:.2f} TFLOP/s of {found['dtype']} matrices"
    if peak is None:
        yield Finding("matrices", "good", f"{text} (no peak is published for {kind})")
    elif rate < _SLOW_SHARE * peak:
        fix = "look for other work on it (nvidia-smi), or for a limit of power or heat"
        yield Finding("matrices", "note", f"{text}: {rate / peak:.0%} of its peak", fix)
    else:
        yield Finding("matrices", "good", f"{text}: {rate / peak:.0%} of its peak")


def subject(what: str, write_rate: float | None) -> Iterator[Finding]:
    """What is said of a MODEL or a CONFIG. `write_rate`: bytes per second of the folder that checkpoints go to."""
    try:
        if Path(what).suffix == ".py" or (not Path(what).exists() and similar_config(what)):
            yield from _configuration(what, write_rate)
        else:
            model = open_model(what)
            yield from _vocabulary(model.tokenizer, model.config.known_vocab_size)
    except BertJaxError as error:
        yield Finding("subject", "failing", str(error), f"mend it, or look at bert-jax info {what}")


def _vocabulary(tokenizer: Tokenizer, rows: int) -> Iterator[Finding]:
    """The vocabulary against the table, and casing against the vocabulary."""
    entries = tokenizer.vocab_size
    if entries > rows:
        fix = "give the vocabulary that the model was trained with"
        yield Finding("vocabulary", "failing", f"{entries:,} entries, and the table has {rows:,} rows", fix)
        return
    spare = f", {rows - entries:,} of its rows are spare" if entries < rows else ""
    yield Finding("vocabulary", "good", f"{entries:,} entries for a table of {rows:,}{spare}")
    pieces = [piece for piece in tokenizer.pieces(range(entries)) if not piece.startswith("[")]
    capitals = sum(piece != piece.lower() for piece in pieces)
    if tokenizer.kind != "wordpiece" or not pieces:
        return
    if not tokenizer.cased and capitals > _CAPITALS * len(pieces):
        found = f"text is lower-cased, and {capitals:,} entries with capitals are never met"
        yield Finding("casing", "note", found, "set do_lower_case to false in tokenizer_config.json")
    elif tokenizer.cased and not capitals and any(piece != piece.upper() for piece in pieces):
        found = "capitals are kept, and no entry has one: words with a capital become [UNK]"
        yield Finding("casing", "failing", found, "set do_lower_case to true in tokenizer_config.json")
    else:
        yield Finding("casing", "good", f"{'cased' if tokenizer.cased else 'uncased'}, as its entries are")


def _configuration(what: str, write_rate: float | None) -> Iterator[Finding]:
    """Whether a configuration fits these devices, and how long a run of it takes to stop."""
    if isinstance(bound_names(find_config(what)).get("config"), FinetuneConfig):
        config = load_config(what, FinetuneConfig)
        sizes = mesh_sizes(config.mesh, jax.device_count())
        yield Finding("mesh", "good", _mesh_text(dict(zip(AXES, sizes, strict=True))))
        return
    settings: Config = load_config(what)
    mesh = make_mesh(settings.mesh)
    for index in range(len(settings.phases)):
        check_divisible(settings, index, mesh)
    yield Finding("mesh", "good", _mesh_text(mesh.shape))
    if settings.model.vocab_size is None:
        return
    yield _stop(stop_figures(settings, mesh.shape), write_rate)


def _mesh_text(sizes: Mapping[str, int]) -> str:
    return "the configuration fits these devices as " + ", ".join(f"{axis} {size}" for axis, size in sizes.items())


def _stop(figures: Mapping[str, Any], write_rate: float | None) -> Finding:
    size = figures["save_bytes_per_host"]
    rate = write_rate or figures["save_rate_assumed"]
    seconds = STOP_SECONDS + size / rate
    text = f"a signal to exit 75 in at most {seconds:.0f} s: 10 s, and {size / 1e9:.2f} GB at {rate / 1e6:.0f} MB/s"
    if seconds > NOTICE_SECONDS:
        fix = f"a spot machine has {NOTICE_SECONDS:.0f} s: have a faster disk for --run"
        return Finding("stop", "note", text, fix)
    return Finding("stop", "good", f"{text}; a spot machine has {NOTICE_SECONDS:.0f} s")
