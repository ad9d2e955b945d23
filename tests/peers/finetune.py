"""Fine-tuning, ours beside Hugging Face's transformers in torch: several seeds of each, do the means agree?

    python tests/peers/finetune.py --data ../shared/data --model MINILM --theirs COMPARE/bin/python --work DIR
    python tests/peers/finetune.py … --tasks codah,squad2 --seeds 3 --examples 256
    python tests/peers/finetune.py … --tasks weibo --chinese-model DIR --learning-rate 2e-4

Tasks (`finetune_tasks.TASKS`) are those of GLUE, multiple choice (CODAH), questions (SQuAD 2.0: trained on a part of
its dev set, scored on the articles outside of it) and Chinese tagging (Weibo, CLUENER). Both sides start from the same
model with a new head of their own, train on the same rows with the shipped configuration's recipe and the model's own
dropout, each with its own order and its own random numbers, and are scored after the last step (no step is chosen by
its score), by the same metric, decoded by the same code. Ours makes the batches of rows of like length, theirs of rows
as they come. What transformers has no head for (relations, pointers) is trained on our side alone. `--model` and, for
Chinese tasks, `--chinese-model` are directories in Hugging Face's layout; `--examples` takes fewer training examples.

A table on stderr, then one JSON object on stdout: by task the scores of all seeds of both sides, means, standard
deviations (n - 1), the difference of the means in standard errors of the difference, which must be within 3, and the
`baseline`, what the commonest label of training (or no entity, no span, never an answer) scores. Exit 1 if one is not
within, or if ours, where it stands alone, is not above the baseline with every seed. Where all seeds of a side score
the same on both sides (too few steps: the commoner class for every row), nothing is compared: `within` is null, exit 1
as well. A score that is not defined, as of constant predictions, counts as 0. With `--work` a second call goes on
where the first one was stopped. Each run has a process of its own.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from finetune_tasks import GLUE, TASKS, Peer, Scores, Shared, files_of, settings_of

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
LIMIT = 3.0
RECIPE = {
    "epochs": "--finetune.epochs",
    "batch": "--finetune.batch",
    "length": "--task.length",
    "learning_rate": "--optimizer.learning-rate",
}
"""Options of this script that change the shipped recipe, on both sides."""


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


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make` gave, now or in an earlier call."""
    if not path.is_file():
        whole = path.with_suffix(".part")
        whole.write_text(json.dumps(make()))
        os.replace(whole, path)
    return json.loads(path.read_text())


def run_ours(peer: Peer, settings: list[str], folder: Path, arguments: argparse.Namespace) -> list[Scores]:
    """The scores of each seed, by the command that users type: all in one call, or one each where test is scored."""
    command = [arguments.ours, "-m", "bert_jax", "finetune", peer.config, "--init", str(start_of(peer, arguments))]

    def ask_for(name: str, seeds: list[str]) -> dict[str, Any]:
        given = [*command, "--run", str(folder / name), *settings, *seeds]
        return kept(folder / f"{name}.json", lambda: ask(given, arguments.threads))

    if not peer.tuned:
        found = ask_for("ours", ["--finetune.seeds", str(arguments.seeds)])
        return [{name: value for name, value in one.items() if name != "step"} for one in found["members"].values()]
    alone = [ask_for(f"ours-{seed}", ["--finetune.seed", str(seed)]) for seed in range(arguments.seeds)]
    return [{name[5:]: value for name, value in one.items() if name.startswith("test_")} for one in alone]


