"""config_files: finding, typing, storing, overriding and comparing configurations."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from bert_jax import config_files
from bert_jax.config import Config, Data, Optimizer, Phase, Train
from bert_jax.errors import BertJaxError, UsageError
from bert_jax.finetune_config import FinetuneConfig

HEAD = "from bert_jax import Config, Train\n"


@pytest.mark.parametrize("name", config_files.shipped_configs())
def test_shipped_configs_load_and_survive_json(name: str) -> None:
    command, kind = ("finetune", FinetuneConfig) if name.startswith("finetune_") else ("pretrain", Config)
    config = config_files.load_config(name, kind)
    stored = json.loads(json.dumps(config_files.to_dict(config)))
    assert config_files.from_dict(stored, kind) == config
    documentation = config_files.find_config(name).read_text("utf-8")
    assert documentation.startswith('"""')
    assert f"bert-jax {command} {name} --run " in documentation
    with pytest.raises(BertJaxError, match=f"configuration is for {command}, not for"):
        config_files.load_config(name, Config if kind is FinetuneConfig else FinetuneConfig)


def test_missing_config_names_the_shipped_ones() -> None:
    with pytest.raises(BertJaxError, match="did you mean 'quickstart'"):
        config_files.load_config("quickstrat")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("from bert_jax import Config, Train\nconfig = Config(train=Train(stepz=3))", "'stepz'; did you mean 'steps'"),
        (
            "from bert_jax import Config, Train\nconfig = Config(train=Train(steps='3'))",
            "train.steps is '3': expected int | None",
        ),
        (
            "from bert_jax import Config, Train\nconfig = Config(train=Train(objective='nsp'))",
            "expected one of 'mlm.nsp'",
        ),
        ("x = 1", "binds nothing to the name 'config'"),
        ("config = (", "line 1"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(BertJaxError, match=message) as caught:
        config_files.load_config(path)
    assert "mine.py" in str(caught.value)


def test_unknown_stored_field_is_named() -> None:
    with pytest.raises(BertJaxError, match=r"unknown config field train\.step; did you mean train\.steps"):
        config_files.from_dict({"train": {"step": 3}})


def test_differences_carry_their_kind() -> None:
    old = Config(train=Train(steps=10))
    new = Config(
        train=dataclasses.replace(old.train, steps=20, seed=1, dtype="bfloat16"),
        data=Data(workers=2),
    )
    found = {difference.path: difference.kind for difference in config_files.differences(old, new)}
    assert found == {
        "data.workers": "free",
        "train.steps": "schedule",
        "train.seed": "identity",
        "train.dtype": "numerics",
    }


def test_overrides_are_typed_and_reach_phases() -> None:
    config = Config(train=Train(steps=5, later_phases=(Phase(length=512, batch=8, steps=2),)))
    changed = config_files.override(
        config, ["--train.steps", "7", "--mesh.tensor", "2", "--train.later-phases.0.steps", "9"]
    )
    assert (changed.train.steps, changed.mesh.tensor, changed.train.later_phases[0].steps) == (7, 2, 9)
    assert changed.total_steps == 16


def test_overrides_add_phases() -> None:
    new = [f"--train.later-phases.{i}.{name}" for i in (0, 1) for name in ("length=16", "batch=4", f"steps={i + 2}")]
    assert config_files.override(Config(), ["--train.minutes", "0.5"]).train.later_phases == ()  # 0.5 is no phase
    changed = config_files.override(Config(train=Train(steps=5)), [*new, "--train.later_phases.1.restart"])
    assert changed.train.later_phases == (Phase(16, 4, 2), Phase(16, 4, 3, restart=True))
    again = config_files.override(changed, [argument.replace("s.1.", "s.2.") for argument in new])
    assert again.train.later_phases == (*changed.train.later_phases, Phase(16, 4, 3))


def test_what_is_no_python_file_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("null")
    with pytest.raises(
        BertJaxError, match=r"run.json is no CONFIG: expected a Python file \(.py\), or one of .*quickst"
    ):
        config_files.load_config(tmp_path / "run.json")
    with pytest.raises(BertJaxError, match="is a directory, no CONFIG: give a Python file"):
        config_files.load_config(tmp_path)


def test_what_is_given_takes_the_place_of_what_it_excludes() -> None:
    config = Config(data=Data(sources=("text",)), train=Train(steps=5))
    changed = config_files.override(config, ["--train.minutes", "60", "--data.store", "a", "b"])
    assert (changed.train.steps, changed.train.minutes) == (None, 60)
    assert (changed.data.sources, changed.data.store) == ((), ("a", "b"))
    both = config_files.override(config, ["--train.minutes", "60", "--train.steps", "7"])
    assert (both.train.steps, both.train.minutes) == (7, 60)  # for pretrain to refuse


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nope", r"own.py, line 1: ModuleNotFoundError: No module named 'nope'"),
        ("\nconfig = 1 / 0", r"own.py, line 2: ZeroDivisionError"),
        ("from bert_jax import BertConfig\nBertConfig(hidden_size=-1)", r"own.py: hidden_size"),
    ],
)
def test_a_file_that_fails_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(BertJaxError, match=message):
        config_files.load_config(tmp_path / "own.py")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train.stepz", "7"], r"^Unrecognized options: --train.stepz, 7; did you mean --train.steps\?$"),
        (
            ["--train.stepz", "7", "--foo.bar", "3"],
            r"^Unrecognized options: .*--foo.bar, 3; did you mean --train.steps\?$",
        ),
        (["--train.objective", "nsp"], r"^invalid choice 'nsp' for argument '--train.objective'.*'mlm\+sop'\)\.$"),
        (["--help"], "--help is for the command line"),
        (
            ["--train.later-phases.0.length", "64"],
            "Missing .*--train.later-phases.0.batch .*--train.later-phases.0.steps",
        ),
        (["--train.later-phases.1.length", "64"], "later-phases.1 is given and --train.later-phases.0 is not"),
        (["--log.profile", "5"], "log.profile is '5': expected A:B, two step numbers"),
        (["--log.profile", "20:10"], "log.profile is '20:10': expected A:B"),
        (["--train.steps", "many"], r"^Error parsing --train.steps: no type .* from \['many'\]\.$"),
        (["--model.num-attention-heads", "5"], "num_attention_heads 5 does not divide hidden_size 768"),
    ],
)
def test_bad_overrides_are_one_line_of_bad_usage(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        config_files.override(Config(), arguments)
    assert "\n" not in str(caught.value)
    assert "│" not in str(caught.value)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_numbers_are_finite(value: float, tmp_path: Path) -> None:
    """JSON has no other numbers: in run.json an infinite rate would become null, which cannot be read back."""
    with pytest.raises(BertJaxError, match=r"optimizer.eps is -?(inf|nan): expected a finite number$"):
        config_files.check_values(Config(optimizer=Optimizer(eps=value)))
    with pytest.raises(BertJaxError, match=r"clip_norm is -?(inf|nan): expected a finite number, or None for no clip"):
        config_files.override(Config(), ["--optimizer.clip-norm", str(value)])
    (tmp_path / "own.py").write_text(f"from bert_jax import *\nconfig = Config(train=Train(minutes=float('{value}')))")
    with pytest.raises(BertJaxError, match=r"own.py: train.minutes is -?(inf|nan): expected a finite number"):
        config_files.load_config(tmp_path / "own.py")
    with pytest.raises(BertJaxError, match=r"train.later_phases.0.warmup is -?(inf|nan): expected a finite number"):
        config_files.from_dict({"train": {"later_phases": [{"length": 8, "batch": 8, "steps": 8, "warmup": value}]}})
    assert config_files.override(Config(), ["--optimizer.clip-norm", "None"]).optimizer.clip_norm is None
