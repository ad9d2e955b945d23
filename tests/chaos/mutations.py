"""Ways to damage a file: bits, lengths, lines, numbers, encodings, the structure of JSON; all drawn from one seed."""

from __future__ import annotations

import json
import random
import re
import struct
from collections.abc import Callable
from typing import Any

NUMBERS = (
    "-1",
    "0",
    "--5",
    "1e999",
    "-1e999",
    "NaN",
    "9" * 30,
    "9" * 5000,
    "2147483648",
    "0.5",
    "²",
    "٣",
    "0x10",
    "1_0",
)
TEXTS = (
    *("", " ", "\0", "../../outside", "/etc/hostname", "a" * 5000, "\ud800", "\u2028", "\ufeff", "{}", "[MASK]"),
    *(
        "</script><img src=x onerror=alert(1)>",
        "&#" + "9" * 5000 + ";",
        "🙂",
        "e\u0301" * 50,
        "-",
        "--1",
        "O",
        "B-",
        "'",
    ),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2**31, 2**63, 2**64, 10**12, 10**40, 10**4000, 0.5, -1.5, 1e308),
    *(float("inf"), float("nan"), [], {}, [[]], [None], {"a": None}, [1, 2], ["a", 1], {"": {}}, *TEXTS),
)
DEEP = 100_000

Mutation = Callable[[bytes, random.Random], bytes]


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def flip_early_bits(data: bytes, rng: random.Random) -> bytes:
    """Where headers are."""
    return flip_bits(data[:64], rng) + data[64:]


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.choice((0, 1, 7, rng.randrange(len(data) + 1)))]


def lengthen(data: bytes, rng: random.Random) -> bytes:
    return data + rng.choice((b"\0" * 4096, data[:5000], b"\n", b"\xff", b"}", b"x" * 100))


def remove_slice(data: bytes, rng: random.Random) -> bytes:
    first = rng.randrange(len(data) + 1)
    return data[:first] + data[first + rng.choice((1, 4, 100, 5000)) :]


def repeat_slice(data: bytes, rng: random.Random) -> bytes:
    first = rng.randrange(len(data) + 1)
    part = data[first : first + rng.choice((1, 4, 100))]
    return data[:first] + part * rng.choice((2, 50, 300)) + data[first:]


