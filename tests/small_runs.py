"""Real runs at a small size in processes of their own: the command line, a token store of real text, fake devices.

What the tests of several processes and the commands under `tests/chaos` share.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
BERT_JAX = [sys.executable, "-m", "bert_jax"]
SUPERVISOR = [sys.executable, "-m", "bert_jax.supervise"]


def environment(devices: int, **more: str) -> dict[str, str]:
    """That of a process with so many CPU devices; the package is this checkout's."""
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    paths = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths, **more}


def make_store(folder: Path, source: str = "stdlib", size: int = 2000, eval_fraction: float = 0.05) -> Path:
    """A token store under `folder`; made once."""
    store, tokenizer = folder / "store", folder / "tokenizer"
    if not (store / "manifest.json").is_file():
        if not tokenizer.is_dir():
            make = ["vocab", "--source", source, "--out", str(tokenizer), "--size", str(size)]
            subprocess.run([*BERT_JAX, *make], check=True, capture_output=True, env=environment(1), timeout=300)
        make = ["prepare", "--source", source, "--tokenizer", str(tokenizer), "--out", str(store)]
        make += ["--eval-fraction", str(eval_fraction)]
        subprocess.run([*BERT_JAX, *make], check=True, capture_output=True, env=environment(1), timeout=300)
    return store


def pretrain_command(folder: Path, store: Path, run: Path, steps: int, *settings: str, width: int = 64) -> list[str]:
    """`bert-jax pretrain` of two layers on sequences of 32 tokens; later settings win."""
    config = folder / "small.py"
    if not config.is_file():
        partial = folder / f".small.{os.getpid()}"
        partial.write_text(
            "from bert_jax import BertConfig, Config, Data, Train\n"
            f"config = Config(data=Data(store=({str(store)!r},), driver='thread'), train=Train(steps=20))\n"
        )
        partial.replace(config)
    shape = {
        "model.hidden-size": width,
        "model.num-hidden-layers": 2,
        "model.num-attention-heads": 4,
        "model.intermediate-size": 2 * width,
        "model.max-position-embeddings": 32,
        "model.hidden-dropout-prob": 0.1,
        "model.attention-probs-dropout-prob": 0.1,
        "train.length": 32,
        "train.batch": 16,
        "train.predictions": 5,
        "train.steps": steps,
        "train.dtype": "float32",
        "optimizer.warmup": 0.1,
        "optimizer.learning-rate": 1e-3,
        "checkpoint.every": 10,
        "log.every": 1,
        "evaluate.sequences": 32,
        "evaluate.every": 20,
    }
    fields = [text for name, value in shape.items() for text in (f"--{name}", str(value))]
    return [*BERT_JAX, "pretrain", str(config), "--run", str(run), *fields, "--log.no-tensorboard", *settings]


def supervised(command: Sequence[str], *options: str) -> list[str]:
    """The command under the supervisor."""
    return [*SUPERVISOR, *options, "--", *command]


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def start(command: Sequence[str], devices: int = 1, **more: str) -> subprocess.Popen[str]:
    """A process of its own group, its output kept."""
    return subprocess.Popen(
        command,
        env=environment(devices, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def together(command: Sequence[str], devices: int = 1, number: int = 2, **more: str) -> list[subprocess.Popen[str]]:
    """The same command as `number` processes that train together, `devices` each."""
    join = [*command, "--coordinator", f"127.0.0.1:{free_port()}", "--processes", str(number)]
    return [start([*join, "--process", str(index)], devices, **more) for index in range(number)]


def ended(process: subprocess.Popen[str], timeout: float = 300) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a process; killed with all it started when it does not end."""
    try:
        out, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, errors = process.communicate()
        raise AssertionError(f"not ended after {timeout} s: {errors[-2000:]}") from None
    return process.returncode, out, errors


def wait_until(reached: Callable[[], bool], processes: Sequence[subprocess.Popen[str]], seconds: float = 240) -> None:
    """Until `reached()`, while the processes live."""
    begun = time.monotonic()
    while not reached():
        for process in processes:
            assert process.poll() is None, process.communicate()
        assert time.monotonic() - begun < seconds, "the processes did not get there"
        time.sleep(0.01)


def lines(run: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's metrics."""
    path = run / "metrics.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def losses(run: Path) -> dict[int, float]:
    """Loss by step."""
    return {line["step"]: line["loss"] for line in lines(run) if "loss" in line}


def saved_steps(run: Path) -> list[int]:
    """The steps of the checkpoints, oldest first."""
    return sorted(int(path.name) for path in (run / "checkpoints").glob("*") if path.name.isdecimal())


def final_digests(run: Path) -> dict[str, Any]:
    """The digests of the newest checkpoint's arrays: equal if and only if the bits are."""
    record = run / "checkpoints" / str(saved_steps(run)[-1]) / "record" / "digests.json"
    return json.loads(record.read_text())["leaves"]