def run_theirs(task: str, shared: Shared, folder: Path, arguments: argparse.Namespace) -> list[Scores]:
    """The scores of each seed in torch."""
    recipe = shared.recipe() | {"threads": arguments.threads, "model": start_of(shared.peer, arguments)}
    options = [word for name, value in recipe.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    rows = folder / "rows.npz"
    shared.write(rows)
    scores = []
    for seed in range(arguments.seeds):
        out = folder / f"theirs-{seed}.npz"
        if not out.is_file():
            script = [arguments.theirs, str(HERE / "finetune_torch.py"), "--rows", str(rows)]
            said = ask([*script, "--seed", str(seed), "--out", str(out), *options], arguments.threads)
            print(f"{task} theirs seed {seed}: {json.dumps(said)}", file=sys.stderr)
        scores.append(shared.scores(dict(np.load(out))))
    return scores


def start_of(peer: Peer, arguments: argparse.Namespace) -> Path:
    """The model that both sides start from."""
    return arguments.chinese_model if peer.chinese else arguments.model


def summary(scores: list[float], side: str) -> dict[str, Any]:
    """One side's scores, their mean and deviation."""
    return {side: scores, f"{side}_mean": statistics.fmean(scores), f"{side}_std": statistics.stdev(scores)}


def compare(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Both sides' means and deviations, and how many standard errors of the difference lie between the means."""
    found = summary(ours, "ours") | summary(theirs, "theirs")
    error = math.sqrt(sum(statistics.variance(scores) / len(scores) for scores in (ours, theirs)))
    difference = found["ours_mean"] - found["theirs_mean"]
    found["difference"], found["standard_error"] = difference, error
    found["difference_in_standard_errors"] = difference / error if error else None
    found["within"] = abs(difference) <= LIMIT * error if error else None
    return found


def compare_task(task: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """One task on both sides, or on ours where there is no other. Scores are shares, whatever the official unit."""
    folder.mkdir(parents=True, exist_ok=True)
    given = {name: str(value) for name, value in vars(arguments).items() if name in ASKED}
    if (noted := kept(folder / "asked.json", lambda: given)) != given:
        raise SystemExit(f"{folder} holds runs with other settings ({noted}): give another --work")
    peer = TASKS[task]
    train, scored, settings = files_of(peer, arguments.data, arguments.examples, folder)
    settings += settings_of(peer, train, scored)
    for name, option in RECIPE.items():
        if (value := getattr(arguments, name)) is not None:
            settings += [option, str(value)]
    shared = Shared(peer, settings, str(start_of(peer, arguments)))
    unit = 0.01 if peer.percent else 1.0

    def in_shares(side: list[Scores]) -> list[float]:
        return [unit * (one[shared.task.score] or 0.0) for one in side]

    row: dict[str, Any] = {"task": task, "score": shared.task.score, "examples": len(shared.parts["train"][0])}
    row |= {"scored_examples": len(shared.parts[shared.scored][0])}
    if (trivial := shared.baseline()) is not None:
        row |= {"baseline": unit * trivial[1], "baseline_is": trivial[0]}
    ours = run_ours(peer, settings, folder, arguments)
    row["ours_scores"] = ours
    if peer.head is None:
        above = all(score > row["baseline"] for score in in_shares(ours))
        return row | summary(in_shares(ours), "ours") | {"above_baseline": above}
    theirs = run_theirs(task, shared, folder, arguments)
    return row | compare(in_shares(ours), in_shares(theirs)) | {"theirs_scores": theirs}


ASKED = ("model", "chinese_model", "examples", "seeds", *RECIPE)
"""What makes the runs in a --work folder what they are."""


def table(rows: list[dict[str, Any]]) -> str:
    """The rows for a person to read, scores times 100."""
    lines = ["| task, score | side | seeds | mean | std | difference in standard errors |", "|---|---|---|---|---|---|"]
    for row in rows:
        if "theirs" not in row:
            said = "above the baseline" if row["above_baseline"] else "NOT above the baseline with every seed"
        elif row["difference_in_standard_errors"] is None:
            said = "not compared: no seed differs from another"
        else:
            reach = "within" if row["within"] else "NOT within"
            said = f"{row['difference_in_standard_errors']:+.2f}, {reach} {LIMIT:g}"
        for side, last in (("ours", said), ("theirs", "")):
            if side in row:
                seeds = " ".join(f"{100 * value:.1f}" for value in row[side])
                mean, std = 100 * row[f"{side}_mean"], 100 * row[f"{side}_std"]
                lines.append(f"| {row['task']}, {row['score']} | {side} | {seeds} | {mean:.2f} | {std:.2f} | {last} |")
        if "baseline" in row:
            lines.append(
                f"| {row['task']}, {row['score']} | {row['baseline_is']} | | {100 * row['baseline']:.2f} | | |"
            )
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the sets, see finetune_tasks.TASKS")
    parser.add_argument("--model", type=Path, help="directory of the model to start from")
    parser.add_argument("--chinese-model", type=Path, help="the same of Chinese tasks")
    parser.add_argument("--tasks", default=",".join(GLUE), help=f"separated by commas, of {', '.join(TASKS)}")
    parser.add_argument("--examples", type=int, help="training examples (default: all)")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=float, help="this and the next three: instead of the shipped recipe's")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--length", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--work", type=Path, help="keeps all runs; goes on where it was stopped")
    parser.add_argument("--ours", default=sys.executable)
    parser.add_argument("--theirs", default=sys.executable, help="Python with torch and transformers")
    arguments = parser.parse_args()
    arguments.tasks = arguments.tasks.split(",")
    if unknown := sorted(set(arguments.tasks) - set(TASKS)):
        parser.error(f"--tasks {','.join(unknown)}: expected some of {','.join(TASKS)}")
    for name in ("data", "model", "chinese_model"):
        if (path := getattr(arguments, name)) is not None:
            setattr(arguments, name, path.resolve())
    for task in arguments.tasks:
        if start_of(TASKS[task], arguments) is None:
            parser.error(f"--tasks {task}: give {'--chinese-model' if TASKS[task].chinese else '--model'}")
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
    recipe = {name: str(vars(arguments)[name]) for name in ASKED}
    print(json.dumps({"schema": 1, "recipe": recipe, "rows": rows}, indent=2))
    sys.exit(0 if all(row["within"] if "within" in row else row["above_baseline"] for row in rows) else 1)


if __name__ == "__main__":
    main()
