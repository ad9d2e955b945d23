"""A pre-training run that takes seconds, by the command line, and what its directory says; for the commands beside."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
STEPS, EVERY = 40, 4
CONFIG = f"""
from bert_jax import BertConfig, Checkpoint, Config, Data, Evaluate, Log, Optimizer, Train
from bert_jax.config import Phase

config = Config(
    model=BertConfig(vocab_size=None, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                     intermediate_size=64, max_position_embeddings=48),
    data=Data(sources=("text.txt",), vocab_size=600, eval_fraction=0.1, cache="data", driver="thread"),
    train=Train(length=32, batch=8, predictions=5, steps={STEPS * 5 // 8},
                later_phases=(Phase(length=48, batch=8, predictions=7, steps={STEPS * 3 // 8}),)),
    optimizer=Optimizer(learning_rate=1e-3),
    evaluate=Evaluate(every=6, sequences=16),
    checkpoint=Checkpoint(every={EVERY}, keep=2),
    log=Log(every=1),
)
"""


def write_work(work: Path) -> None:
    """Configuration and text: a little of the documentation that ships with CPython."""
    from bert_jax.data.stdlib import stdlib_documents

    work.mkdir(parents=True, exist_ok=True)
    (work / "config.py").write_text(CONFIG)
    text = "\n\n".join("\n".join(document) for document in stdlib_documents()[:40])
    (work / "text.txt").write_text(text, encoding="utf-8")


def start(
    work: Path, run: Path, command: Sequence[str], options: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """`COMMAND pretrain config.py --run RUN OPTIONS`, to its end; compiled programs are kept under `work`."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(REPOSITORY),
        "JAX_COMPILATION_CACHE_DIR": str(work / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }
    full = [*command, "pretrain", "config.py", "--run", str(run), *options]
    return subprocess.run(full, env=environment, cwd=work, capture_output=True, text=True, timeout=600)


def read(path: Path) -> list[dict[str, Any]]:
    """Lines of JSON; a torn last one is left out, as the package does."""
    lines = path.read_text().split("\n") if path.is_file() else []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def training_steps(run: Path) -> list[int]:
    """The steps that have a line, in the order of the file."""
    return [line["step"] for line in read(run / "metrics.jsonl") if "loss" in line]


def started_at(run: Path) -> list[int]:
    """The step of every start that got as far as training."""
    return [line["step"] for line in read(run / "history.jsonl") if line["event"] == "started"]


def newest(run: Path) -> int:
    """The newest whole checkpoint."""
    return max((int(path.name) for path in (run / "checkpoints").glob("*") if path.name.isdecimal()), default=0)


def told(run: Path) -> list[dict[str, Any]]:
    """All lines of metrics without what a clock says."""
    clocks = ("time", "elapsed_seconds", "sequences_per_second", "real_tokens_per_second", "mfu", "mfu_padded")
    return [{key: value for key, value in line.items() if key not in clocks} for line in read(run / "metrics.jsonl")]


def digests(run: Path) -> Mapping[str, Any]:
    """What the last checkpoint says of every leaf."""
    (record,) = (run / "checkpoints" / str(newest(run))).rglob("digests.json")
    leaves: Mapping[str, Any] = json.loads(record.read_text())["leaves"]
    return leaves
