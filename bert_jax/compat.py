"""Calls whose spelling or behaviour differs between versions of jax, behind names that stay the same.

Works from jax 0.7.2 up to the newest. jax is imported inside the functions only, so that importing this module costs
nothing and touches no device. Nothing here warns: deprecated spellings are avoided, not silenced.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bert_jax.console import warn
from bert_jax.errors import BertJaxError

if TYPE_CHECKING:
    import jax

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_KEY_PARITY = 0x1BD11BDA


def threefry_2x32(k0: Any, k1: Any, x0: Any, x1: Any) -> tuple[jax.Array, jax.Array]:
    """Threefry-2x32 with 20 rounds, elementwise: key (k0, k1) and counter (x0, x1) → two words of 32 random bits.

    The arguments are converted to uint32 (modulo 2³²) and broadcast against each other; both results have their
    common shape. Equal to jax's own generator bit for bit, but a plain chain of integer operations: it may be given
    one key per element, XLA fuses it, and every sharding of it gives the same bits.

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    import jax.numpy as jnp

    k0, k1, x0, x1 = (_uint32(word) for word in (k0, k1, x0, x1))
    keys = (k0, k1, k0 ^ k1 ^ jnp.uint32(_KEY_PARITY))
    x0, x1 = x0 + keys[0], x1 + keys[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = (x1 << rotation) | (x1 >> (32 - rotation))
            x1 = x1 ^ x0
        x0 = x0 + keys[(group + 1) % 3]
        x1 = x1 + keys[(group + 2) % 3] + jnp.uint32(group + 1)
    return x0, x1


def _uint32(word: Any) -> jax.Array:
    """`word` as uint32; Python integers are taken modulo 2³²."""
    import jax.numpy as jnp

    if isinstance(word, int):
        return jnp.uint32(word & 0xFFFFFFFF)
    return jnp.asarray(word).astype(jnp.uint32)


def key_words(key: Any) -> jax.Array:
    """The uint32 words of a key: typed (`jax.random.key`), raw (`jax.random.PRNGKey`) or a pair of integers.

    Shape (2,) for threefry keys and pairs, (4,) for rbg keys. Errors: `BertJaxError` for anything else.
    """
    import jax
    import jax.numpy as jnp

    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        words = jax.random.key_data(key)
    elif isinstance(key, tuple | list):
        words = jnp.stack([_uint32(word) for word in key])
    else:
        words = jnp.asarray(key)
    if words.shape not in ((2,), (4,)) or words.dtype != jnp.uint32:
        raise BertJaxError(
            f"key is {words.dtype}{list(words.shape)}: expected one typed key, or its uint32 words of shape (2,)"
        )
    return words


def make_mesh(sizes: Sequence[int], names: Sequence[str], devices: Sequence[Any] | None = None) -> jax.sharding.Mesh:
    """A device mesh whose axes are all `Auto` (jax's default became Explicit), in the order best for the hardware.

    Several TPU slices lie along the first axis, so that only it crosses the slow network between them.
    Errors: `BertJaxError` when the slices do not divide the first axis.
    """
    import jax
    from jax.sharding import AxisType

    axis_types = (AxisType.Auto,) * len(tuple(names))
    every = jax.devices() if devices is None else devices
    slices = len(
        {device.slice_index for device in every if device.platform == "tpu" and hasattr(device, "slice_index")}
    )
    if slices <= 1:
        return jax.make_mesh(tuple(sizes), tuple(names), axis_types=axis_types, devices=devices)
    if sizes[0] % slices:
        raise BertJaxError(f"mesh {names[0]} is {sizes[0]}: expected a multiple of the {slices} TPU slices")
    from jax.experimental.mesh_utils import create_hybrid_device_mesh

    inside, across = (sizes[0] // slices, *sizes[1:]), (slices, *(1 for _ in sizes[1:]))
    arranged = create_hybrid_device_mesh(inside, across, devices=devices)
    return jax.sharding.Mesh(arranged, tuple(names), axis_types=axis_types)


def topology_devices(name: str, shape: Sequence[int], chip: str) -> list[Any]:
    """Devices of a TPU slice that is not there, to compile for: `name` as libtpu spells it (`v5e:4x4`).

    Needs libtpu, and may abort the process for a shape that it does not know. A v4's two cores are taken as the one
    device that TPU machines show.
    """
    from jax.experimental import topologies

    options: dict[str, Any] = {}
    if all(size == 1 for size in shape):  # smaller than a host
        options["chips_per_host_bounds"] = [1, 1, 1]
    if chip == "v4":
        options["chip_config_name"] = "megacore"
    return list(topologies.get_topology_desc(name, "tpu", **options).devices)


def memory_figures(compiled: Any) -> dict[str, int]:
    """Bytes per device of a compiled program: `arguments`, `results` (beyond the donated arguments), `temporaries` and
    `program`."""
    found = compiled.memory_analysis()
    arguments = int(found.argument_size_in_bytes)
    results = int(found.output_size_in_bytes - found.alias_size_in_bytes)
    temporaries = int(found.temp_size_in_bytes)
    # All temporaries together may be more than are alive at once; newer versions say how much that is.
    peak = int(getattr(found, "peak_memory_in_bytes", 0)) - arguments - results
    return {
        "arguments": arguments,
        "results": results,
        "temporaries": min(temporaries, peak) if peak > 0 else temporaries,
        "program": int(found.generated_code_size_in_bytes),
    }


def compile_program(lowered: Any, quick: bool = False) -> Any:
    """The compiled program. `quick`: with the least effort of the compiler, in a quarter of the time and with somewhat
    larger temporaries."""
    return lowered.compile({"exec_time_optimization_effort": -1.0} if quick else None)


def out_of_memory(error: BaseException) -> tuple[int, int] | None:
    """Bytes of device memory wanted and there, when that is what a compiler's `error` says; otherwise None."""
    text = str(error)
    if "RESOURCE_EXHAUSTED" not in text:
        return None
    said = re.search(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm", text)
    said = said or re.search(r"temporaries \(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)", text)
    if said is None:
        return None
    scale = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    return int(float(said[1]) * scale[said[2]]), int(float(said[3]) * scale[said[4]])


def cost_bytes(compiled: Any) -> float | None:
    """Bytes the compiler counts as read and written, the body of a loop once; None where it does not say."""
    return _cost(compiled, "bytes accessed")


def cost_flops(compiled: Any) -> float | None:
    """Operations the compiler counts, the body of a loop once, a kernel's own not; None where it does not say."""
    return _cost(compiled, "flops")


def _cost(compiled: Any, name: str) -> float | None:
    found = compiled.cost_analysis()
    if isinstance(found, list):  # one per program before jax 0.5
        found = found[0] if found else {}
    size = (found or {}).get(name)
    return None if size is None else float(size)


def donatable(platform: str) -> bool:
    """Whether a jitted function may be given its arguments' memory for its results on `platform`.

    XLA's CPU compiler before jaxlib 0.8.3 may overwrite a donated parameter before its last reader has run: the loss of
    a train step is then a little wrong and the run diverges (seen with 0.7.2 and 0.8.0; 0.8.3 and later are right).
    """
    import jaxlib

    version = tuple(int(part) for part in jaxlib.__version__.split(".")[:3] if part.isdigit())
    return platform != "cpu" or version >= (0, 8, 3)


def set_mesh(mesh: jax.sharding.Mesh) -> AbstractContextManager[Any]:
    """`with set_mesh(mesh):` makes it the mesh of everything inside (never `with mesh:`, which constraints ignore)."""
    import jax

    return jax.set_mesh(mesh)


def cache_programs(environment: MutableMapping[str, str] = os.environ) -> None:
    """Keep compiled programs between runs, in `$XDG_CACHE_HOME` or `~/.cache` under `bert_jax`.

    To be called before jax is imported, which reads these variables then; what is set already stays as it is. Small
    programs are kept too: compiling them is most of the time to a first answer. Each kind of processor has a folder of
    its own, since a home may be shared and programs for a CPU use all instructions of the one they were made on.
    Where nothing can be written it warns once, and every run compiles.
    """
    if "JAX_COMPILATION_CACHE_DIR" in environment:
        return
    root = Path(environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME") or "~").expanduser() / ".cache")
    folder = root / "bert_jax" / f"programs-{_processor()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = None if os.access(folder, os.W_OK | os.X_OK) else "Permission denied"
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    if reason is not None:
        warn(f"compiled programs cannot be kept in {folder}: {reason}; set XDG_CACHE_HOME to start faster next time")
        return
    environment["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def _processor() -> str:
    """A short name of what this machine's processor can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        known = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        known = ""
    return hashlib.sha256(" ".join([os.uname().machine, known]).encode()).hexdigest()[:8]


@contextmanager
def uncached_compilation() -> Iterator[None]:
    """Inside, jax neither reads nor writes its persistent compilation cache."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    config: Any = jax.config
    before = config.jax_enable_compilation_cache
    config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # whether there is one is looked up once
    try:
        yield
    finally:
        config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def shard_map(function: Any, *, mesh: jax.sharding.Mesh, in_specs: Any, out_specs: Any) -> Any:
    """`function` run by each device on its own part of the arguments; what it exchanges is not checked."""
    import jax

    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
