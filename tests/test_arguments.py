"""arguments: options given several times, values that cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_type_hints

import pytest

from bert_jax import cli, commands
from bert_jax.arguments import join_repeated, repeatable_options, require_at_least
from bert_jax.config import Config
from bert_jax.config_files import override
from bert_jax.errors import UsageError


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("--source a --source b", "--source a b"),
        ("--source a b --source c", "--source a b c"),
        ("--source=a --source b -", "--source a b -"),
        ("--source a --workers 2 --source=b=c", "--workers 2 --source a b=c"),
        ("--source a --size -1 --source -1 b", "--size -1 --source a -1 b"),
        ("--size 3 --size 4", "--size 3 --size 4"),  # the last one counts, as everywhere
        ("--min_count 1 --com_pare a --com-pare b", "--min_count 1 --com-pare a b"),
        ("--source a -- --source b", "--source a -- --source b"),
    ],
)
def test_an_option_given_again_adds_to_itself(given: str, read: str) -> None:
    assert join_repeated(given.split(), ["--source", "--com-pare"]) == read.split()


def test_what_takes_several_is_known_by_its_type() -> None:
    assert list(repeatable_options(get_type_hints(Config))) == [
        "--data.store",
        "--data.records",
        "--data.sources",
        "--evaluate.stores",
    ]
    assert {"--source", "--compare"} == set(repeatable_options(get_type_hints(commands.vocab)))
    assert "--source" in repeatable_options(get_type_hints(commands.prepare))
    assert "--source" in repeatable_options(get_type_hints(commands.bench))
    assert "--candidates" in repeatable_options(get_type_hints(commands.predict))


@pytest.mark.parametrize(
    "arguments", ["--source a b --size 3", "--source a --size 3 --source b", "--source=a b --size=3"]
)
def test_both_spellings_mean_the_same(arguments: str) -> None:
    def command(*, source: Sequence[str], size: int) -> list[str]:
        """Do something."""
        return [*source, str(size)]

    assert cli.parse(command, "command", arguments.split()) == ["a", "b", "3"]


def test_both_spellings_mean_the_same_for_fields() -> None:
    both = override(Config(), ["--data.store", "a=2", "b", "--evaluate.stores", "x=c", "y=d"])
    again = override(
        Config(),
        [
            "--data.store",
            "a=2",
            "--evaluate.stores=x=c",
            "--train.steps",
            "7",
            "--data.store=b",
            "--evaluate.stores",
            "y=d",
        ],
    )
    assert both.data.store == again.data.store == ("a=2", "b")
    assert both.evaluate.stores == again.evaluate.stores == ("x=c", "y=d")
    assert again.train.steps == 7
    assert override(both, ["--data.store", "c"]).data.store == ("c",)  # not added to what a file says


def test_limits_of_arguments() -> None:
    require_at_least(1, workers=None, size=1)
    for value in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UsageError, match=f"--min-count {value}: expected at least 1"):
            require_at_least(1, size=5, min_count=value)


@pytest.mark.parametrize(
    "line",
    [
        "prepare --source x --tokenizer x --out {out} --workers 0",
        "prepare --source x --tokenizer x --out {out} --eval-fraction 1.5",
        "prepare --source x --tokenizer x --out {out} --min-document-sentences 0",
        "vocab --source {text} --out {out} --size -5",
        "vocab --source {text} --out {out} --kind words --min-count 0",
        "vocab --source {text} --out {out} --sample 5XB",
        "show x --step -1",
        "show x --count 0",
        "evaluate x --sequences 0",
        "evaluate x --batch 0",
        "evaluate x --length 4",
        "evaluate x --masked-share nan",
        "pretrain quickstart --run {out} --train.steps -5",
        "pretrain quickstart --run {out} --train.steps five",
        "pretrain quickstart --run {out} --train.accumulation 5",
        "pretrain quickstart --run {out} --train.steps 3 --train.minutes 1",
        "pretrain quickstart --run {out} --optimizer.learning-rate nan",
        "pretrain quickstart --run {out} --mesh.data 0",
        "pretrain quickstart --run {out} --profile 5",
        "bench feed --repeats 0",
        "bench train --length 3",
        "bench tokenize --megabytes -1",
    ],
)
def test_values_that_can_never_be_are_bad_usage(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("A text.\n")
    assert cli.main(line.format(out=tmp_path / "out", text=tmp_path / "text").split()) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and said.err.count("\n") == 1 and not said.out
    assert [path.name for path in tmp_path.iterdir()] == ["text"]
