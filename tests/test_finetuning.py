"""Fine-tuning as a whole, on a tiny model: it learns, goes on exactly, several runs side by side equal single ones."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_tasks import animal_config, small_start, write_animals

import bert_jax
from bert_jax.errors import BertJaxError
from bert_jax.formats.model import load_model
from bert_jax.model.parameters import flatten
from bert_jax.scale.info import info
from bert_jax.tasks import predicting
from bert_jax.tasks.table import TASKS
from bert_jax.train.best import best_models, read_best
from bert_jax.train.metrics import read_metrics


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> str:
    return small_start(tmp_path_factory.mktemp("start") / "run")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, start: str) -> tuple[Path, dict[str, Any]]:
    """A run from beginning to end, and what it returned."""
    folder = tmp_path_factory.mktemp("whole")
    result = bert_jax.finetune(animal_config(folder / "data"), run=str(folder / "run"), init=start)
    return folder / "run", result


def params_of(run: Path, member: str = "seed-0") -> dict[str, np.ndarray]:
    return {path: np.asarray(leaf) for path, leaf in flatten(read_best(run / "models", member)).items()}


def losses_of(run: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(run / "metrics.jsonl") if "loss" in line]


def scores_of(run: Path) -> list[tuple[int, float]]:
    """(step, accuracy on dev) of every evaluation."""
    lines = read_metrics(run / "metrics.jsonl")
    return [(line["step"], line["eval_accuracy"]) for line in lines if "eval_accuracy" in line]


def test_it_learns_and_says_what_it_did(whole: tuple[Path, dict[str, Any]]) -> None:
    run, result = whole
    assert result["best"]["accuracy"] > 0.9
    assert result["stopped"] is False and result["step"] == result["total_steps"]
    lines = [json.loads(line) for line in (run / "predictions" / "dev.jsonl").read_text().splitlines()]
    assert len(lines) == 40
    right = np.mean([line["label"] == line["predicted"]["label"] for line in lines])
    assert right == pytest.approx(result["best"]["accuracy"])


def test_it_is_reported(whole: tuple[Path, dict[str, Any]]) -> None:
    run, result = whole
    page = (run / "report.md").read_text()
    assert f"| accuracy | {result['best']['accuracy']:.4f} |" in page
    wrong = round(40 * (1 - result["best"]["accuracy"]))
    assert f"of {wrong} examples that are not wholly right" in page or wrong == 0
    assert result["best"]["degenerate"] is None and result["best"]["majority"] < 1
    assert any("eval_majority" in line for line in read_metrics(run / "metrics.jsonl"))


def test_the_run_is_a_model(whole: tuple[Path, dict[str, Any]]) -> None:
    run, result = whole
    model = load_model(run)
    assert model.task is not None and model.task.name == "classification"
    assert model.labels == ("cat", "dog") and model.heads == ("classification",)
    assert model.step == result["best"]["step"]
    assert load_model(f"{run}@seed-0").step == model.step
    with pytest.raises(BertJaxError, match=r"has no seed-7: it has seed-0"):
        load_model(f"{run}@seed-7")


def test_a_run_that_has_ended_trains_no_more(whole: tuple[Path, dict[str, Any]], start: str) -> None:
    run, result = whole
    before = (run / "metrics.jsonl").read_bytes()
    again = bert_jax.finetune(animal_config(run.parent / "data"), run=str(run))
    assert again["best"] == result["best"]
    assert (run / "metrics.jsonl").read_bytes() == before


def test_a_stopped_run_goes_on_bit_for_bit(whole: tuple[Path, dict[str, Any]], start: str, tmp_path: Path) -> None:
    config = animal_config(tmp_path / "data")

    def interrupt(line: dict[str, Any]) -> None:
        if line["step"] == 18:
            os.kill(os.getpid(), signal.SIGTERM)

    first = bert_jax.finetune(config, run=str(tmp_path / "run"), init=start, on_metrics=interrupt)
    assert first["stopped"] is True and first["step"] < first["total_steps"]
    second = bert_jax.finetune(config, run=str(tmp_path / "run"))
    assert second["stopped"] is False
    assert losses_of(tmp_path / "run") == losses_of(whole[0])
    for path, leaf in params_of(whole[0]).items():
        np.testing.assert_array_equal(params_of(tmp_path / "run")[path], leaf, err_msg=path)


def test_an_evaluation_is_broken_off_by_a_signal_and_made_first_when_the_run_goes_on(
    whole: tuple[Path, dict[str, Any]], start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, calls = animal_config(tmp_path / "data"), []
    make_batch = predicting.make_batch

    def interrupting(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 7:  # in the middle of the second evaluation, which has five batches
            os.kill(os.getpid(), signal.SIGTERM)
        return make_batch(*arguments)

    monkeypatch.setattr(predicting, "make_batch", interrupting)
    first = bert_jax.finetune(config, run=str(tmp_path / "run"), init=start)
    assert (first["stopped"], first["step"], len(calls)) == (True, 24, 7)
    assert [step for step, _ in scores_of(tmp_path / "run")] == [12]
    second = bert_jax.finetune(config, run=str(tmp_path / "run"))
    assert second["stopped"] is False and second["best"] == whole[1]["best"]
    assert scores_of(tmp_path / "run") == scores_of(whole[0])
    for path, leaf in params_of(whole[0]).items():
        np.testing.assert_array_equal(params_of(tmp_path / "run")[path], leaf, err_msg=path)


@pytest.mark.parametrize("seeds", [2, 8])  # on eight devices: a part of everyone's rows each, or a run each
def test_seeds_side_by_side_equal_separate_runs(
    whole: tuple[Path, dict[str, Any]], start: str, tmp_path: Path, seeds: int
) -> None:
    config = animal_config(tmp_path / "data", seeds=seeds, side_by_side=seeds)
    result = bert_jax.finetune(config, run=str(tmp_path / "run"), init=start)
    assert set(result["members"]) == {f"seed-{seed}" for seed in range(seeds)}
    lines = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss_seed-0" in line]
    np.testing.assert_allclose([line["loss_seed-0"] for line in lines], losses_of(whole[0]), rtol=2e-4)
    assert any(abs(line["loss_seed-0"] - line["loss_seed-1"]) > 1e-3 for line in lines)
    assert set(best_models(tmp_path / "run" / "models")) == set(result["members"])


def test_kernels_do_not_run_side_by_side_on_several_devices(start: str, tmp_path: Path) -> None:
    config = animal_config(tmp_path / "data", seeds=2, side_by_side=2, attention="splash")
    with pytest.raises(BertJaxError, match="attention splash cannot run members side by side on 8 devices: take auto"):
        bert_jax.finetune(config, run=str(tmp_path / "run"), init=start)
    assert not (tmp_path / "run").exists()


def test_groups_one_after_the_other_come_to_the_same(
    whole: tuple[Path, dict[str, Any]], start: str, tmp_path: Path
) -> None:
    config = animal_config(tmp_path / "data", seeds=2, side_by_side=1)
    result = bert_jax.finetune(config, run=str(tmp_path / "run"), init=start)
    assert losses_of(tmp_path / "run" / "groups" / "seed-0") == losses_of(whole[0])
    assert result["members"]["seed-0"]["accuracy"] == whole[1]["best"]["accuracy"]
    assert result["mean"] == pytest.approx(np.mean([one["accuracy"] for one in result["members"].values()]))


def test_a_signal_at_the_last_step_of_a_group_stops_before_the_next(start: str, tmp_path: Path) -> None:
    config = animal_config(tmp_path / "data", seeds=2, side_by_side=1, epochs=1.0)
    run = tmp_path / "run"

    def interrupt(line: dict[str, Any]) -> None:
        if line["step"] == 6 and not (run / "models").exists():  # nothing is scored yet: it has no model
            found = info(run)
            assert found["step"] is None and found["task"]["name"] == "classification"
            assert found["labels"] == ["cat", "dog"] and found["members"] == ["seed-0", "seed-1"]
            assert found["steps_saved"] == {"seed-0": []} and found["total_steps"] == 12
            assert found["heads"] == ["classification"] and found["parameters"]["classification"] == 2 * 16 + 2
        if line["step"] == 12 and "eval_accuracy" in line:
            os.kill(os.getpid(), signal.SIGTERM)

    first = bert_jax.finetune(config, run=str(run), init=start, on_metrics=interrupt)
    assert first["stopped"] is True and list(first["members"]) == ["seed-0"]
    assert not (run / "groups" / "seed-1").exists() and not (run / "predictions").exists()
    second = bert_jax.finetune(config, run=str(run))
    assert second["stopped"] is False and list(second["members"]) == ["seed-0", "seed-1"]
    assert second["members"]["seed-0"] == first["members"]["seed-0"]


def test_several_learning_rates(start: str, tmp_path: Path) -> None:
    config = animal_config(tmp_path / "data", learning_rates=(5e-3, 1e-6), side_by_side=2, epochs=1.0)
    result = bert_jax.finetune(config, run=str(tmp_path / "run"), init=start)
    assert set(result["members"]) == {"seed-0-lr-0.005", "seed-0-lr-1e-06"}
    fast, slow = (result["members"][label]["accuracy"] for label in ("seed-0-lr-0.005", "seed-0-lr-1e-06"))
    assert result["best"]["accuracy"] == max(fast, slow)
    reason = "the same prediction for all 40 dev examples"
    assert result["members"]["seed-0-lr-1e-06"]["degenerate"] == reason
    assert f"degenerate: {reason}" in (tmp_path / "run" / "report.md").read_text()


def test_patience_ends_a_run_that_gets_no_better(start: str, tmp_path: Path) -> None:
    config = animal_config(tmp_path / "data", patience=2, epochs=20.0)
    config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, learning_rate=0.0))
    result = bert_jax.finetune(config, run=str(tmp_path / "run"), init=start)
    assert result["stopped"] is False
    assert result["step"] == 36 < result["total_steps"]  # the first evaluation is the best, two more are not better
    again = bert_jax.finetune(config, run=str(tmp_path / "run"))
    assert again["step"] == 36


def test_pointers_made_anew_begin_at_how_rare_spans_are(start: str, tmp_path: Path) -> None:
    config = animal_config(tmp_path / "data", epochs=1.0, seeds=2)
    line = json.dumps({"text": "the cat sat on the mat .", "spans": [[4, 7, "cat"]]})
    (tmp_path / "spans.jsonl").write_text(f"{line}\n" * 8)
    files = (str(tmp_path / "spans.jsonl"),)
    config = dataclasses.replace(
        config,
        task=dataclasses.replace(config.task, name="spans"),
        data=dataclasses.replace(config.data, train=files, dev=files),
        optimizer=dataclasses.replace(config.optimizer, learning_rate=0.0),
    )
    bert_jax.finetune(config, run=str(tmp_path / "run"), init=start)
    for member in ("", "@seed-1"):
        bias = bert_jax.load(f"{tmp_path / 'run'}{member}").params["pointers"]["bias"]
        np.testing.assert_allclose(bias, [np.log(1 / 6)] * 2, rtol=1e-6)  # one of seven tokens


def test_frozen_layers_stay_and_others_learn(start: str, tmp_path: Path) -> None:
    config = animal_config(tmp_path / "data", frozen_layers=1, epochs=1.0)
    bert_jax.finetune(config, run=str(tmp_path / "run"), init=start)
    before, after = flatten(load_model(start).params), params_of(tmp_path / "run")
    for path, leaf in after.items():
        if path.startswith(("embeddings/", "encoder/")):
            np.testing.assert_array_equal(leaf, before[path], err_msg=path)
    assert not np.array_equal(after["pooler/kernel"], before["pooler/kernel"])


def test_layers_may_begin_anew(start: str, tmp_path: Path) -> None:
    config = animal_config(tmp_path / "data", reinit_layers=1, epochs=1.0)
    config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, learning_rate=0.0))
    bert_jax.finetune(config, run=str(tmp_path / "run"), init=start)
    before, after = flatten(load_model(start).params), params_of(tmp_path / "run")
    kernel = "encoder/layer_0/attention/query/kernel"
    assert not np.array_equal(after[kernel], before[kernel])
    assert np.std(after[kernel]) == pytest.approx(0.02, rel=0.2)
    np.testing.assert_array_equal(after["embeddings/word_embeddings"], before["embeddings/word_embeddings"])


OWN_TASK = """
from pathlib import Path

