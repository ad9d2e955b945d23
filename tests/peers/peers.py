"""Ours beside the others: interleaved runs on this machine, same shapes, each in its own process, medians.

    python tests/peers/peers.py train --rounds 3
    python tests/peers/peers.py tokenize --text corpus/enwiki --vocab vocab.txt
    python tests/peers/peers.py embed --text corpus/enwiki --model all-MiniLM-L6-v2
    python tests/peers/peers.py all --quick

Ends with one JSON object on stdout: a row per workload and peer with the keys of `bert-jax bench`, each number the
median over the rounds, and the ratio to ours. A peer that cannot run is a row with `error`. `--ours` is the Python
that has this package's dependencies, `--theirs` the one with torch, transformers, tokenizers and keras-hub.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent

# (name, model, batch, length, predictions)
TRAIN_WORKLOADS = (
    ("4x256", "mini", 32, 128, 20),
    ("4x256_512", "mini", 8, 512, 77),
    ("base", "base", 8, 128, 20),
)
TRAIN_PEERS = ("ours", "keras_hub", "torch_masked", "torch_masked_compiled", "torch_shipped")


def train_command(
    peer: str, model: str, batch: int, length: int, predictions: int, arguments: argparse.Namespace
) -> list[str]:
    """The command line that times one peer's training step."""
    shapes = ["--batch", str(batch), "--length", str(length), "--predictions", str(predictions)]
    shapes += ["--steps", str(arguments.steps), "--warmup", str(arguments.warmup)]
    if peer == "ours":
        return [arguments.ours, "-m", "bert_jax", "bench", "train", model, *shapes]
    script = [arguments.theirs, str(HERE / ("train_keras_hub.py" if peer == "keras_hub" else "train_torch.py"))]
    if peer == "keras_hub":
        return [*script, "--model", model, *shapes]
    _, head, *compiled = peer.split("_")
    options = ["--head", head, "--adamw", arguments.adamw, *(["--compile"] if compiled else [])]
    return [*script, "--model", model, *shapes, *options]


def tokenize_command(peer: str, folder: Path, arguments: argparse.Namespace) -> list[str]:
    """The command line that times one peer's WordPiece."""
    megabytes = str(arguments.megabytes)
    if peer == "ours":
        source = ["--source", str(arguments.text), "--megabytes", megabytes]
        return [arguments.ours, "-m", "bert_jax", "bench", "tokenize", "--tokenizer", str(folder), *source]
    kind = peer.removeprefix("tokenize_")
    text = ["--vocab", str(arguments.vocab), "--text", str(arguments.text), "--megabytes", megabytes]
    return [arguments.theirs, str(HERE / "tokenize_peer.py"), kind, *text]


def embed_command(peer: str, texts: Path, arguments: argparse.Namespace) -> list[str]:
    """The command line that times one peer's sentence vectors of the same texts."""
    shared = ["--repeats", str(min(3, arguments.steps)), "--requests", str(min(200, arguments.texts))]
    if peer == "ours":
        source = ["--source", str(texts), "--texts", str(arguments.texts)]
        return [arguments.ours, "-m", "bert_jax", "bench", "predict", str(arguments.model), *source, *shared]
    script = [arguments.theirs, str(HERE / "embed_peer.py"), peer.removeprefix("embed_")]
    return [*script, "--model", str(arguments.model), "--texts", str(texts), *shared]


