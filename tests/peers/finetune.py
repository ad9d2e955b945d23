"""Fine-tuning on GLUE, ours beside Hugging Face's transformers in torch: several seeds of each, do the means agree?

    python tests/peers/finetune.py --glue ../shared/data/glue --model MINILM --theirs COMPARE/bin/python --work DIR
    python tests/peers/finetune.py … --tasks cola --examples 256 --seeds 2

Both sides start from the same model with a new head of their own, train on the same rows with the published recipe and
the model's own dropout, each with its own order and its own random numbers, and are scored on dev after the last step
(no step is chosen by its score). Ours makes the batches of rows of like length, theirs of rows as they come. `--model`
is a directory in Hugging Face's layout; `--examples` draws as many lines of the training file, always the same.

A table on stderr, then one JSON object on stdout: by task the scores of all seeds of both sides, means, standard
deviations (n - 1), and the difference of the means in standard errors of the difference, which must be within 3; exit
1 if one is not. Where all seeds of a side score the same on both sides (too few steps: the commoner class for every
row), nothing is compared: `within` is null, exit 1 as well. A score that is not defined, as of constant predictions,
counts as 0. With `--work` a second call goes on where the first one was stopped. Each run has a process of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
LIMIT = 3.0
Scores = list[dict[str, float | None]]


class Files(NamedTuple):
    """A task's files beneath the GLUE folder, and whether their first line names the columns."""

    train: str
    dev: str
    header: bool = True


FILES = {
    "cola": Files("CoLA/train.tsv", "CoLA/dev.tsv", header=False),
    "mrpc": Files("MRPC/msr_paraphrase_train.txt", "MRPC/msr_paraphrase_test.txt"),
    "rte": Files("RTE/train.tsv", "RTE/dev.tsv"),
    "stsb": Files("STS-B/train.tsv", "STS-B/dev.tsv"),
}


def draw_lines(source: Path, header: bool, examples: int | None, path: Path) -> Path:
    """`source`, or at `path` its header and as many of its lines, drawn once and for all, in their order."""
    if examples is None:
        return source
    first, *lines = source.read_bytes().rstrip(b"\n").split(b"\n")
    head = [first] if header else []
    lines = lines if header else [first, *lines]
    chosen = np.sort(np.random.default_rng(0).permutation(len(lines))[:examples])
    path.write_bytes(b"".join(line + b"\n" for line in [*head, *(lines[index] for index in chosen)]))
    return path


def settings_of(task: str, train: Path, dev: Path, arguments: argparse.Namespace) -> list[str]:
    """The command line's settings of one task on our side."""
    return [
        *("--task.length", str(arguments.length)),
        *("--data.train", str(train), "--data.dev", str(dev)),
        *("--finetune.epochs", str(arguments.epochs), "--finetune.batch", str(arguments.batch)),
        *("--finetune.seeds", str(arguments.seeds), "--optimizer.learning-rate", str(arguments.learning_rate)),
        *("--evaluate.every", str(10**9), "--checkpoint.every", str(10**9), "--log.no-tensorboard"),
    ]