import jax.numpy as jnp
from bert_jax import FinetuneConfig, Task, TaskData, TaskOptions
from bert_jax.tasks.metrics import classes
from bert_jax.tasks.task import TextExample


def read(source, data):
    for line in Path(source).read_text().splitlines()[1:]:
        text, label = line.split("\\t")
        yield TextExample(a=text, label=label)


def loss(outputs, batch):
    chosen = jnp.take_along_axis(outputs["first_token_logits"], batch["labels"][:, None], axis=1)[:, 0]
    return -chosen + jnp.log(jnp.sum(jnp.exp(outputs["first_token_logits"]), axis=1))


task = Task(name="animals", head="first_token", read=read, loss=loss, metric=classes, score="accuracy")
config = FinetuneConfig(task=TaskOptions(name="animals", length=24))
"""


def test_a_task_may_stand_in_the_configuration(start: str, tmp_path: Path) -> None:
    animal_config(tmp_path)
    (tmp_path / "own.py").write_text(OWN_TASK)
    files = ["--data.train", str(tmp_path / "train.tsv"), "--data.dev", str(tmp_path / "dev.tsv")]
    rate = ["--optimizer.learning-rate", "2e-2", "--finetune.batch", "8", "--finetune.epochs", "4"]
    result = bert_jax.finetune(str(tmp_path / "own.py"), run=str(tmp_path / "run"), init=start, overrides=files + rate)
    assert result["task"] == "animals"
    assert result["best"]["accuracy"] > 0.7
    assert load_model(tmp_path / "run").heads == ("first_token",)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"--task.name": "sst3"}, r"task.name is 'sst3': did you mean 'sst2'\?"),
        ({"--task.length": "999"}, r"task.length is 999: the model has 64 positions"),
        ({"--finetune.frozen-layers": "3"}, r"finetune.frozen_layers is 3: the model has 1 layers"),
        ({"--data.train": "nowhere.tsv"}, r"nowhere.tsv"),
        ({"--finetune.learning-rates": "1e-3"}, None),
    ],
)
def test_what_cannot_be_is_said_before_a_run_is_made(
    start: str, tmp_path: Path, changed: dict[str, str], message: str | None
) -> None:
    config = animal_config(tmp_path / "data", epochs=0.1)
    overrides = [word for pair in changed.items() for word in pair]
    if message is None:
        assert bert_jax.finetune(config, run=str(tmp_path / "run"), init=start, overrides=overrides)["step"] == 1
        return
    with pytest.raises(BertJaxError, match=message):
        bert_jax.finetune(config, run=str(tmp_path / "run"), init=start, overrides=overrides)
    assert not (tmp_path / "run").exists()


def test_a_run_needs_a_model_to_start_from(tmp_path: Path) -> None:
    with pytest.raises(BertJaxError, match="--init MODEL is missing"):
        bert_jax.finetune(animal_config(tmp_path / "data"), run=str(tmp_path / "run"))


def test_other_data_is_another_run(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    config = animal_config(tmp_path / "data", train=80)
    with pytest.raises(BertJaxError, match="is another run: .*fingerprint of train"):
        bert_jax.finetune(config, run=str(whole[0]), overrides=["--finetune.steps", "48"])


def test_what_a_model_is_worth_shows_beside_one_from_scratch(start: str, tmp_path: Path) -> None:
    config = animal_config(tmp_path / "data", from_scratch=True, epochs=1.0)
    config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, learning_rate=0.0))
    bert_jax.finetune(config, run=str(tmp_path / "run"), init=start)
    before, after = flatten(load_model(start).params), params_of(tmp_path / "run")
    for path in ("embeddings/word_embeddings", "encoder/layer_0/attention/query/kernel"):
        assert np.std(after[path]) == pytest.approx(0.02, rel=0.2)
        assert not np.array_equal(after[path], before[path])


def test_a_head_for_other_labels_is_made_anew(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The same shape is not the same head: with cat and dog named yes and no, their order turns."""
    config = animal_config(tmp_path / "data", epochs=0.1)
    for path in (*config.data.train, *config.data.dev):
        text = Path(path).read_text()
        Path(path).write_text(text.replace("\tcat\n", "\tyes\n").replace("\tdog\n", "\tno\n"))
    with caplog.at_level(logging.INFO, "bert_jax"):
        bert_jax.finetune(config, run=str(tmp_path / "run"), init=str(whole[0]))
    assert "classification head is for something else: it is made anew" in caplog.text
    assert losses_of(tmp_path / "run")[0] == pytest.approx(np.log(2), abs=0.05)