def write_sentences(text: Path, count: int, path: Path) -> None:
    """`count` sentences of mixed length, one per line, drawn evenly from the files under `text`; the same ones always.

    Only those that a reader of lines leaves as they are: no blanks at the ends, no tags.
    """
    files = [text] if text.is_file() else sorted(file for file in text.rglob("*") if file.is_file())
    lines = (line for file in files for line in file.read_text("utf-8", "replace").split("\n"))
    plain = (" ".join(line.split()) for line in lines if not line.startswith("<"))
    found = [part for line in plain for part in re.split(r"(?<=[.!?]) (?=[A-Z])", line) if part]
    kept = found[:: max(1, len(found) // count)][:count]
    path.write_text("".join(f"{sentence}\n" for sentence in kept), encoding="utf-8")


def run(command: list[str]) -> dict[str, Any]:
    """Run one peer to its end and read the JSON object that ends its standard output."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu")}
    environment.pop("XLA_FLAGS", None)  # fake devices of a test session would split the cores
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=REPOSITORY, check=False)
    text = result.stdout.strip()
    start = 0 if text.startswith("{") else text.rfind("\n{") + 1
    try:
        record = json.loads(text[start:])
    except json.JSONDecodeError:
        record = None
    if result.returncode or not isinstance(record, dict):
        last = (result.stderr.strip() or text or "no output").splitlines()[-1]
        return {"error": f"exit {result.returncode}: {last}"}
    return record


def median_record(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Key by key: the median of numbers, the first of anything else; spread of the main figure beside it."""
    good = [record for record in records if "error" not in record]
    if not good:
        return records[0]
    merged = dict(good[0])
    for key, value in good[0].items():
        numbers = [record.get(key) for record in good]
        if isinstance(value, float) and all(isinstance(number, int | float) for number in numbers):
            merged[key] = statistics.median(numbers)
    merged["rounds"] = len(good)
    main = main_key(merged)
    if main is not None:
        merged[f"{main}_of_rounds"] = sorted(record[main] for record in good)
    return merged


def main_key(record: dict[str, Any]) -> str | None:
    """The figure a row is about."""
    known = ("step_seconds_median", "megabytes_per_second_cold", "sequences_per_second")
    return next((key for key in known if record.get(key) is not None), None)


def interleave(jobs: dict[str, list[str]], rounds: int, label: str) -> list[dict[str, Any]]:
    """Run every job once per round, so that a slow minute of the machine meets all of them."""
    results: dict[str, list[dict[str, Any]]] = {peer: [] for peer in jobs}
    for round_number in range(rounds):
        for peer, command in jobs.items():
            record = run(command)
            results[peer].append(record)
            text = record.get("error") or record.get(main_key(record) or "")
            print(f"{label} round {round_number + 1}: {peer} {text}", file=sys.stderr)
    return [{"workload": label, **median_record(records), "peer": peer} for peer, records in results.items()]


def add_ratios(rows: list[dict[str, Any]]) -> None:
    """How many times faster ours is than each peer, in sequences or cold megabytes per second."""
    ours = {row["workload"]: row for row in rows if row["peer"] == "ours"}
    for row in rows:
        mine = ours.get(row["workload"], {})
        for key in ("sequences_per_second", "megabytes_per_second_cold", "megabytes_per_second_warm"):
            if row.get(key) and mine.get(key):
                row[f"ours_over_this_{key}"] = mine[key] / row[key]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("train", "tokenize", "embed", "all"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="measured steps per run")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--workloads", nargs="*", choices=[name for name, *_ in TRAIN_WORKLOADS], default=None)
    parser.add_argument("--peers", nargs="*", default=None, help="only these peers (ours is always run)")
    parser.add_argument("--adamw", choices=("fused", "plain"), default="fused")
    parser.add_argument("--quick", action="store_true", help="one round, two steps: does it work at all")
    parser.add_argument("--text", type=Path, help="text for tokenize and embed: a file or folder")
    parser.add_argument("--vocab", type=Path, help="vocab.txt for tokenize")
    parser.add_argument("--model", type=Path, help="model directory for embed")
    parser.add_argument("--texts", type=int, default=2000, help="sentences for embed")
    parser.add_argument("--megabytes", type=float, default=4.0)
    parser.add_argument("--ours", default=sys.executable)
    parser.add_argument("--theirs", default=sys.executable)
    arguments = parser.parse_args()
    if arguments.what in ("tokenize", "all") and not (arguments.text and arguments.vocab):
        parser.error("tokenize needs --text and --vocab")
    if arguments.what in ("embed", "all") and not (arguments.text and arguments.model):
        parser.error("embed needs --text and --model")
    if arguments.quick:
        arguments.rounds, arguments.steps, arguments.warmup = 1, 2, 1
        arguments.megabytes, arguments.texts = min(arguments.megabytes, 1.0), min(arguments.texts, 100)
    return arguments


def main() -> None:
    """Run what was asked for and print the table."""
    arguments = parse()
    rows: list[dict[str, Any]] = []

    def chosen(peers: tuple[str, ...]) -> list[str]:
        return [peer for peer in peers if peer == "ours" or arguments.peers is None or peer in arguments.peers]

    if arguments.what in ("train", "all"):
        for name, *shape in TRAIN_WORKLOADS:
            if arguments.workloads is None or name in arguments.workloads:
                jobs = {peer: train_command(peer, *shape, arguments) for peer in chosen(TRAIN_PEERS)}
                rows += interleave(jobs, arguments.rounds, f"train {name}")
    if arguments.what in ("tokenize", "all"):
        peers = chosen(("ours", "tokenize_rust", "tokenize_python"))
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(arguments.vocab, Path(folder) / "vocab.txt")
            (Path(folder) / "tokenizer_config.json").write_text('{"do_lower_case": true}')
            jobs = {peer: tokenize_command(peer, Path(folder), arguments) for peer in peers}
            rows += interleave(jobs, arguments.rounds, "tokenize")
    if arguments.what in ("embed", "all"):
        with tempfile.TemporaryDirectory() as folder:
            texts = Path(folder) / "texts.txt"
            write_sentences(arguments.text, arguments.texts, texts)
            jobs = {peer: embed_command(peer, texts, arguments) for peer in chosen(("ours", "embed_st", "embed_torch"))}
            rows += interleave(jobs, arguments.rounds, "embed")
    add_ratios(rows)
    print(json.dumps({"schema": 1, "rounds": arguments.rounds, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
