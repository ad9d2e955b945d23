"""What tyro leaves open about arguments: options given several times, phases not there yet, errors in one line.

Used by the command line for its own options and by `config_files.override` for fields of a configuration.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bert_jax.errors import UsageError


def repeatable_options(hints: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The options (`--source`, `--data.store`) that take several values, by the types of arguments or of fields."""
    for name, hint in hints.items():
        if dataclasses.is_dataclass(hint):
            yield from repeatable_options(typing.get_type_hints(hint), f"{prefix}{name}.")
        elif _takes_several(hint):
            yield _spelt(f"--{prefix}{name}")


def _takes_several(hint: Any) -> bool:
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_takes_several(member) for member in members)
    is_sequence = isinstance(origin, type) and issubclass(origin, Sequence)
    return is_sequence and not dataclasses.is_dataclass(members[0])


def _spelt(option: str) -> str:
    """An option as it is listed: tyro takes `_` and `-` for the same."""
    return option.replace("_", "-")


def join_repeated(arguments: Sequence[str], options: Iterable[str]) -> list[str]:
    """`--source A --source B` as `--source A B`, which tyro reads; of two it would silently forget the first.

    `options`: those that take several values. Their values stand where the option is given last, in the order in which
    they came. `--source=A` counts as well.
    """
    repeatable = set(options)
    rest: list[str] = []
    values: dict[str, list[str]] = {}
    places: dict[str, int] = {}
    current: list[str] | None = None
    for position, argument in enumerate(arguments):
        if argument == "--":
            rest += arguments[position:]
            break
        name, equals, value = argument.partition("=")
        if _is_option(argument):
            current = values.setdefault(_spelt(name), []) if _spelt(name) in repeatable else None
            if current is not None:
                places[_spelt(name)] = len(rest)
                current += [value] if equals else []
                continue
        (rest if current is None else current).append(argument)
    for name, place in sorted(places.items(), key=lambda item: -item[1]):
        rest[place:place] = [name, *values[name]]
    return rest


def _is_option(argument: str) -> bool:
    """As tyro sees it: a dash and a letter; `-` alone (stdin), -1 and -inf are values."""
    bare = argument.lstrip("-")
    number = not argument.startswith("--") and bare.lower() in ("inf", "infinity", "nan")
    return argument.startswith("-") and bare[:1].isalpha() and not number


def with_new_parts(parts: tuple[Any, ...], option: str, kind: type, arguments: Iterable[str]) -> tuple[Any, ...]:
    """`parts` and a blank dataclass `kind` for each further one that `option`.N.field of the arguments speaks of.

    tyro knows the fields only of what is there; in a blank one the fields without a default are required. Errors:
    `UsageError` for a number that leaves some out.
    """
    import tyro

    named = (re.match(rf"{re.escape(option)}\.(\d+)\.", _spelt(argument)) for argument in arguments)
    numbers = {int(found[1]) for found in named if found}
    for number in range(len(parts), max(numbers, default=-1) + 1):
        if number not in numbers:
            raise UsageError(
                f"{option}.{max(numbers)} is given and {option}.{number} is not: they are numbered from 0 on"
            )
        blank = {
            item.name: tyro.MISSING
            for item in dataclasses.fields(kind)
            if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        }
        parts = (*parts, kind(**blank))
    return parts


def one_line(said: str) -> str:
    """What tyro draws in a box when it refuses arguments, as one line: without title, help texts and other guesses."""
    drawn = [line for line in said.splitlines() if line.strip()]
    title = drawn.pop(0) if drawn else ""  # in the frame, or without one where stderr is not UTF-8
    lines = [line.strip("│ ") for line in drawn if not line.startswith("╰")]
    text = " ".join(" ".join(line for line in lines if not set(line) <= set("─- ")).split()) or title
    for more in ("For full helptext", "Argument helptext:", "Got errors:"):
        text = text.partition(more)[0]
    text, _, similar = re.sub("Arguments similar to [^ ]+:", _SIMILAR, text).partition(_SIMILAR)
    guess = re.search(r"--[\w.-]+", similar)
    return text.strip() + (f"; did you mean {guess[0]}?" if guess else "")


_SIMILAR = "Perhaps you meant:"


def require_at_least(least: float, **given: float | None) -> None:
    """Errors: `UsageError` for an argument that is below `least` or not finite; None was not given."""
    for name, value in given.items():
        if value is not None and not least <= value < math.inf:
            raise UsageError(f"{_spelt('--' + name)} {value}: expected at least {least:g}")
