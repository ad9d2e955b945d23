"""The command `bert-jax`: reads arguments, calls the function of the same name in `commands`, prints its result.

Results go to stdout (one JSON object last, or a stream of lines), everything else to stderr. Exit codes: 0 done,
1 failed with one clear line, 2 bad usage, 75 stopped by a signal after saving, 76 a peer was lost or nothing moved,
130 interrupted with nothing to save.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, get_args, get_type_hints

from bert_jax import __version__, console
from bert_jax.arguments import join_repeated, repeatable_options
from bert_jax.compat import cache_programs
from bert_jax.errors import (
    EXIT_FAILED,
    EXIT_OK,
    EXIT_PEER_LOST,
    EXIT_STOPPED,
    EXIT_USAGE,
    BertJaxError,
    PeerLostError,
    UsageError,
)
from bert_jax.files import to_json
from bert_jax.huge_pages import restart_with_huge_pages

# In the order of a model's life. Each is a function of `bert_jax.commands`.
DISTRIBUTED = ("pretrain", "finetune", "evaluate")
# First arguments of what runs a model; to the others, all of small objects, huge pages are a burden.
COMPUTING = (["pretrain"], ["finetune"], ["evaluate"], ["predict"], ["bench", "train"], ["bench", "predict"])
# Those that compute nothing on a device: an accelerator is not looked for, nor taken from who uses it.
DEVICELESS = ("plan",)
# Those whose programs are kept from one run to the next: here compiling is most of the time to the first answer.
CACHED = (["finetune"], ["predict"], ["bench", "predict"])
COMMANDS = (
    "vocab",
    "prepare",
    "tokenize",
    "show",
    "pretrain",
    "evaluate",
    "finetune",
    "predict",
    "info",
    "convert",
    "plan",
    "bench",
    "doctor",
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command, that of the process when `arguments` are not given; returns the exit code."""
    if arguments is None and any(sys.argv[1 : 1 + len(words)] == words for words in COMPUTING):
        restart_with_huge_pages()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    console.set_up_logging(debug=debug)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return EXIT_OK if arguments else EXIT_USAGE
    if arguments[0] == "--version":
        print(f"bert_jax {__version__}")
        return EXIT_OK
    try:
        return run(arguments[0], arguments[1:])
    except BrokenPipeError:  # the reader of our output went away (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        code = EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED
        if _several_processes():
            _leave_the_others(error, code, debug)
        if debug:
            raise
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return EXIT_PEER_LOST if isinstance(error, PeerLostError) else code


def _several_processes() -> bool:
    """Whether this one trains together with others; loads nothing."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized() and jax.process_count() > 1


def _leave_the_others(error: Exception, code: int, debug: bool) -> NoReturn:
    """Say what failed, here or elsewhere, and end without waiting for processes that may never come."""
    from bert_jax.train.processes import leave, lost_peer

    if debug:
        traceback.print_exception(error)
    if lost_peer(error):
        text = f"a peer process was lost; start all processes again ({_one_line(error)[:300]})"
        code = EXIT_PEER_LOST
    else:
        text = _one_line(error)
    print(f"error: {text}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    leave(code)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, BertJaxError):
        return console.shown(text)
    if isinstance(error, OSError):
        return f"{error.strerror or text}: {error.filename}" if error.filename else text
    return f"{type(error).__name__}: {text[:500]} (give --debug for the traceback)"


def overview() -> str:
    """What `bert-jax --help` prints: every command with the first line of its documentation."""
    from bert_jax import commands

    lines = ["BERT on JAX: raw text in, a pre-trained encoder out.", "", "usage: bert-jax COMMAND ...", ""]
    for name in COMMANDS:
        first = (getattr(commands, name).__doc__ or "").strip().splitlines()[0]
        lines.append(f"  {name:<10} {first}")
    lines += ["", "bert-jax COMMAND --help says more; --debug shows tracebacks."]
    return "\n".join(lines)


def run(name: str, arguments: list[str]) -> int:
    """Parse the arguments of one command, call it and print what it returns."""
    from bert_jax import commands

    if name not in COMMANDS:
        import difflib

        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f": did you mean {close[0]!r}?" if close else f": expected one of {', '.join(COMMANDS)}"
        raise UsageError(f"unknown command {name!r}{hint}")
    if name in DISTRIBUTED:
        arguments = _join_processes(arguments)
    if name in DEVICELESS:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if [name] in CACHED or [name, *arguments[:1]] in CACHED:
        cache_programs()
    result = parse(getattr(commands, name), name, _with_minus(arguments))
    if isinstance(result, Iterator):
        for line in result:
            sys.stdout.write(f"{line}\n")
            if name == "predict":  # somebody may be waiting for each answer
                sys.stdout.flush()
        sys.stdout.flush()
    elif result is not None and _is_first_process():
        print(to_json({"schema": 1, **result}))
    if isinstance(result, dict) and result.get("failing"):
        return EXIT_FAILED
    return EXIT_STOPPED if isinstance(result, dict) and result.get("stopped") else EXIT_OK


def _with_minus(arguments: list[str]) -> list[str]:
    """`--layers -1,-2` as one argument: the parser takes what begins with a minus for an option's name."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == "--layers" and argument[:1] == "-" and argument[1:2].isdigit():
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _join_processes(arguments: list[str]) -> list[str]:
    """Start `jax.distributed` where there are several processes; returns the arguments without its three flags."""
    from bert_jax.train.processes import find_processes, split_flags, start_processes

    flags, rest = split_flags(arguments)
    found = find_processes(*flags)
    if found is not None and not {"-h", "--help"} & set(rest):
        start_processes(found)
    return rest


