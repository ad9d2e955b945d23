"""Importing a BERT-base takes under 10 seconds and under three times its size in memory, whatever holds it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from checkpoints import arrays, write_tf1
from small_models import SPECIAL_PIECES

from bert_jax.bert_config import BertConfig
from bert_jax.files import write_json
from bert_jax.model.bert import abstract_parameters, make_model

pytestmark = pytest.mark.full
REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def base_arrays() -> dict[str, dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    shapes = abstract_parameters(make_model(BertConfig.preset("base")))
    params = jax.tree.map(lambda leaf: random.standard_normal(leaf.shape, np.float32) * np.float32(0.02), shapes)
    return {"google": arrays(params, "google"), "torch": arrays(params, "torch")}


def test_tf1_and_safetensors(tmp_path: Path, base_arrays: dict[str, dict[str, np.ndarray]]) -> None:
    from safetensors.numpy import save_file

    config = BertConfig.preset("base")
    tf1 = write_tf1(tmp_path / "tf1", base_arrays["google"])
    write_json(tf1 / "bert_config.json", config.to_dict("google"))
    theirs = tmp_path / "hugging_face"
    theirs.mkdir()
    save_file(base_arrays["torch"], theirs / "model.safetensors", metadata={"format": "pt"})
    write_json(theirs / "config.json", config.to_dict("huggingface") | {"architectures": ["BertForPreTraining"]})
    vocabulary = [*SPECIAL_PIECES.values(), *(f"w{n}" for n in range(config.known_vocab_size - len(SPECIAL_PIECES)))]
    for folder in (tf1, theirs):
        (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    for folder in (tf1, theirs):
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("import_cost.py")), str(folder)],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        cost = json.loads(done.stdout.splitlines()[-1])
        print(folder.name, cost)
        assert cost["seconds"] < 10 and cost["ratio"] < 3, (folder.name, cost)
