"""console: progress goes to the log, not to stdout, and says how much is left."""

from __future__ import annotations

import logging

import pytest

from bert_jax import console


def test_plain_progress_writes_the_first_and_last_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, console.LOGGER_NAME), console.progress("reading", 100, "MB") as advance:
        for done in (1, 2, 3, 100):
            advance(done, "ok")
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert lines[0].startswith("reading 1/100 MB")
    assert lines[1].startswith("reading 100/100 MB")
    assert lines[1].endswith("ok")


def test_what_came_before_the_first_report_says_nothing_of_the_time_left(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    with caplog.at_level(logging.INFO, console.LOGGER_NAME), console.progress("training", 111, "steps", 10) as advance:
        for clock[0], done in ((600.0, 11), (620.0, 31), (640.0, 51)):  # ten minutes to compile, then a step a second
            advance(done)
    lines = [record.getMessage() for record in caplog.records]
    assert "left" not in lines[0]
    assert "1:20 left" in lines[1]
    assert "1:00 left" in lines[2]


def test_clock() -> None:
    assert [console.clock(seconds) for seconds in (5, 65, 3725)] == ["0:05", "1:05", "1:02:05"]


def test_only_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    before = console.logger.handlers[:], console.logger.level, console.logger.propagate
    try:
        console.set_up_logging()
        console.only_warnings()
        console.log("information")
        with console.progress("reading", 2) as advance:
            advance(2)
        console.warn("look here")
    finally:
        console.logger.handlers[:], console.logger.level, console.logger.propagate = before
    assert capsys.readouterr().err == "warning: look here\n"


def test_what_is_said_holds_no_control_characters_and_ends(capsys: pytest.CaptureFixture[str]) -> None:
    """A name or a value in a file from elsewhere must not clear the screen of whoever reads the message."""
    console.set_up_logging()
    console.warn("the label \x1b[2J\x9b31m\x07 is \ud800")
    assert capsys.readouterr().err == "warning: the label \\x1b[2J\\x9b31m\\x07 is \\ud800\n"
    assert console.shown("a\n\tb") == "a\n\tb"
    assert len(console.shown("9" * 100_000)) < 5_000