def ask(command: list[str], threads: int) -> dict[str, Any]:
    """Run one side to its end, its log on our stderr, and read the JSON object that ends its standard output."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": str(threads)}
    environment.setdefault("JAX_PLATFORMS", "cpu")
    environment.pop("XLA_FLAGS", None)  # fake devices of a test session would split the cores
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    text = result.stdout.strip()
    if result.returncode:
        raise SystemExit(f"exit {result.returncode}: {' '.join(command)}")
    return json.loads(text[0 if text.startswith("{") else text.rfind("\n{") + 1 :])


class Shared:
    """What both sides train on and are scored by: the examples of a task as our rows, and our metric."""

    def __init__(self, task: str, settings: list[str], tokenizer: str):
        from bert_jax.config_files import load_config, override
        from bert_jax.finetune_config import FinetuneConfig
        from bert_jax.formats.model import open_model
        from bert_jax.tasks.examples import encode_all, read_splits
        from bert_jax.tasks.table import FORMS, find_task

        self.config = override(load_config(f"finetune_{task}", FinetuneConfig), settings)
        self.task = find_task(task)
        splits = read_splits(self.task, self.config.data)
        self.form = FORMS[self.task.head](open_model(tokenizer).tokenizer, self.task.labels or (), self.config.task)
        self.train, self.dev = (encode_all(splits[name], self.form, self.config.data) for name in ("train", "dev"))

    def write(self, path: Path) -> None:
        """Rows of both parts as arrays: ids and segments end to end, the length of each, labels or scores."""
        arrays: dict[str, np.ndarray] = {}
        for name, (_, rows) in (("train", self.train), ("dev", self.dev)):
            flat = [row for own in rows for row in own]
            arrays[f"{name}_ids"] = np.concatenate([np.asarray(row.ids[0]) for row in flat])
            arrays[f"{name}_segments"] = np.concatenate([np.asarray(row.segments[0]) for row in flat])
            arrays[f"{name}_lengths"] = np.asarray([row.length for row in flat])
            arrays[f"{name}_targets"] = np.asarray([next(iter(row.targets.values())) for row in flat])
        np.savez(path, **arrays)

    def scores(self, logits: np.ndarray) -> dict[str, float | None]:
        """What dev logits (N, C) are worth."""
        examples, rows = self.dev
        found = [
            self.form.decode(example, own, [{f"{self.form.head}_logits": values}])
            for example, own, values in zip(examples, rows, logits, strict=True)
        ]
        return self.task.metric(found, examples)


def run_ours(task: str, settings: list[str], folder: Path, arguments: argparse.Namespace) -> Scores:
    """The dev scores of each seed, by the command that users type."""
    command = [arguments.ours, "-m", "bert_jax", "finetune", f"finetune_{task}", "--run", str(folder / "ours")]
    begun = ["--init", str(arguments.model)]
    found = ask([*command, *begun, *settings], arguments.threads)
    return [{name: value for name, value in one.items() if name != "step"} for one in found["members"].values()]


def run_theirs(shared: Shared, folder: Path, arguments: argparse.Namespace) -> Scores:
    """The dev scores of each seed in torch."""
    optimizer = shared.config.optimizer
    recipe = {
        "classes": shared.form.classes,
        "epochs": arguments.epochs,
        "batch": arguments.batch,
        "threads": arguments.threads,
        "learning_rate": arguments.learning_rate,
        "warmup": optimizer.warmup,
        "weight_decay": optimizer.weight_decay,
        "eps": optimizer.eps,
        "clip_norm": optimizer.clip_norm,
    }
    options = [word for name, value in recipe.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    scores = []
    for seed in range(arguments.seeds):
        out = folder / f"theirs-{seed}.npy"
        if not out.is_file():
            script = [arguments.theirs, str(HERE / "finetune_torch.py"), "--rows", str(folder / "rows.npz")]
            given = ["--model", str(arguments.model), "--seed", str(seed), "--out", str(out)]
            said = ask([*script, *given, *options], arguments.threads)
            print(f"{shared.task.name} theirs seed {seed}: {json.dumps(said)}", file=sys.stderr)
        scores.append(shared.scores(np.load(out)))
    return scores


def compare(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Both sides' means and deviations, and how many standard errors of the difference lie between the means."""
    sides = {"ours": ours, "theirs": theirs}
    found: dict[str, Any] = {}
    for name, scores in sides.items():
        found[name] = scores
        found[f"{name}_mean"], found[f"{name}_std"] = statistics.fmean(scores), statistics.stdev(scores)
    error = math.sqrt(sum(statistics.variance(scores) / len(scores) for scores in sides.values()))
    difference = found["ours_mean"] - found["theirs_mean"]
    found["difference"], found["standard_error"] = difference, error
    found["difference_in_standard_errors"] = difference / error if error else None
    found["within"] = abs(difference) <= LIMIT * error if error else None
    return found


