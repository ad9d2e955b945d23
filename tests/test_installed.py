"""Whole lives in processes of their own: the wheel away from the repository, two processes, one that is killed."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from small_tasks import small_start, write_animals
from test_pretraining import TINY

from bert_jax.train.checkpoint import restore_params

REPOSITORY = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.ci


def environment(devices: int, **more: str) -> dict[str, str]:
    flags = f"--xla_force_host_platform_device_count={devices}"
    return {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", **more}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout and unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(folder),
        str(REPOSITORY),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    (built,) = folder.glob("bert_jax-*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_pretrains_the_shipped_quickstart_without_tensorflow(wheel: Path, tmp_path: Path) -> None:
    start = tmp_path / "start" / "sitecustomize.py"  # as if it were not installed: no import finds it
    start.parent.mkdir()
    start.write_text("import sys; sys.modules['tensorflow'] = None")
    command = [sys.executable, "-P", "-m", "bert_jax", "pretrain", "quickstart", "--run", "run", "--train.steps", "20"]
    command += ["--train.batch", "8", "--evaluate.sequences", "16"]
    paths = os.pathsep.join([str(wheel), str(start.parent)])
    where = subprocess.run(
        [sys.executable, "-P", "-c", "import bert_jax; print(bert_jax.__file__)"],
        env=environment(1, PYTHONPATH=paths),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.startswith(str(wheel))
    done = subprocess.run(
        command, env=environment(1, PYTHONPATH=paths), cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["step"] == 20
    assert (tmp_path / "run" / "checkpoints" / "20").is_dir()


def test_the_wheel_carries_the_parts_of_the_attention_page(wheel: Path) -> None:
    source = REPOSITORY / "bert_jax" / "infer" / "attention_assets"
    carried = wheel / "bert_jax" / "infer" / "attention_assets"
    assert {path.name for path in carried.iterdir()} == {path.name for path in source.iterdir()}


@pytest.mark.parametrize("extras", ["", pytest.param("[tf]", marks=pytest.mark.full)])
def test_the_wheel_in_an_empty_environment(tmp_path: Path, extras: str) -> None:
    """Nothing but what the package itself asks for, and what quickstart prints, away from the repository."""
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


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def losses(run: Path) -> list[float]:
    lines = [
        json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines(keepends=True) if line[-1] == "\n"
    ]
    return [line["loss"] for line in lines if "loss" in line]


def together(command: list[str], number: int = 2) -> list[subprocess.Popen[str]]:
    """The same command as `number` processes that train together, one device each."""
    join = [*command, "--coordinator", f"127.0.0.1:{free_port()}", "--processes", str(number)]
    return [
        subprocess.Popen(
            [*join, "--process", str(index)],
            env=environment(1),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(number)
    ]


def finished(processes: list[subprocess.Popen[str]], code: int = 0) -> list[tuple[str, str]]:
    outputs = [process.communicate(timeout=600) for process in processes]
    assert [process.returncode for process in processes] == [code] * len(processes), outputs
    return outputs


def result(output: str) -> dict[str, Any]:
    return json.loads(output.splitlines()[-1])  # gloo itself prints lines before it


def test_two_processes_train_like_one(data_dir: Path, tmp_path: Path) -> None:
    """Twenty steps with dropout on; stopped by a signal, continued, and evaluated, by two processes together."""
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "vocab.txt").write_bytes((data_dir / "vocab" / "bert_base_uncased.txt").read_bytes())
    python = [sys.executable, "-m", "bert_jax"]
    make = ["prepare", "--source", str(data_dir / "corpus" / "sample_text.txt"), "--tokenizer", str(tokenizer)]
    make += ["--out", str(tmp_path / "store"), "--eval-fraction", "0.3"]
    subprocess.run([*python, *make], check=True, capture_output=True, env=environment(1), timeout=120)

    config = tmp_path / "tiny.py"
    config.write_text(
        "from bert_jax import Config, Data, Train\n"
        f"config = Config(data=Data(store=({str(tmp_path / 'store')!r},)), train=Train(steps=20))\n"
    )
    train = [*python, "pretrain", str(config), *TINY, "--train.steps", "20", "--model.hidden-dropout-prob", "0.1"]
    train += ["--mesh.data", "1", "--mesh.fsdp", "2", "--evaluate.every", "20"]
    alone = subprocess.run(
        [*train, "--run", str(tmp_path / "alone")], env=environment(2), capture_output=True, text=True, timeout=600
    )
    assert alone.returncode == 0, alone.stderr[-2000:]

    run = tmp_path / "both"
    train += ["--run", str(run)]
    both = together(train)
    while not (run / "metrics.jsonl").is_file() or len(losses(run)) < 5:
        assert all(process.poll() is None for process in both), finished(both)
        time.sleep(0.01)
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
    assert len(losses(run)) == 20

    evaluate = [*python, "evaluate", str(run), "--split", "train", "--sequences", "16", "--batch", "8"]
    both_scores = result(finished(together(evaluate))[0][0])
    one = subprocess.run(evaluate, env=environment(1), capture_output=True, text=True, timeout=300, check=True)
    one_scores = json.loads(one.stdout)
    assert both_scores["sequences"] == one_scores["sequences"]
    for name in ("mlm_loss", "nsp_loss"):
        assert both_scores[name] == pytest.approx(one_scores[name], rel=1e-5)


def test_two_processes_fine_tune_like_one(tmp_path: Path) -> None:
    """Two seeds side by side, a device and so a process each, with dropout on: losses, models and predictions."""
    start = small_start(tmp_path / "start")
    train, dev = write_animals(tmp_path / "train.tsv", 48), write_animals(tmp_path / "dev.tsv", 20, seed=1)
    config = tmp_path / "animals.py"
    config.write_text(
        "from bert_jax.finetune_config import FinetuneConfig, TaskOptions\n"
        "config = FinetuneConfig(task=TaskOptions(length=16))\n"
    )
    command = [sys.executable, "-m", "bert_jax", "finetune", str(config), "--init", start]
    command += ["--data.train", str(train), "--data.dev", str(dev), "--data.test", str(dev), "--log.every", "1"]
    command += ["--finetune.batch", "8", "--finetune.buckets", "--finetune.epochs", "2", "--finetune.dropout", "0.1"]
    command += ["--finetune.seeds", "2", "--finetune.side-by-side", "2", "--optimizer.learning-rate", "3e-3"]
    alone, both = tmp_path / "alone", tmp_path / "both"
    one = subprocess.run(
        [*command, "--run", str(alone)], env=environment(2), capture_output=True, text=True, timeout=600
    )
    assert one.returncode == 0, one.stderr[-2000:]
    outputs = finished(together([*command, "--run", str(both)]))
    assert "{" not in outputs[1][0]
    assert "degenerate" not in outputs[1][1]  # the second process tells nothing
    assert losses(both) == pytest.approx(losses(alone), rel=1e-5)
    assert len(losses(both)) == 12
    found, wanted = result(outputs[0][0]), result(one.stdout)
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
    process = subprocess.Popen(command, env=environment(1), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    begun = time.monotonic()
    while not reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - begun < 300
        time.sleep(0.005)
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
    command = [sys.executable, "-m", "bert_jax", "pretrain", str(config), *TINY, "--train.steps", "400"]
    command += ["--model.hidden-dropout-prob", "0.1", "--train.whole-words", "--checkpoint.every", "40"]
    command += ["--evaluate.every", "150"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    subprocess.run([*command, "--run", str(whole)], check=True, env=environment(1), capture_output=True, timeout=600)

    chance = random.Random(7)
    first, second = sorted(chance.sample(range(60, 330), 2))
    command += ["--run", str(run)]

    def at(step: int) -> Callable[[], bool]:
        return lambda: (run / "metrics.jsonl").is_file() and len(losses(run)) >= step

    kill_when(lambda: any((run / "data").glob(".store-*/shards/*")), command, chance.uniform(0, 0.2))
    assert not list((run / "data").glob("store-*"))  # no store that looks whole
    kill_when(at(first), command, chance.uniform(0, 0.1))
    kill_when(at(second), command, chance.uniform(0, 0.1))
    subprocess.run(command, check=True, env=environment(1), capture_output=True, timeout=600)

    assert losses(run) == losses(whole)
    assert len(losses(whole)) == 400
    for x, y in zip(jax.tree.leaves(restore_params(run)[0]), jax.tree.leaves(restore_params(whole)[0]), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()