def _is_first_process() -> bool:
    """True without jax loaded: only a command that uses several processes has loaded it."""
    jax = sys.modules.get("jax")
    return jax is None or not jax.distributed.is_initialized() or jax.process_index() == 0


def parse(command: Callable[..., Any], name: str, arguments: list[str]) -> Any:
    """Call `command` with typed arguments; one that takes `overrides` is given the ones it does not know itself."""
    import tyro

    program, typed = f"bert-jax {name}", _as_typed(command)
    arguments = join_repeated(arguments, repeatable_options(typed.__annotations__))
    if "overrides" not in inspect.signature(command).parameters:
        return tyro.cli(typed, prog=program, args=arguments)()
    if "--help" in arguments or "-h" in arguments:
        return _help_with_overrides(typed, program, arguments, _hints(command)["config"])
    own, unknown = tyro.cli(
        tyro.conf.configure(tyro.conf.AvoidSubcommands)(typed),
        prog=program,
        args=arguments,
        return_unknown_args=True,
    )
    return own(overrides=unknown)


def _as_typed(command: Callable[..., Any]) -> Callable[..., Any]:
    """`command` as tyro sees it: nothing but text for a CONFIG and for SOURCEs, no `overrides`; it returns a call."""
    from bert_jax.config import Config
    from bert_jax.data.iterables import Sources
    from bert_jax.finetune_config import FinetuneConfig

    hints = _hints(command)
    plain = {
        str | Config: str,
        str | FinetuneConfig: str,
        Sources: Sequence[str],
        str | tuple[str, ...]: tuple[str, ...],
    }
    parameters = [
        item.replace(annotation=plain.get(hints[item.name], hints[item.name]))
        for item in inspect.signature(command).parameters.values()
        if item.name in hints
    ]

    def bound(*args: Any, **kwargs: Any) -> Callable[..., Any]:
        return functools.partial(command, *args, **kwargs)

    bound.__doc__ = command.__doc__
    bound.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    bound.__annotations__ = {item.name: item.annotation for item in parameters}
    return bound


def _hints(command: Callable[..., Any]) -> dict[str, Any]:
    """Types of what can be given on the command line; the others are for Python callers."""
    hints = get_type_hints(command, localns={"Task": Any, "Bert": Any})
    return {
        name: hint for name, hint in hints.items() if name not in ("overrides", "on_metrics") and hint != Any | None
    }


def _help_with_overrides(typed: Callable[..., Any], program: str, arguments: list[str], given: Any) -> Any:
    """Help for the command itself, then for every field of the configuration it was given (or of the defaults)."""
    import tyro

    from bert_jax.config_files import load_config

    kind = get_args(given)[1]  # str | Config
    try:
        tyro.cli(typed, prog=program, args=["--help"])
    except SystemExit:
        print("\nand every field of the configuration:\n")
    named = [argument for argument in arguments if not argument.startswith("-")]
    config = load_config(named[0], kind) if named else kind()
    return tyro.cli(kind, default=config, prog=f"{program} CONFIG", args=["--help"])
