"""What a compiled program sends between devices, read from the text of the program.

Every collective is counted as often as the loops around it run it. Bytes are what one device sends in one step when
each collective goes around a ring of its n devices: an all-reduce of S bytes 2 S (n − 1) / n, an all-gather to, a
reduce-scatter of and an all-to-all of S bytes S (n − 1) / n, a permutation S.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "c64": 64, "c128": 128}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_OPERATION = re.compile(
    r"= (?P<shape>.*?) (?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|ragged-all-to-all|collective-permute)"
    r"(?P<start>-start)?\((?P<rest>.*)$"
)
_ARRAY = re.compile(r"\b(pred|bf16|[sufc]\d+(?:e\d+m\d+\w*)?)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"(?:branch_computations|called_computations)=\{([^}]*)\}")
_BODY = re.compile(r"body=%?([\w.\-]+)")
_MESH_GROUPS = re.compile(
    r"replica_groups=mesh\[(?P<axes>[^\]]*)\]"
    r"(?:, device_ids=\((?:\[(?P<shape>[\d,]+)\](?:T\((?P<turned>[\d,]+)\))?|(?P<listed>[\d,]+))\))?"
    r" \{(?P<along>[^}]*)\}"
)
_PARTS = re.compile(r"'(\w+)'(?::\((\d+)\)(\d+))?")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_CONSTANT = re.compile(r"%?([\w.\-]+) = [su]32\[\]\S* constant\((\d+)\)")
_BELOW = re.compile(r"ROOT .* compare\(.*?%?([\w.\-]+)\), direction=LT")


class Row(NamedTuple):
    """Bytes one device sends per step in collectives of one kind along one group of mesh axes (`data`, `data+fsdp`)."""

    kind: str
    axis: str
    bytes: float
    operations: int
    """How many of them run in a step."""


class _Found(NamedTuple):
    kind: str
    axis: str
    bytes: float


def collectives(program: str, sizes: Sequence[int], axes: Sequence[str]) -> list[Row]:
    """The collectives of a compiled program, by kind and mesh axis; `sizes` and `axes` are the mesh's."""
    found: dict[str, list[_Found]] = defaultdict(list)
    calls: dict[str, list[tuple[str, int]]] = defaultdict(list)
    lines = program.splitlines()
    limits = _limits(lines)
    entry = here = ""
    for line in lines:
        opened = _COMPUTATION.match(line)
        if opened:
            here = opened[2]
            entry = here if opened[1] else entry
            continue
        operation = _OPERATION.search(line)
        if operation:
            found[here] += _sent(operation, sizes, axes)
        else:
            calls[here] += _called(line, limits)
    totals: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0])
    for name, times in _runs(entry, calls).items():
        for item in found.get(name, ()):
            total = totals[item.kind, item.axis]
            total[0] += times * item.bytes
            total[1] += times
    return [Row(kind, axis, size, int(count)) for (kind, axis), (size, count) in sorted(totals.items())]


def by_kind(rows: Iterable[Sequence[Any]]) -> dict[str, dict[str, float]]:
    """{kind: {mesh axis: bytes}} of rows, which may have been JSON."""
    kinds: dict[str, dict[str, float]] = {}
    for kind, axis, size, _ in rows:
        kinds.setdefault(kind, {})[axis] = size
    return kinds


def _limits(lines: Iterable[str]) -> dict[str, int]:
    """By the names of loops' conditions `counter < N`: N, which is how often a loop of jax's runs: it counts from 0."""
    found: dict[str, int] = {}
    constants: dict[str, int] = {}
    here = ""
    for line in lines:
        opened = _COMPUTATION.match(line)
        if opened:
            here, constants = opened[2], {}
        elif constant := _CONSTANT.search(line):
            constants[constant[1]] = int(constant[2])
        elif (below := _BELOW.search(line)) and below[1] in constants:
            found[here] = constants[below[1]]
    return found


