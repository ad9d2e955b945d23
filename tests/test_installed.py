"""Whole lives in processes of their own: the wheel away from the repository, two processes, one that is killed."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from small_runs import BERT_JAX, REPOSITORY, ended, environment, losses, start, together, wait_until
from small_tasks import small_start, write_animals
from test_pretraining import TINY

import bert_jax
from bert_jax.train.checkpoint import restore_params

pytestmark = pytest.mark.ci


@pytest.mark.parametrize("extras", ["", pytest.param("[tf]", marks=pytest.mark.full)])
def test_the_wheel_in_an_empty_environment(tmp_path: Path, extras: str) -> None:
    """The wheel with nothing but what it asks for, away from the repository: without TensorFlow, and with it."""
    python = tmp_path / "venv" / "bin" / "python"
    version = f"py{sys.version_info.major}{sys.version_info.minor}"
    constraints = REPOSITORY / "launch" / "constraints" / f"{version}.txt"
    pip = [str(python), "-m", "pip", "install", "--quiet", f"bert_jax{extras} @ {REPOSITORY.as_uri()}"]
    pip += ["-c", str(constraints)] if constraints.exists() else []
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True, timeout=120)
    clean = {name: value for name, value in environment(1).items() if name != "PYTHONPATH"}
    subprocess.run(pip, check=True, env=clean, timeout=900)
    command = [str(python), "-P", "-m", "bert_jax", "pretrain", "quickstart", "--run", "run", "--train.steps", "20"]
    done = subprocess.run(command, env=clean, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["step"] == 20
    found = subprocess.run([str(python), "-c", "import tensorflow"], env=clean, capture_output=True)
    assert (found.returncode == 0) == bool(extras)
    pages = Path("bert_jax", "infer", "attention_assets")
    (carried,) = (tmp_path / "venv").glob(f"lib/python*/site-packages/{pages}")
    assert {path.name for path in carried.iterdir()} == {path.name for path in (REPOSITORY / pages).iterdir()}


def finished(processes: list[subprocess.Popen[str]], code: int = 0) -> list[tuple[str, str]]:
    """(stdout, stderr) of processes that all end with `code`."""
    outputs = [ended(process, timeout=600) for process in processes]
    assert [found for found, _, _ in outputs] == [code] * len(processes), outputs
    return [(out, errors) for _, out, errors in outputs]


def result(output: str) -> dict[str, Any]:
    return json.loads(output.splitlines()[-1])  # gloo itself prints lines before it


def test_two_processes_train_like_one(data_dir: Path, tmp_path: Path) -> None:
    """Twenty steps with dropout on; stopped by a signal, continued, and evaluated, by two processes together."""
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "vocab.txt").write_bytes((data_dir / "vocab" / "bert_base_uncased.txt").read_bytes())
    text, store = data_dir / "corpus" / "sample_text.txt", tmp_path / "store"
    bert_jax.prepare(source=str(text), tokenizer=str(tokenizer), out=str(store), eval_fraction=0.3, workers=1)

    config = tmp_path / "tiny.py"
    config.write_text(
        "from bert_jax import Config, Data, Train\n"
        f"config = Config(data=Data(store=({str(store)!r},)), train=Train(steps=20))\n"
    )
    train = [*BERT_JAX, "pretrain", str(config), *TINY, "--train.steps", "20", "--model.hidden-dropout-prob", "0.1"]
    train += ["--mesh.data", "1", "--mesh.fsdp", "2", "--evaluate.every", "20"]
    finished([start([*train, "--run", str(tmp_path / "alone")], devices=2)])

    run = tmp_path / "both"
    train += ["--run", str(run)]
    both = together(train)
    wait_until(lambda: len(losses(run)) >= 5, both)
    for process in both:
        process.send_signal(signal.SIGTERM)
    outputs = finished(both, code=75)
    stopped = result(outputs[0][0])["step"]
    assert 5 <= stopped < 20
    assert f"saved checkpoint {stopped}" in outputs[0][1]
    assert "2 processes, 2 devices, 1 of them here" in outputs[0][1]
    assert "{" not in outputs[1][0]
    assert "checkpoint" not in outputs[1][1]  # the second process tells nothing

    # The newest checkpoint is damaged meanwhile: both take the one before it.
    for file in sorted((run / "checkpoints" / str(stopped)).glob("state/**/d/*")):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(bytes(data))
    outputs = finished(together(train))
    assert result(outputs[0][0])["step"] == 20
    assert f"{stopped}.damaged" in outputs[0][1]
    assert losses(run) == pytest.approx(losses(tmp_path / "alone"), rel=1e-5)
    assert list(losses(run)) == list(range(1, 21))

    evaluate = [*BERT_JAX, "evaluate", str(run), "--split", "train", "--sequences", "16", "--batch", "8"]
    both_scores = result(finished(together(evaluate))[0][0])
    one_scores = bert_jax.evaluate(str(run), split="train", sequences=16, batch=8)
    assert both_scores["sequences"] == one_scores["sequences"]
    for name in ("mlm_loss", "nsp_loss"):
        assert both_scores[name] == pytest.approx(one_scores[name], rel=1e-5)


def test_two_processes_fine_tune_like_one(tmp_path: Path) -> None:
    """Two seeds side by side, a device and so a process each, with dropout on: losses, models and predictions."""
    begin = small_start(tmp_path / "start")
    train, dev = write_animals(tmp_path / "train.tsv", 48), write_animals(tmp_path / "dev.tsv", 20, seed=1)
    config = tmp_path / "animals.py"
    config.write_text(
        "from bert_jax.finetune_config import FinetuneConfig, TaskOptions\n"
        "config = FinetuneConfig(task=TaskOptions(length=16))\n"
    )
    command = [*BERT_JAX, "finetune", str(config), "--init", begin]
    command += ["--data.train", str(train), "--data.dev", str(dev), "--data.test", str(dev), "--log.every", "1"]
    command += ["--finetune.batch", "8", "--finetune.buckets", "--finetune.epochs", "2", "--finetune.dropout", "0.1"]
    command += ["--finetune.seeds", "2", "--finetune.side-by-side", "2", "--optimizer.learning-rate", "3e-3"]
    alone, both = tmp_path / "alone", tmp_path / "both"
    ((one, _),) = finished([start([*command, "--run", str(alone)], devices=2)])
    outputs = finished(together([*command, "--run", str(both)]))
    assert "{" not in outputs[1][0]
    assert "degenerate" not in outputs[1][1]  # the second process tells nothing
    assert losses(both) == pytest.approx(losses(alone), rel=1e-5)
    assert list(losses(both)) == list(range(1, 13))
    found, wanted = result(outputs[0][0]), result(one)
    assert found["members"] == wanted["members"]
    assert found["test_accuracy"] == wanted["test_accuracy"]
    for member in ("seed-0", "seed-1"):
        theirs = load_file(both / "models" / f"{member}.safetensors")
        for path, leaf in load_file(alone / "models" / f"{member}.safetensors").items():
            np.testing.assert_allclose(theirs[path], leaf, atol=1e-5, err_msg=f"{member} {path}")
    for file in ("dev.jsonl", "test.jsonl"):
        texts = [(run / "predictions" / file).read_text().splitlines() for run in (alone, both)]
        said = [[json.loads(line)["predicted"]["label"] for line in lines] for lines in texts]
        assert said[0] == said[1]


# --- killed and started again -----------------------------------------------------------------------------------------


def kill_when(reached: Callable[[], bool], command: list[str], moment: float) -> None:
    """Start `command`, wait until `reached()` and `moment` seconds more, and kill it as the kernel would."""
    process = start(command)
    wait_until(reached, [process])
    time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it had ended already"


def test_killed_at_three_moments_a_run_from_text_ends_in_the_same_bits(data_dir: Path, tmp_path: Path) -> None:
    """While the store is made, and twice while it trains: pairs, masks, dropout and parameters are those of one go."""
    text = data_dir / "corpus" / "enwiki" / "AA_wiki_02.txt"
    config = tmp_path / "killed.py"
    config.write_text(
        "from bert_jax import Config, Data\n"
        f"config = Config(data=Data(sources=({str(text)!r},), vocab_size=2000, eval_fraction=0.1))\n"
    )
    command = [*BERT_JAX, "pretrain", str(config), *TINY, "--train.steps", "400"]
    command += ["--model.hidden-dropout-prob", "0.1", "--train.whole-words", "--checkpoint.every", "40"]
    command += ["--evaluate.every", "150"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    finished([start([*command, "--run", str(whole)])])

    chance = random.Random(7)
    first, second = sorted(chance.sample(range(60, 330), 2))
    command += ["--run", str(run)]

    def at(step: int) -> Callable[[], bool]:
        return lambda: len(losses(run)) >= step

    kill_when(lambda: any((run / "data").glob(".store-*/shards/*")), command, chance.uniform(0, 0.2))
    assert not list((run / "data").glob("store-*"))  # no store that looks whole
    kill_when(at(first), command, chance.uniform(0, 0.1))
    kill_when(at(second), command, chance.uniform(0, 0.1))
    finished([start(command)])

    assert losses(run) == losses(whole)
    assert list(losses(whole)) == list(range(1, 401))
    for x, y in zip(jax.tree.leaves(restore_params(run)[0]), jax.tree.leaves(restore_params(whole)[0]), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()