def compare_task(task: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """One task on both sides."""
    folder.mkdir(parents=True, exist_ok=True)
    given = {name: str(value) for name, value in vars(arguments).items() if name in ASKED}
    noted = folder / "asked.json"
    if noted.is_file() and json.loads(noted.read_text()) != given:
        raise SystemExit(f"{folder} holds runs with other settings ({noted}): give another --work")
    noted.write_text(json.dumps(given))
    files = FILES[task]
    train = draw_lines(arguments.glue / files.train, files.header, arguments.examples, folder / "train.tsv")
    settings = settings_of(task, train, arguments.glue / files.dev, arguments)
    shared = Shared(task, settings, str(arguments.model))
    shared.write(folder / "rows.npz")
    ours, theirs = run_ours(task, settings, folder, arguments), run_theirs(shared, folder, arguments)
    score = shared.task.score
    row = {"task": task, "score": score, "examples": len(shared.train[0]), "dev_examples": len(shared.dev[0])}
    row |= compare(*([one[score] or 0.0 for one in side] for side in (ours, theirs)))
    return row | {"ours_scores": ours, "theirs_scores": theirs}


ASKED = ("model", "examples", "seeds", "epochs", "batch", "length", "learning_rate")
"""What makes the runs in a --work folder what they are."""


def table(rows: list[dict[str, Any]]) -> str:
    """The rows for a person to read, scores times 100."""
    lines = ["| task, score | side | seeds | mean | std | difference in standard errors |", "|---|---|---|---|---|---|"]
    for row in rows:
        apart, reach = row["difference_in_standard_errors"], "within" if row["within"] else "NOT within"
        said = "not compared: no seed differs from another" if apart is None else f"{apart:+.2f}, {reach} {LIMIT:g}"
        for side, last in (("ours", said), ("theirs", "")):
            seeds = " ".join(f"{100 * value:.1f}" for value in row[side])
            mean, std = 100 * row[f"{side}_mean"], 100 * row[f"{side}_std"]
            lines.append(f"| {row['task']}, {row['score']} | {side} | {seeds} | {mean:.2f} | {std:.2f} | {last} |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--glue", type=Path, required=True, help="folder of the GLUE tasks as distributed")
    parser.add_argument("--model", type=Path, required=True, help="directory of the model to start from")
    parser.add_argument("--tasks", default=",".join(FILES), help="separated by commas")
    parser.add_argument("--examples", type=int, help="training examples (default: all)")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--work", type=Path, help="keeps all runs; goes on where it was stopped")
    parser.add_argument("--ours", default=sys.executable)
    parser.add_argument("--theirs", default=sys.executable, help="Python with torch and transformers")
    arguments = parser.parse_args()
    arguments.glue, arguments.model = arguments.glue.resolve(), arguments.model.resolve()
    arguments.tasks = arguments.tasks.split(",")
    if unknown := sorted(set(arguments.tasks) - set(FILES)):
        parser.error(f"--tasks {','.join(unknown)}: expected some of {','.join(FILES)}")
    if arguments.seeds < 2:
        parser.error("--seeds: at least 2, a deviation needs them")
    return arguments


def main() -> None:
    """Compare the tasks that were asked for; exit 1 when means are too far apart or nothing was compared."""
    arguments = parse()
    with tempfile.TemporaryDirectory() as made:
        work = (arguments.work or Path(made)).resolve()
        rows = [compare_task(task, work / task, arguments) for task in arguments.tasks]
    print(table(rows), file=sys.stderr)
    print(
        json.dumps(
            {"schema": 1, "recipe": {name: str(vars(arguments)[name]) for name in ASKED}, "rows": rows}, indent=2
        )
    )
    sys.exit(0 if all(row["within"] for row in rows) else 1)


if __name__ == "__main__":
    main()
