"""Find a CONFIG, check its types, store it as JSON, read it back, and say how two of them differ."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import math
import operator
import os
import runpy
import traceback
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from bert_jax.arguments import join_repeated, one_line, repeatable_options, with_new_parts
from bert_jax.config import EXCLUSIVE, Config, Kind, Phase, Train
from bert_jax.errors import BertJaxError, UsageError, bad_usage
from bert_jax.finetune_config import AnyConfig, FinetuneConfig

_Dataclass = TypeVar("_Dataclass")
_Config = TypeVar("_Config", Config, FinetuneConfig)
_COMMANDS: dict[type, str] = {Config: "pretrain", FinetuneConfig: "finetune"}


class Difference(NamedTuple):
    """One field in which two configurations differ; `path` is written with dots."""

    path: str
    kind: Kind
    old: Any
    new: Any


def shipped_folder() -> Path:
    """Where the shipped configurations lie: inside an installed package, beside it in a checkout."""
    inside = Path(__file__).parent / "configs"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "configs"


def shipped_configs() -> list[str]:
    """Names of the shipped configurations."""
    return sorted(path.stem for path in shipped_folder().glob("*.py"))


def similar_config(text: str) -> str | None:
    """The shipped name most like `text`, if any is."""
    return next(iter(difflib.get_close_matches(text, shipped_configs(), n=1)), None)


def find_config(name_or_path: str | os.PathLike[str]) -> Path:
    """The file of a CONFIG given as a path or as the name of a shipped one.

    Errors: `BertJaxError` that lists the shipped names when nothing is there.
    """
    text = os.fspath(name_or_path)
    names = ", ".join(shipped_configs())
    path = Path(text)
    if path.is_file():
        if path.suffix != ".py":
            raise BertJaxError(f"{text} is no CONFIG: expected a Python file (.py), or one of {names}")
        return path
    shipped = shipped_folder() / f"{text}.py"
    if "/" not in text and shipped.is_file():
        return shipped
    close = similar_config(text)
    hint = f"did you mean {close!r}? " if close else ""
    what = f"{text} is a directory, no CONFIG" if path.is_dir() else f"no configuration {text!r}"
    raise BertJaxError(f"{what}: {hint}give a Python file, or one of {names}")


def load_config(name_or_path: str | os.PathLike[str] | AnyConfig, kind: type[_Config] = Config) -> _Config:  # type: ignore[assignment]
    """Run a CONFIG file and return the `config` it binds, its types checked.

    `kind`: what it has to be, a `Config` or a `FinetuneConfig`. Errors: `BertJaxError` naming the file and what is
    wrong in it.
    """
    if isinstance(name_or_path, Config | FinetuneConfig):
        config: Any = name_or_path
        where = ""
    else:
        path = find_config(name_or_path)
        config, where = bound_names(path).get("config"), f"{path}: "
        name_or_path = str(path)
    if isinstance(config, kind):
        check_values(config, where=where)
        return config
    other = next((command for made, command in _COMMANDS.items() if isinstance(config, made)), None)
    if other is not None:
        raise BertJaxError(f"{where or 'this '}configuration is for {other}, not for {_COMMANDS[kind]}")
    found = "nothing" if config is None else type(config).__name__
    raise BertJaxError(f"{name_or_path} binds {found} to the name 'config': expected bert_jax.{kind.__name__}(...)")


def bound_names(path: Path) -> dict[str, Any]:
    """The names that a CONFIG file binds. Errors: `BertJaxError` naming the file and what is wrong in it."""
    try:
        return runpy.run_path(str(path))
    except TypeError as error:  # Config(unknown=...) and its sections
        message = str(error).split(". Did you mean")[0]  # Python 3.13's own guess, which knows one section only
        raise BertJaxError(f"{path}: {message}{_suggestion(message)}") from error
    except SyntaxError as error:
        raise BertJaxError(f"{path}, line {error.lineno}: {error.msg}") from error
    except BertJaxError as error:
        raise BertJaxError(f"{path}: {error}") from error
    except Exception as error:
        lines = [step.lineno for step in traceback.extract_tb(error.__traceback__) if step.filename == str(path)]
        where = f", line {lines[-1]}" if lines else ""
        raise BertJaxError(f"{path}{where}: {type(error).__name__}: {error}") from error


def _suggestion(message: str) -> str:
    """Did-you-mean for Python's own "unexpected keyword argument 'x'"."""
    quoted = message.rsplit("'", 2)
    if "unexpected keyword argument" not in message or len(quoted) < 3:
        return ""
    fields = [*fields_of(Config()), *fields_of(FinetuneConfig())]
    sections = {*Config.__dataclass_fields__, *FinetuneConfig.__dataclass_fields__}
    known = sorted({path.rsplit(".", 1)[-1] for path, _ in fields} | sections)
    close = difflib.get_close_matches(quoted[1], known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as plain nested dicts, lists and scalars, ready for JSON."""
    return {item.name: _plain(getattr(config, item.name)) for item in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def from_dict(values: Mapping[str, Any], cls: type[_Dataclass] = Config, where: str = "") -> _Dataclass:  # type: ignore[assignment]
    """The inverse of `to_dict`. Errors: `BertJaxError` naming an unknown field or a value of the wrong type."""
    hints = typing.get_type_hints(cls)
    known = {item.name for item in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {where}{close[0]}?" if close else f"; known: {', '.join(sorted(known))}"
            raise BertJaxError(f"unknown config field {where}{name}{hint}")
    built = cls(**{name: _typed(value, hints[name], f"{where}{name}") for name, value in values.items()})
    check_values(built, where)
    return built


def _typed(value: Any, hint: Any, where: str) -> Any:
    """JSON's lists become tuples and its objects dataclasses, as the field's type says."""
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_dict(value, hint, f"{where}.")  # type: ignore[arg-type]
    if typing.get_origin(hint) is tuple and isinstance(value, list | tuple):
        inner = typing.get_args(hint)[0]
        return tuple(_typed(item, inner, f"{where}.{index}") for index, item in enumerate(value))
    return value


_LIMITS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "least": (operator.ge, "at least"),
    "most": (operator.le, "at most"),
    "above": (operator.gt, "more than"),
    "below": (operator.lt, "less than"),
}


def check_values(config: Any, where: str = "") -> None:
    """Check every field of a configuration against its declared type and limits; numbers are finite, as JSON's are.

    Errors: `BertJaxError` naming the field, the value and what was expected.
    """
    hints = typing.get_type_hints(type(config))
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if not _matches(value, hints[item.name]):
            raise BertJaxError(f"{where}{item.name} is {value!r}: expected {_name(hints[item.name])}")
        if isinstance(value, float) and not math.isfinite(value):
            otherwise = f", or None for {item.metadata['none']}" if "none" in item.metadata else ""
            raise BertJaxError(f"{where}{item.name} is {value!r}: expected a finite number{otherwise}")
        for limit, (keeps, words) in _LIMITS.items():
            if value is not None and limit in item.metadata and not keeps(value, item.metadata[limit]):
                raise BertJaxError(f"{where}{item.name} is {value!r}: expected {words} {item.metadata[limit]}")
        fits, words = item.metadata.get("form", (None, ""))
        if fits is not None and value is not None and not fits(value):
            raise BertJaxError(f"{where}{item.name} is {value!r}: expected {words}")
        for index, part in enumerate(value if isinstance(value, tuple) else (value,)):
            if dataclasses.is_dataclass(part):
                place = f"{item.name}.{index}" if isinstance(value, tuple) else item.name
                check_values(part, f"{where}{place}.")
    if isinstance(config, Config):
        _check_batches(config.train, where)


def _check_batches(train: Train, where: str) -> None:
    for phase, batch in enumerate([train.batch, *(phase.batch for phase in train.later_phases)]):
        if batch % train.accumulation:
            raise BertJaxError(
                f"{where}train.accumulation is {train.accumulation}: expected a divisor of the batch, which is {batch} "
                f"in phase {phase}"
            )


def _matches(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_matches(value, option) for option in arguments)
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(_matches(item, arguments[0]) for item in value)
    if origin is not None:
        return isinstance(value, origin)
    if hint is Any:
        return True
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _name(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")


def fields_of(config: Any, prefix: str = "", kind: Kind = "identity") -> Iterator[tuple[str, tuple[Kind, Any]]]:
    """Every leaf field as (dotted path, (kind, value)); a section without marks is of the kind `identity`."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        own: Kind = item.metadata.get("kind", kind)
        if dataclasses.is_dataclass(value):
            yield from fields_of(value, f"{prefix}{item.name}.", own)
        else:
            yield f"{prefix}{item.name}", (own, value)


def differences(old: Any, new: Any) -> list[Difference]:
    """The fields in which two configurations of one type differ, in their order of declaration."""
    before, after = dict(fields_of(old)), dict(fields_of(new))
    return [
        Difference(path, kind, before[path][1], value)
        for path, (kind, value) in after.items()
        if before[path][1] != value
    ]


def override(config: _Config, arguments: list[str], program: str | None = None) -> _Config:
    """Apply `--section.field VALUE` arguments. Errors: `UsageError` in one line, with did-you-mean from tyro."""
    import tyro

    program = program or f"bert-jax {_COMMANDS[type(config)]} CONFIG"
    if {"-h", "--help"} & set(arguments):
        raise UsageError(f"--help is for the command line, not for overrides: run {program} --help")
    arguments = join_repeated(arguments, repeatable_options(typing.get_type_hints(type(config))))
    offered: Any = config
    if isinstance(config, Config):
        phases = with_new_parts(config.train.later_phases, "--train.later-phases", Phase, arguments)
        offered = dataclasses.replace(config, train=dataclasses.replace(config.train, later_phases=phases))
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            changed = tyro.cli(type(config), default=offered, args=arguments, prog=program)
    except SystemExit as error:  # tyro draws a box and exits; a Python caller must get an error instead
        raise UsageError(one_line(said.getvalue())) from error
    if isinstance(config, Config):
        changed = _in_place_of_another(config, changed)
    with bad_usage():
        check_values(changed)
    return changed


def _in_place_of_another(before: Config, after: Config) -> Config:
    """Of fields that exclude each other the one given now: `data.store` instead of the file's `data.sources`."""
    for group in EXCLUSIVE:
        fields = {path: path.split(".") for path in group}
        old = {path: getattr(getattr(before, section), name) for path, (section, name) in fields.items()}
        new = {path: getattr(getattr(after, section), name) for path, (section, name) in fields.items()}
        given = [path for path in group if new[path] and new[path] != old[path]]
        for path, (section, name) in fields.items():
            if len(given) == 1 and new[path] and path != given[0]:
                unset = {name: () if isinstance(new[path], tuple) else None}
                changed = dataclasses.replace(getattr(after, section), **unset)
                after = dataclasses.replace(after, **{section: changed})
    return after
