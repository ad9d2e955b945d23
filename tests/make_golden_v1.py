"""Writes tests/golden/v1: a token store, a run and a model directory as version 1 of the formats has them.

They are kept for ever: `test_golden_v1.py` loads them with today's code. Run this only to make another set beside it,
under another number, when a format changes: `python tests/make_golden_v1.py FOLDER`. Made under Python 3.11 with the
versions that `run/run.json` names.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

SETTINGS = [
    *("--model.hidden-size", "16", "--model.num-hidden-layers", "1", "--model.num-attention-heads", "2"),
    *("--model.intermediate-size", "32", "--model.max-position-embeddings", "32", "--model.vocab-size", "None"),
    *("--train.length", "32", "--train.batch", "8", "--train.predictions", "5", "--train.dtype", "float32"),
    *("--checkpoint.every", "4", "--checkpoint.keep", "1", "--log.every", "1", "--evaluate.sequences", "16"),
    *("--evaluate.every", "4", "--log.no-tensorboard", "--data.driver", "thread"),
    *("--optimizer.learning-rate", "1e-2", "--optimizer.decay", "constant", "--train.attention", "einsum"),
    *("--train.scan-layers", "False"),
]
STEPS, LATER_STEPS = 4, 6
QUESTION = "The river [MASK] the town."
SENTENCES = ["The river crosses the town.", "A small boat opens an answer."]


def corpus() -> str:
    """Forty documents of four sentences each."""
    drawn = random.Random(1)
    subjects = ("The river", "A small boat", "The old bridge", "Our teacher", "The engine", "This letter")
    verbs = ("crosses", "follows", "carries", "reaches", "leaves", "opens")
    objects = ("the town", "a field of grass", "the northern gate", "an answer", "the morning train")
    sentences = [f"{drawn.choice(subjects)} {drawn.choice(verbs)} {drawn.choice(objects)}." for _ in range(160)]
    return "\n\n".join("\n".join(sentences[first : first + 4]) for first in range(0, 160, 4)) + "\n"


def make(folder: Path) -> None:
    """Everything into `folder`, which must not exist."""
    import bert_jax
    from bert_jax import Config, Data

    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        os.chdir(work)  # so that names in what is kept are relative ones
        Path("corpus.txt").write_text(corpus())
        bert_jax.vocab(source="corpus.txt", out="tokenizer", size=120)
        bert_jax.prepare(source="corpus.txt", tokenizer="tokenizer", out="store", eval_fraction=0.2, workers=1)
        config = Config(data=Data(store=("store",), cache="cache"))
        bert_jax.pretrain(config, run="run", overrides=[*SETTINGS, "--train.steps", str(STEPS)])
        shutil.rmtree("run/data", ignore_errors=True)
        Path("run/.lock").unlink(missing_ok=True)
        bert_jax.convert("run", "model", to="hf")
        shutil.copytree("run", "resumed")
        later = [*SETTINGS, "--train.steps", str(LATER_STEPS)]
        resumed = bert_jax.pretrain(config, run="resumed", overrides=later, change=True)
        model = bert_jax.load("run")
        answer = model.fill_mask(QUESTION, top_k=3)["masks"][0]["candidates"]
        expected = {
            "store_fingerprint": bert_jax.info("store")["fingerprint"],
            "first_losses": [line["loss"] for line in read_lines(Path("run/metrics.jsonl")) if "loss" in line],
            "resumed_losses": [line["loss"] for line in read_lines(Path("resumed/metrics.jsonl")) if "loss" in line],
            "resumed_eval_mlm_loss": resumed["eval_mlm_loss"],
            "fill_mask": [[candidate["token"], candidate["probability"]] for candidate in answer],
            "embeddings": bert_jax.load("model").embed(SENTENCES).tolist(),
        }
        folder.mkdir(parents=True)
        for name in ("store", "run", "model"):
            shutil.copytree(name, folder / name)
        for said in folder.rglob("commit_success.txt"):  # Orbax's, with the path that it had here
            said.write_text(said.read_text().replace(f"{work}/", ""))
        (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def read_lines(path: Path) -> list[dict[str, float]]:
    """The lines of a metrics file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


if __name__ == "__main__":
    make(Path(sys.argv[1]).absolute())
