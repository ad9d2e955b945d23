"""What Orbax and TensorStore say when a save fails: one short reason, instead of a page per array.

A failing save is raised once, by `wait_until_finished`, and reported by us. The same failure comes again from each
array that was being written: by absl's logger, by asyncio's (futures that nobody asked), and by `sys.unraisablehook`,
where TensorStore would answer a loop that is closed. Some of it comes much later, from the garbage collector, so what
drops it stays in place; it is narrow, and with `--debug` it drops nothing.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from bert_jax.console import logger

_LONGEST = 200
_ERROR_CODE = re.compile(r"os_error_code='(\d+)'")
_NEVER_AWAITED = (
    r"coroutine '(_?async_serialize|_serialize_|_create_paths|cancellable|\w+CheckpointHandler\.)\S*' was never awaited"
)
"""Orbax's own coroutines, begun for the other arrays and files of a save that had failed by then."""
_installed = False

Hook = Callable[["sys.UnraisableHookArgs"], Any]


def reason(error: BaseException) -> str:
    """Why a save or a read failed: the system's own words where it has any, else the error's first line, shortened."""
    for link in _chain(error):
        if isinstance(link, OSError) and link.strerror:
            return link.strerror
        code = _ERROR_CODE.search(str(link))
        if code:  # TensorStore hides it behind the path of the database and of the file
            return os.strerror(int(code.group(1)))
    text = (str(error).splitlines() or [""])[0].strip() or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    for _ in range(20):  # a chain may be a ring
        if link is None:
            return
        yield link
        link = link.__cause__ or link.__context__


def drop_repetitions() -> None:
    """From here on a failure inside Orbax is printed by us alone; to be called before the first save."""
    global _installed
    if _installed:
        return
    _installed = True
    logging.getLogger("asyncio").addFilter(_is_news)
    logging.getLogger("absl").addFilter(_is_news)
    warnings.filterwarnings("ignore", _NEVER_AWAITED, RuntimeWarning)
    sys.unraisablehook = _unraisable_hook_before(sys.unraisablehook)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a log line is something else than the repeated failure of a save."""
    if record.levelno < logging.ERROR or logger.isEnabledFor(logging.DEBUG):
        return True
    if record.name == "absl":
        return "orbax" not in record.pathname
    found = record.exc_info[1] if record.exc_info else None
    trace = traceback.format_exception(found) if found is not None else []
    return "orbax" not in " ".join([record.getMessage(), *trace])


def _unraisable_hook_before(hook: Hook) -> Hook:
    def unraisable_hook(arguments: sys.UnraisableHookArgs) -> None:
        if not _is_late(arguments) or logger.isEnabledFor(logging.DEBUG):
            hook(arguments)

    return unraisable_hook


def _is_late(arguments: sys.UnraisableHookArgs) -> bool:
    """Whether it is the answer of a write whose loop, closed when another write failed, waits no more."""
    error, trace = arguments.exc_value, arguments.exc_traceback
    if isinstance(error, RuntimeWarning):  # where warnings are errors
        return re.match(_NEVER_AWAITED, str(error)) is not None
    if not isinstance(error, RuntimeError) or str(error) != "Event loop is closed" or trace is None:
        return False
    # TensorStore calls it where no Python does: from its own threads, or where the last reference is dropped.
    called = trace.tb_frame.f_code.co_name == "call_soon_threadsafe"
    return called or "orbax" in " ".join([repr(arguments.object), *traceback.format_tb(trace)])