def _called(line: str, limits: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """Computations that an operation runs, and how often; of a loop whose end is not known, once."""
    body = _BODY.search(line)
    if body:
        trips, condition = _TRIPS.search(line), _CONDITION.search(line)
        yield body[1], int(trips[1]) if trips else limits.get(condition[1], 1) if condition else 1
    for name in _CALLED.findall(line):
        yield name, 1
    for names in _BRANCHES.findall(line):
        yield from ((name.strip().lstrip("%"), 1) for name in names.split(","))


def _runs(entry: str, calls: dict[str, list[tuple[str, int]]]) -> dict[str, int]:
    """How often each computation runs, from the entry down; programs call no computation from itself."""
    runs: dict[str, int] = defaultdict(int)
    open_calls = [(entry, 1)]
    while open_calls:
        name, times = open_calls.pop()
        runs[name] += times
        open_calls += [(called, times * count) for called, count in calls.get(name, ())]
    return runs


def _sent(operation: re.Match[str], sizes: Sequence[int], axes: Sequence[str]) -> list[_Found]:
    kind, rest = operation["kind"].removeprefix("ragged-"), operation["rest"]
    arrays = [_array_bytes(kind_of, dims) for kind_of, dims in _ARRAY.findall(operation["shape"])]
    groups = _groups(rest, math.prod(sizes), kind)
    members = len(groups[0]) if len(groups) else 1
    if members < 2:
        return []
    if operation["start"] and kind in ("all-gather", "collective-permute") and len(arrays) > 1:
        # (operands, results[, contexts]) of an asynchronous one: the results are the larger, or equal, half
        whole = max(arrays) if len(arrays) <= 4 else sum(sorted(arrays)[len(arrays) // 2 :])
    else:
        whole = sum(arrays)
    if kind == "reduce-scatter":
        whole *= members
    share = (members - 1) / members
    factor = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(kind, share)
    return [_Found(kind, _axes_of(groups, sizes, axes), whole * factor)]


def _array_bytes(kind: str, dims: str) -> float:
    bits = _BITS.get(kind) or int(re.findall(r"\d+", kind)[0])
    return math.prod(int(size) for size in dims.split(",") if size) * bits / 8


def _groups(rest: str, devices: int, kind: str) -> np.ndarray | list[list[int]]:
    """Groups of devices, by their place in the mesh, that take part together."""
    if kind == "collective-permute":
        pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", rest)
        numbers = [int(number) for number in re.findall(r"\d+", pairs[1])] if pairs else []
        # a permutation's pairs, less those that keep theirs
        return [pair for pair in np.reshape(numbers, (-1, 2)).tolist() if pair[0] != pair[1]]
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest)
    if iota:
        shape, reshaped = _numbers(iota[1]), _numbers(iota[2])
        order = np.arange(math.prod(reshaped)).reshape(reshaped)
        if iota[3]:
            order = order.transpose(_numbers(iota[3]))
        return order.reshape(shape)
    named = _MESH_GROUPS.search(rest)
    if named:
        return _groups_of_mesh(named)
    listed = re.search(r"replica_groups=\{(\{.*?\})\}", rest)
    if listed:
        return [_numbers(group) for group in re.findall(r"\{([\d,]*)\}", listed[1])]
    return [list(range(devices))]


def _groups_of_mesh(named: re.Match[str]) -> np.ndarray:
    """Groups as newer programs name them: the axes of a mesh, or parts of axes, along which the members differ."""
    axes = [(name, int(size)) for name, size in re.findall(r"'(\w+)'=(\d+)", named["axes"])]
    order = np.arange(math.prod(size for _, size in axes))
    if named["listed"]:
        order = np.array(_numbers(named["listed"]))
    elif named["shape"]:
        order = order.reshape(_numbers(named["shape"]))
        order = order.transpose(_numbers(named["turned"])) if named["turned"] else order
    # Each axis as (before, part, behind), so that a part of it is an axis of its own.
    sizes = dict(axes)
    parts = {
        name: (int(before or 1), int(size or sizes[name])) for name, before, size in _PARTS.findall(named["along"])
    }
    split: list[int] = []
    along: list[int] = []
    for name, size in axes:
        before, part = parts.get(name, (1, 1))
        if name in parts:
            along.append(len(split) + 1)
        split += [before, part, size // (before * part)]
    places = order.reshape(split)
    others = [axis for axis in range(len(split)) if axis not in along]
    return places.transpose(*others, *along).reshape(-1, math.prod(split[axis] for axis in along))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def _axes_of(groups: Iterable[Iterable[int]], sizes: Sequence[int], axes: Sequence[str]) -> str:
    """The mesh axes along which the members of a group differ, `data+fsdp`."""
    varying = set()
    for group in groups:
        places = np.array(np.unravel_index(np.array(list(group)), tuple(sizes)))
        varying |= {axes[number] for number in range(len(axes)) if len(set(places[number].tolist())) > 1}
    return "+".join(axis for axis in axes if axis in varying) or "none"
