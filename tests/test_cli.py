"""cli: arguments, exit codes, and what goes to stdout and stderr."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from typing import Any

import pytest

from bert_jax import cli, commands
from bert_jax.errors import BertJaxError


def test_overview_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    printed = capsys.readouterr().out
    for name in cli.COMMANDS:
        assert f"\n  {name} " in printed
    assert cli.main([]) == 2


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("bert_jax ")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([name, "--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert f"bert-jax {name}" in printed
    if name == "pretrain":
        assert "--train.learning" not in printed
        assert "--optimizer.learning-rate" in printed
        assert "--overrides" not in printed


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_no_command_takes_an_argument_and_forgets_it(name: str) -> None:
    function = getattr(commands, name)
    read = {node.id for node in ast.walk(ast.parse(inspect.getsource(function))) if isinstance(node, ast.Name)}
    assert set(inspect.signature(function).parameters) <= read


def test_next_sentence_has_no_candidates(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", "next-sentence", "run", "a [SEP] b", "--top-k", "3"]) == 2
    assert "--top-k is for fill-mask, not for next-sentence" in capsys.readouterr().err


def test_unknown_command_suggests_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pretain", "quickstart"]) == 2
    assert "did you mean 'pretrain'" in capsys.readouterr().err


def test_missing_argument_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["prepare", "--source", "x"])
    assert caught.value.code == 2
    assert "--tokenizer" in capsys.readouterr().err


def test_user_errors_are_one_line_and_exit_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "no/such/thing"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    with pytest.raises(BertJaxError):
        cli.main(["info", "no/such/thing", "--debug"])


def test_results_end_with_one_json_object(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def info(what: str, /) -> dict[str, Any]:
        """Say something."""
        return {"loss": float("nan"), "what": what}

    monkeypatch.setattr(commands, "info", info)
    assert cli.main(["info", "x"]) == 0
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "loss": None, "what": "x"}


def test_lines_are_streamed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def show(what: str, /) -> Iterator[str]:
        """Show something."""
        yield what
        yield "二"

    monkeypatch.setattr(commands, "show", show)
    assert cli.main(["show", "一"]) == 0
    assert capsys.readouterr().out == "一\n二\n"


def test_a_stopped_training_exits_75(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def pretrain(config: str, /, *, run: str, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
        """Train."""
        seen.update(config=config, run=run, overrides=list(overrides))
        return {"stopped": True}

    monkeypatch.setattr(commands, "pretrain", pretrain)
    assert cli.main(["pretrain", "c", "--run", "r", "--train.steps", "3", "--mesh.data=2"]) == 75
    assert seen == {"config": "c", "run": "r", "overrides": ["--train.steps", "3", "--mesh.data=2"]}
    assert json.loads(capsys.readouterr().out)["stopped"] is True
