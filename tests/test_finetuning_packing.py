"""Fine-tuning with several examples in a row: it learns and goes on exactly, and what cannot be packed is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from small_tasks import animal_config, animal_sentences, small_start

import bert_jax
from bert_jax import cli
from bert_jax.errors import BertJaxError
from bert_jax.tasks.metrics import classes
from bert_jax.tasks.table import TASKS
from bert_jax.tasks.task import Task
from bert_jax.tasks.training import _of_packed
from bert_jax.train.metrics import read_metrics


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> str:
    return small_start(tmp_path_factory.mktemp("start") / "run")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, start: str) -> tuple[Path, dict[str, Any]]:
    """A packed run from beginning to end, rows a multiple of the eight devices, and what it returned."""
    folder = tmp_path_factory.mktemp("whole")
    config = animal_config(folder / "data", packing=4, batch=32, epochs=16.0)
    return folder / "run", bert_jax.finetune(config, run=str(folder / "run"), init=start)


def lines_of(run: Path) -> list[dict[str, Any]]:
    return [line for line in read_metrics(run / "metrics.jsonl") if "loss" in line]


def test_it_learns_in_fewer_places(whole: tuple[Path, dict[str, Any]], start: str, tmp_path: Path) -> None:
    run, result = whole
    assert result["best"]["accuracy"] > 0.9
    plain = bert_jax.finetune(
        animal_config(tmp_path / "data", batch=32, epochs=4.0), run=str(tmp_path / "run"), init=start
    )
    assert result["total_steps"] == 4 * plain["total_steps"]
    (of_plain, of_packed) = (lines_of(folder)[-1] for folder in (tmp_path / "run", run))
    assert of_packed["sequences_seen"] == 4 * of_plain["sequences_seen"]
    assert of_packed["real_tokens_seen"] == 4 * of_plain["real_tokens_seen"]
    assert of_packed["padding_share"] < of_plain["padding_share"]


def test_what_it_predicts_is_what_one_text_alone_gets(whole: tuple[Path, dict[str, Any]]) -> None:
    written = [json.loads(line) for line in (whole[0] / "predictions" / "dev.jsonl").read_text().splitlines()]
    answers = bert_jax.load(whole[0]).classify([text for text, _ in animal_sentences(40, seed=1)])
    assert len(answers) == len(written) == 40
    for answer, line in zip(answers, written, strict=True):  # type: ignore[arg-type]
        assert line["predicted"]["probabilities"] == pytest.approx(answer["probabilities"], abs=1e-5)


def test_stopped_and_resumed_it_gives_the_same_bits(
    whole: tuple[Path, dict[str, Any]], start: str, tmp_path: Path
) -> None:
    config = animal_config(tmp_path / "data", packing=4, batch=32, epochs=16.0)

    def die(line: dict[str, Any]) -> None:
        if line["step"] == 18:
            raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        bert_jax.finetune(config, run=str(tmp_path / "run"), init=start, on_metrics=die)
    assert bert_jax.finetune(config, run=str(tmp_path / "run"))["step"] == 48
    assert [line["loss"] for line in lines_of(tmp_path / "run")] == [line["loss"] for line in lines_of(whole[0])]
    with pytest.raises(BertJaxError, match=r"finetune\.packing is 4 there and 3 here.*another --run"):
        bert_jax.finetune(config, run=str(tmp_path / "run"), overrides=["--finetune.packing", "3"])


@pytest.mark.ci  # a program of its own
def test_seeds_side_by_side_begin_as_separate_runs(
    whole: tuple[Path, dict[str, Any]], start: str, tmp_path: Path
) -> None:
    config = animal_config(tmp_path / "data", packing=4, batch=32, epochs=16.0, seeds=2, side_by_side=2)

    def die(line: dict[str, Any]) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        bert_jax.finetune(config, run=str(tmp_path / "run"), init=start, on_metrics=die)
    (found,) = read_metrics(tmp_path / "run" / "metrics.jsonl")
    alone = lines_of(whole[0])[0]
    assert (found["step"], found["sequences_seen"]) == (alone["step"], 2 * alone["sequences_seen"])
    assert found["loss_seed-0"] == pytest.approx(alone["loss"], rel=2e-4)
    assert abs(found["loss_seed-1"] - found["loss_seed-0"]) > 1e-3


def test_through_the_command_line(start: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    animal_config(tmp_path)
    (tmp_path / "own.py").write_text(
        "from bert_jax import FinetuneConfig, TaskOptions\nconfig = FinetuneConfig(task=TaskOptions(length=32))\n"
    )
    files = ["--data.train", str(tmp_path / "train.tsv"), "--data.dev", str(tmp_path / "dev.tsv")]
    options = ["--finetune.packing", "8", "--finetune.batch", "24", "--finetune.epochs", "1"]
    options += ["--finetune.dropout", "0", "--finetune.attention-dropout", "0"]
    command = ["finetune", str(tmp_path / "own.py"), "--run", str(tmp_path / "run"), "--init", start]
    assert cli.main([*command, *files, *options]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 4
    texts = ["the cat sat", "a dog ran on the road"]
    for packing in ([], ["--packing", "4"]):
        assert cli.main(["predict", "classify", str(tmp_path / "run"), *texts, *packing]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for one, other in zip(lines[:2], lines[2:], strict=True):
        assert other["probabilities"] == pytest.approx(one["probabilities"], abs=1e-5)


@pytest.mark.parametrize(("name", "head"), [("ner", "tagging"), ("swag", "multiple_choice"), ("similarity",) * 2])
def test_what_cannot_share_a_row_is_refused(start: str, tmp_path: Path, name: str, head: str) -> None:
    config = animal_config(tmp_path / "data", packing=4)
    task = Task(name=name, head=head, read=TASKS["classification"].read, metric=classes, score="accuracy")
    message = (
        rf"finetune.packing is 4, and of {name} \({head}\) each row holds one example: leave it out; classification, "
        "first_token, regression, multi_label can be packed"
    )
    with pytest.raises(BertJaxError, match=message):
        bert_jax.finetune(config, run=str(tmp_path / "run"), init=start, task=task)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_reads_rows_is_refused_by_name(start: str, tmp_path: Path) -> None:
    config = animal_config(tmp_path / "data", packing=4, epochs=0.1)

    def of_rows(outputs: Any, batch: Any) -> Any:
        return jnp.mean(outputs["sequence_output"], axis=(1, 2))

    read = TASKS["classification"].read
    task = Task(name="mine", head="classification", read=read, loss=of_rows, metric=classes, score="accuracy")
    with pytest.raises(BertJaxError, match="the task's loss reads 'sequence_output', .* leave finetune.packing out"):
        bert_jax.finetune(config, run=str(tmp_path / "run"), init=start, task=task)


def test_a_loss_of_ones_own_is_given_what_each_example_has() -> None:
    outputs = {"classification_logits": jnp.array([[1.0, 0.0], [0.0, 3.0]])}
    batch = {"labels": jnp.array([0, 1]), "input_mask": jnp.ones((1, 8))}
    found = _of_packed(lambda outputs, batch: jnp.sum(outputs["classification_logits"], -1) - batch["labels"])
    np.testing.assert_array_equal(found(outputs, batch), [1, 2])
    with pytest.raises(BertJaxError, match="reads 'input_mask', .* have classification_logits and their targets"):
        _of_packed(lambda outputs, batch: batch["input_mask"])(outputs, batch)
