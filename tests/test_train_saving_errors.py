"""The reason of a failing save is short and comes first; only its repetitions are dropped."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any, NamedTuple

import pytest

from bert_jax.train.saving_errors import drop_repetitions, reason

OF_TENSORSTORE = (
    'RESOURCE_EXHAUSTED: Error opening "zarr" driver: Error writing "opt_state/nu/pooler/bias/.zarray" in OCDBT '
    'database at local file "/run/checkpoints/40.orbax-checkpoint-tmp/state/ocdbt.process_0/": Failed to write 7886 '
    "bytes to file 11: No space left on device [os_error_code='28']"
)


def test_the_systems_own_words_come_first() -> None:
    assert reason(OSError(28, "No space left on device")) == "No space left on device"
    assert reason(ValueError(OF_TENSORSTORE)) == "No space left on device"
    around = RuntimeError("background commit failed")
    around.__cause__ = OSError(13, "Permission denied")
    assert reason(around) == "Permission denied"


def test_what_the_system_did_not_say_is_one_short_line() -> None:
    assert reason(ValueError("first\nsecond")) == "first"
    assert reason(KeyError()) == "KeyError"
    text = reason(ValueError("a" * 300 + "b" * 300))
    assert len(text) < 210 and text.startswith("aaa") and text.endswith("bbb")


@pytest.fixture
def hooked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What passes the hook that the filter was put before."""
    passed: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", passed.append)
    monkeypatch.setattr("bert_jax.train.saving_errors._installed", False)
    loggers = [logging.getLogger("asyncio"), logging.getLogger("absl")]
    before = [list(each.filters) for each in loggers]
    drop_repetitions()
    yield passed
    for each, filters in zip(loggers, before, strict=True):
        each.filters[:] = filters


class _Unraisable(NamedTuple):
    exc_type: Any
    exc_value: Any
    exc_traceback: Any
    err_msg: Any
    object: Any


def _unraisable(error: Exception, skipped: int = 0) -> _Unraisable:
    trace = error.__traceback__
    for _ in range(skipped):  # as TensorStore calls it: no Python below
        trace = trace.tb_next if trace else None
    return _Unraisable(type(error), error, trace, None, None)


def test_late_answers_of_writes_are_dropped_other_errors_pass(hooked: list[Any]) -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed") as late:
        loop.call_soon_threadsafe(print)
    sys.unraisablehook(_unraisable(late.value, skipped=1))  # type: ignore[arg-type]
    assert hooked == []
    for other in (_unraisable(late.value), _unraisable(ValueError("a"))):  # a user's own call, another error
        sys.unraisablehook(other)  # type: ignore[arg-type]
    assert len(hooked) == 2


def test_repeated_failures_of_arrays_are_not_logged_other_lines_are(
    hooked: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    log = logging.getLogger("asyncio")
    log.error("Future exception was never retrieved", exc_info=ValueError(OF_TENSORSTORE))
    log.error("Future exception was never retrieved", exc_info=ValueError("of somebody else"))
    log.warning("orbax is slow")
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


@pytest.mark.parametrize(
    ("name", "dropped"),
    [
        ("async_serialize_from_host", True),
        ("_async_serialize_shardings", True),
        ("_serialize_arrays_batches_without_dispatcher.<locals>._serialize_without_dispatcher", True),
        ("_create_paths", True),
        ("cancellable", True),
        ("JsonCheckpointHandler._save_fn", True),
        ("BasePyTreeCheckpointHandler._write_metadata_after_commits", True),
        ("mine", False),
    ],
)
def test_what_orbax_had_begun_and_nobody_awaits_is_dropped(hooked: list[Any], name: str, dropped: bool) -> None:
    sys.unraisablehook(_unraisable(RuntimeWarning(f"coroutine '{name}' was never awaited")))  # type: ignore[arg-type]
    assert bool(hooked) is not dropped
