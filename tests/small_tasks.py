"""A task that a tiny model learns in seconds: which animal a sentence names, as a file, a configuration and a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from small_models import small_run

from bert_jax.config import Checkpoint, Log, Optimizer
from bert_jax.finetune_config import Finetune, FinetuneConfig, Scoring, TaskData, TaskOptions

ANIMALS = ("cat", "dog")
FILLING = ("the", "a", "sat", "ran", "on", "mat", "road", "it", "was", "tired", "happy", "rain", "street", "wet", ".")


def animal_sentences(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """(text, animal) pairs of 3 to 14 words."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        animal = ANIMALS[random.integers(2)]
        words = list(random.choice(FILLING, random.integers(2, 14)))
        words.insert(int(random.integers(len(words) + 1)), animal)
        found.append((" ".join(words), animal))
    return found


def write_animals(path: Path, count: int, seed: int = 0) -> Path:
    """The same as a table with a header."""
    rows = [f"{text}\t{animal}\n" for text, animal in animal_sentences(count, seed)]
    path.write_text("text\tlabel\n" + "".join(rows))
    return path


def small_start(path: Path) -> str:
    """A pre-trained run to start from."""
    return str(small_run(path, {10: None}).path)


def animal_config(folder: Path, train: int = 96, **finetune: Any) -> FinetuneConfig:
    """Twelve batches an epoch, all of one length, so that little is compiled; `finetune` are fields of that section.

    Files are made in `folder`.
    """
    folder.mkdir(exist_ok=True)
    own = {"epochs": 4.0, "batch": 8, "buckets": (), "dropout": 0.0, "attention_dropout": 0.0} | finetune
    return FinetuneConfig(
        task=TaskOptions(name="classification", length=16),
        data=TaskData(
            train=(str(write_animals(folder / "train.tsv", train)),),
            dev=(str(write_animals(folder / "dev.tsv", 40, seed=1)),),
        ),
        finetune=Finetune(**own),
        optimizer=Optimizer(name="adamw", learning_rate=2e-2, warmup=0.1, decay_from="warmup"),
        evaluate=Scoring(every=12),
        checkpoint=Checkpoint(every=12, keep=1),
        log=Log(every=6, tensorboard=False),
    )
