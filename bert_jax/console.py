"""What a person sees while a command works: log lines and progress on stderr, never on stdout."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator

LOGGER_NAME = "bert_jax"
_PLAIN_INTERVAL_SECONDS = 10.0

logger = logging.getLogger(LOGGER_NAME)


def set_up_logging(debug: bool = False) -> None:
    """Send this package's log lines to stderr; called by the command line, never at import."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(message)s"))
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(logging.DEBUG if debug else logging.INFO)


_LONGEST = 4000
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


def shown(text: str) -> str:
    """A message as it may stand in a terminal, whatever it quotes of a file: no control characters, and an end."""
    text = text.translate(_CONTROLS).encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} … ({len(text):,} characters)"


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record))


def only_warnings() -> None:
    """From here on no lines of information and no progress: of several processes the first alone tells."""
    logger.setLevel(max(logger.level, logging.WARNING))


def log(message: str) -> None:
    """One line of information."""
    logger.info(message)


def warn(message: str) -> None:
    """One line that the user should act on."""
    logger.warning("warning: %s", message)


@contextlib.contextmanager
def rewording(reword: Callable[[str], str]) -> Iterator[None]:
    """Every line that is said meanwhile goes through `reword`."""

    def change(record: logging.LogRecord) -> bool:
        record.msg, record.args = reword(record.getMessage()), None
        return True

    logger.addFilter(change)
    try:
        yield
    finally:
        logger.removeFilter(change)


Advance = Callable[..., None]


@contextlib.contextmanager
def progress(description: str, total: float | None, unit: str = "", done: int = 0) -> Iterator[Advance]:
    """A progress line on stderr, live in a terminal or a notebook, a plain line every ten seconds elsewhere.

    Yields `advance(completed, text="")`: `completed` counts from 0 to `total` in `unit`s, `text` stands behind the bar.
    `done` of them were done before: they say nothing about the time left.
    """
    if not logger.isEnabledFor(logging.INFO):
        yield lambda completed, text="": None
    elif sys.stderr.isatty() or "ipykernel" in sys.modules:
        with _rich_progress(description, total, unit, done) as advance:
            yield advance
    else:
        yield _plain_progress(description, total, unit, done)


@contextlib.contextmanager
def _rich_progress(description: str, total: float | None, unit: str, done: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True, force_jupyter="ipykernel" in sys.modules)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}" if total else "{task.completed:,.0f}"),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rich warns about notebooks without ipywidgets; plain text is fine there
        with Progress(*columns, console=console, transient=False) as bars:
            task = bars.add_task(description, total=total, completed=done, text="")

            def advance(completed: float, text: str = "") -> None:
                bars.update(task, completed=completed, text=text)

            yield advance


def _plain_progress(description: str, total: float | None, unit: str, done: int) -> Advance:
    last = time.monotonic() - _PLAIN_INTERVAL_SECONDS
    first: tuple[float, float] | None = None  # the first report: what came before it (compiling) says nothing

    def advance(completed: float, text: str = "") -> None:
        nonlocal last, first
        now = time.monotonic()
        if first is None and completed > done:
            first = (now, completed)
        if now - last < _PLAIN_INTERVAL_SECONDS and completed != total:
            return
        last = now
        whole = f"/{total:,.0f}" if total else ""
        left = ""
        if total and first is not None and completed > first[1]:
            left = f", {clock((now - first[0]) * (total - completed) / (completed - first[1]))} left"
        logger.info("%s %s%s %s%s %s", description, f"{completed:,.0f}", whole, unit, left, text)

    return advance


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