def insert(data: bytes, rng: random.Random) -> bytes:
    """Bytes that readers trip over, anywhere."""
    what = rng.choice(
        (
            *(b"\0", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\r", b"\n\n", b'"', b"\t", b",", b"\x1a", b"\xef\xbb\xbf"),
            *(
                "\u2028".encode(),
                "\u0085".encode(),
                b"\\ud800",
                b"\\",
                b"[" * DEEP,
                b'{"a":' * DEEP,
                b"<e1>",
                b"</doc>",
            ),
            *(
                b"&#" + b"9" * 5000 + b";",
                b"x" * 100_000,
                b"\xf4\x90\x80\x80",
                b" " * 100_000,
                b"9" * 100_000 + b"a",
                b"." * 100_000,
                *(
                    b"<br " * 20_000,
                    b"&amp" * 20_000,
                    "\u0301".encode() * 50_000,
                    b"' " * 50_000,
                    "\u3002".encode() * 30_000,
                ),
                *(b"a.b" * 30_000, b'"' * 100_001),
                rng.randbytes(rng.choice((1, 16, 500))),
            ),
        )
    )
    first = rng.choice((0, rng.randrange(len(data) + 1), len(data)))
    return data[:first] + what + data[first:]


def change_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    for _ in range(rng.choice((1, 1, 3))):
        at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        action = rng.randrange(5)
        if action == 0 and len(lines) > 1:
            del lines[at]
        elif action == 1:
            lines.insert(other, lines[at])
        elif action == 2:
            lines[at], lines[other] = lines[other], lines[at]
        elif action == 3:
            lines[at] = b""
        else:
            cells = re.split(rb"([\t, ])", lines[at])
            cells[rng.randrange(len(cells))] = rng.choice(TEXTS + NUMBERS).encode("utf-8", "surrogatepass")
            lines[at] = b"".join(cells)
    return b"\n".join(lines)


def change_number(data: bytes, rng: random.Random) -> bytes:
    found = list(re.finditer(rb"-?\d+(\.\d+)?", data[:200_000]))
    if not found:
        return flip_bits(data, rng)
    match = rng.choice(found)
    return data[: match.start()] + rng.choice(NUMBERS).encode() + data[match.end() :]


def reencode(data: bytes, rng: random.Random) -> bytes:
    return data.decode("utf-8", "replace").encode(rng.choice(("utf-16", "utf-32-le", "latin-1", "cp037")), "replace")


def change_json(data: bytes, rng: random.Random) -> bytes:
    """The whole as JSON, else one of its lines, with a value of another type, a key too many, too few or misspelt."""
    try:
        return _dumped(_changed(json.loads(data), rng), rng)
    except (ValueError, RecursionError):
        pass
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    try:
        lines[at] = _dumped(_changed(json.loads(lines[at]), rng), rng)
    except (ValueError, RecursionError):
        return change_number(data, rng)
    return b"\n".join(lines)


def _dumped(value: Any, rng: random.Random) -> bytes:
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    return text.encode("utf-8", rng.choice(("surrogatepass", "replace")))


def _changed(value: Any, rng: random.Random) -> Any:
    places: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting and len(places) < 3000:
        this = waiting.pop(rng.randrange(len(waiting)))
        inside = this.items() if isinstance(this, dict) else enumerate(this) if isinstance(this, list) else ()
        for key, item in inside:
            places.append((this, key))
            waiting.append(item)
    if not places:
        return rng.choice(VALUES)
    for _ in range(rng.choice((1, 1, 1, 3))):
        holder, key = rng.choice(places)
        if not (key in holder if isinstance(holder, dict) else key < len(holder)):
            continue
        action = rng.randrange(6)
        if action == 0:
            del holder[key]
        elif action == 1 and isinstance(holder, dict):
            holder[rng.choice(TEXTS)] = holder.pop(key)
        elif action == 2:
            other, name = rng.choice(places)
            if name in other if isinstance(other, dict) else name < len(other):
                holder[key] = json.loads(json.dumps(other[name]))
        elif action == 3:
            deep: Any = 1
            for _ in range(300):
                deep = [deep]
            holder[key] = deep
        else:
            holder[key] = rng.choice(VALUES)
    return value


def lie_in_header(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file whose header says other lengths, offsets, shapes and dtypes than are there."""
    if len(data) < 10:
        return data
    size = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + size])
    except (ValueError, RecursionError):
        return flip_early_bits(data, rng)
    action = rng.randrange(4)
    if action == 0:
        length = rng.choice((0, 1, size - 1, size + 1, len(data), 2**31, 2**40, 2**63, 2**64 - 1))
        return struct.pack("<Q", length) + data[8:]
    name = rng.choice([key for key in header if isinstance(header[key], dict) and "dtype" in header[key]] or ["x"])
    entry = header.setdefault(name, {})
    if action == 1:
        entry["data_offsets"] = rng.choice(([0, 2**62], [0, 0], [8, 4], [-1, 4], [0, len(data)], ["0", 4], [2**64, 1]))
    elif action == 2:
        entry["shape"] = rng.choice(([2**62, 2**62], [0], [], [-1], [10**12], [1] * 100, "ab", [0, 2**60], [1.5]))
    else:
        entry["dtype"] = rng.choice(("F64", "I8", "BOOL", "F8_E4M3", "F4", "C64", "U16", "X", "", None, "BF16"))
    changed = json.dumps(header).encode()
    return struct.pack("<Q", len(changed)) + changed + data[8 + size :]


ANY: tuple[Mutation, ...] = (
    *(flip_bits, flip_bits, flip_early_bits, truncate, lengthen, remove_slice, repeat_slice, insert, insert),
    *(change_lines, change_lines, change_number, change_number, reencode, change_json, change_json, change_json),
)


def mutate(data: bytes, name: str, rng: random.Random) -> tuple[bytes, str]:
    """`data` damaged in one to three ways, and their names; `name` is the file's."""
    ways = [*ANY, *(lie_in_header,) * 8] if name.endswith(".safetensors") else ANY
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        way = rng.choice(ways)
        data = way(data, rng)
        done.append(way.__name__)
    return data, "+".join(done)
