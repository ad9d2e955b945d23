"""Which chips there are, what each can do, and how a group of them is spelled.

Facts per chip, as published: memory and its bandwidth, and what it can send to others at once in one direction (all
links together; published figures are both directions together, these are half of that). Peak rates are in
`bert_jax.model.flops`, the one table of them.

Sources: cloud.google.com/tpu/docs, pages v4, v5e, v5p, v6e and tpu7x ("key chip specifications": memory and links both
ways v5e 819 and 400 GB/s, v5p 2765 and 1200, v4 1228 and 600, v6e 1640 and 800, tpu7x 7380 and 1200 for its two
devices); NVIDIA's datasheets of A100 80GB SXM, H100 SXM, H200, B200, L4 and L40S (NVLink, or PCIe where there is none).
`hbm_bytes` of a TPU is what its compiler (libtpu 0.0.42) lets a program have: a little less than the published size.
"""

from __future__ import annotations

import difflib
import math
import re
from typing import Literal, NamedTuple

from bert_jax.errors import UsageError
from bert_jax.model.flops import peak_flops

GIB = 2**30


class Chip(NamedTuple):
    """What one device can do, which is a chip but for `devices_per_chip`. Sizes in bytes, rates in bytes per second."""

    kind: Literal["tpu", "gpu"]
    device_kind: str
    """The name jax gives it, by which its peak rate is found."""
    hbm_bytes: int
    hbm_bandwidth: float
    link_bandwidth: float
    """To all neighbours together, one direction."""
    axes: int = 0
    """Of the torus the chips of a TPU slice form."""
    cores_named: int = 1
    """By how many an accelerator type such as v4-32 counts each chip."""
    devices_per_chip: int = 1
    """As jax counts them."""
    spellings: tuple[str, ...] = ()

    @property
    def peak(self) -> float:
        """Dense bfloat16 operations per second."""
        known = peak_flops(self.device_kind)
        assert known is not None, self.device_kind
        return known


CHIPS: dict[str, Chip] = {
    "v4": Chip("tpu", "TPU v4", int(30.75 * GIB), 1228e9, 300e9, 3, 2),
    "v5e": Chip("tpu", "TPU v5 lite", int(15.75 * GIB), 819e9, 200e9, 2, 1, 1, ("v5litepod", "v5lite")),
    "v5p": Chip("tpu", "TPU v5p", int(95.74 * GIB), 2765e9, 600e9, 3, 2),
    "v6e": Chip("tpu", "TPU v6 lite", int(31.25 * GIB), 1640e9, 400e9, 2, 1, 1, ("trillium",)),
    "tpu7x": Chip("tpu", "TPU7x", int(94.75 * GIB), 3690e9, 300e9, 3, 2, 2, ("v7x", "ironwood")),
    "a100": Chip("gpu", "A100", int(80e9), 2039e9, 300e9),
    "h100": Chip("gpu", "H100", int(80e9), 3350e9, 450e9),
    "h200": Chip("gpu", "H200", int(141e9), 4800e9, 450e9),
    "b200": Chip("gpu", "B200", int(180e9), 8000e9, 900e9),
    "l4": Chip("gpu", "L4", int(24e9), 300e9, 32e9),
    "l40s": Chip("gpu", "L40S", int(48e9), 864e9, 32e9),
}

# What a slice of so many chips looks like when an accelerator type names only their number.
_FLAT = {1: (1, 1), 4: (2, 2), 8: (2, 4), 16: (4, 4), 32: (4, 8), 64: (8, 8), 128: (8, 16), 256: (16, 16)}
_CUBES = {
    4: (2, 2, 1),
    8: (2, 2, 2),
    16: (2, 2, 4),
    32: (2, 4, 4),
    64: (4, 4, 4),
    128: (4, 4, 8),
    256: (4, 8, 8),
    512: (8, 8, 8),
    1024: (8, 8, 16),
    2048: (8, 16, 16),
    4096: (16, 16, 16),
}


class Topology(NamedTuple):
    """A group of equal chips. `shape`: their torus, or their number alone for GPUs."""

    name: str
    chip_name: str
    shape: tuple[int, ...]

    @property
    def chip(self) -> Chip:
        """What each chip can do."""
        return CHIPS[self.chip_name]

    @property
    def chips(self) -> int:
        """How many there are."""
        return math.prod(self.shape)

    @property
    def devices(self) -> int:
        """How many jax counts."""
        return self.chips * self.chip.devices_per_chip


def parse_topology(text: str) -> Topology:
    """`v5e:4x4` (chips along each axis), an accelerator type (`v5litepod-16`, `v4-32`: v4 and v5p count two cores per
    chip), or `h200:8` for GPUs.

    Errors: `UsageError` naming what is known.
    """
    found = re.fullmatch(r"(?:tpu[-_]?)?([a-z]\w*?)(?::(\d+(?:x\d+)*)|-(\d+))?", text.strip().lower())
    if found is None:
        raise UsageError(f"topology {text!r}: {_spelled()}")
    name, shape, count = found.groups()
    known = {spelling: key for key, chip in CHIPS.items() for spelling in (key, *chip.spellings)}
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UsageError(f"topology {text!r}: no chip {name!r} is known; {hint}{_spelled()}")
    name = known[name]
    chip = CHIPS[name]
    if chip.kind == "gpu":
        return _gpus(text, name, shape or count or "1")
    if count is not None:
        return _accelerator_type(text, name, int(count))
    if shape is None:
        raise UsageError(f"topology {text!r} has no shape: give one such as {name}:{_example(chip)}")
    sizes = tuple(int(size) for size in shape.split("x"))
    if len(sizes) == 2 and chip.axes == 3:
        sizes = (*sizes, 1)
    if len(sizes) != chip.axes or 0 in sizes:
        raise UsageError(f"topology {text!r}: give {chip.axes} sizes of at least 1, such as {name}:{_example(chip)}")
    return Topology(f"{name}:{'x'.join(map(str, sizes))}", name, sizes)


def _gpus(text: str, name: str, number: str) -> Topology:
    if not number.isdigit() or int(number) < 1:
        raise UsageError(f"topology {text!r}: GPUs are counted, such as {name}:8")
    return Topology(f"{name}:{int(number)}", name, (int(number),))


def _accelerator_type(text: str, name: str, count: int) -> Topology:
    chip = CHIPS[name]
    shapes: dict[int, tuple[int, ...]] = {**_FLAT} if chip.axes == 2 else {**_CUBES}
    sizes = shapes.get(count // chip.cores_named) if count % chip.cores_named == 0 else None
    if sizes is None:
        counts = ", ".join(f"{name}-{chips * chip.cores_named}" for chips in shapes)
        counted = " (they count cores, two per chip)" if chip.cores_named == 2 else ""
        raise UsageError(f"topology {text!r}: known are {counts}{counted}; or give the shape, {name}:{_example(chip)}")
    return Topology(f"{name}:{'x'.join(map(str, sizes))}", name, sizes)


def _example(chip: Chip) -> str:
    return "4x4x4" if chip.axes == 3 else "4x4"


def _spelled() -> str:
    tpus = ", ".join(f"{name}:{_example(chip)}" for name, chip in CHIPS.items() if chip.kind == "tpu")
    gpus = ", ".join(f"{name}:8" for name, chip in CHIPS.items() if chip.kind == "gpu")
    return f"known are {tpus} (any shape), accelerator types (v5litepod-16, v6e-8, v4-32, v5p-32) and GPUs ({gpus})"