def test_data_may_be_moved(start: str, tmp_path: Path) -> None:
    config = animal_config(tmp_path / "data", epochs=1.0)
    bert_jax.finetune(config, run=str(tmp_path / "run"), init=start)
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    again = bert_jax.finetune(animal_config(tmp_path / "elsewhere", epochs=1.0), run=str(tmp_path / "run"))
    assert again["step"] == again["total_steps"]


def test_other_training_data_is_not_scored_on_the_dev_set_of_a_configuration(start: str, tmp_path: Path) -> None:
    config = animal_config(tmp_path / "data", epochs=0.1)
    other = write_animals(tmp_path / "other.tsv", 60, seed=7)
    bert_jax.finetune(config, run=str(tmp_path / "run"), init=start, overrides=["--data.train", str(other)])
    lines = (tmp_path / "run" / "predictions" / "dev.jsonl").read_text().splitlines()
    assert 0 < len(lines) < 20 and all("other.tsv" in json.loads(line)["place"] for line in lines)


def test_a_score_that_the_metric_does_not_give_is_named(start: str, tmp_path: Path) -> None:
    task = dataclasses.replace(TASKS["classification"], score="matthews")
    with pytest.raises(
        BertJaxError, match="the metric of classification gives accuracy, macro_f1, not its score matth"
    ):
        bert_jax.finetune(
            animal_config(tmp_path / "data", epochs=0.1), run=str(tmp_path / "run"), init=start, task=task
        )


def test_a_run_has_one_writer_from_its_first_group_to_its_predictions(tmp_path: Path, start: str) -> None:
    config = animal_config(tmp_path / "data", train=16, epochs=1.0, seeds=2, side_by_side=1)
    refused: list[str] = []

    def second(line: dict[str, Any]) -> None:
        with pytest.raises(BertJaxError) as error:
            bert_jax.finetune(config, run=str(tmp_path / "run"))
        refused.append(str(error.value))

    bert_jax.finetune(config, run=str(tmp_path / "run"), init=start, on_metrics=second)
    assert len(list((tmp_path / "run" / "groups").iterdir())) == 2
    assert len(refused) >= 2
    assert all(
        text.startswith(f"{tmp_path / 'run'} is in use by another process (process {os.getpid()}") for text in refused
    )
