"""Importing a BERT-base takes under 10 seconds, and under three times its size in memory whatever is done with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from checkpoints import arrays, write_tf1
from small_models import SPECIAL_PIECES

from bert_jax.bert_config import BertConfig
from bert_jax.files import write_json
from bert_jax.model.bert import abstract_parameters, make_model

REPOSITORY = Path(__file__).resolve().parent.parent
VERBS = ("load_model", "load", "convert")


@pytest.fixture(scope="module")
def base_params() -> dict[str, Any]:
    block = np.random.default_rng(0).standard_normal(1 << 20, np.float32) * np.float32(0.02)
    shapes = abstract_parameters(make_model(BertConfig.preset("base")))
    return jax.tree.map(lambda leaf: np.resize(block, leaf.shape), shapes)


@pytest.fixture(scope="module")
def vocabulary() -> str:
    entries = BertConfig.preset("base").known_vocab_size
    return "\n".join([*SPECIAL_PIECES.values(), *(f"w{n}" for n in range(entries - len(SPECIAL_PIECES)))]) + "\n"


@pytest.fixture(scope="module")
def tf1(tmp_path_factory: pytest.TempPathFactory, base_params: dict[str, Any], vocabulary: str) -> Path:
    folder = write_tf1(tmp_path_factory.mktemp("base") / "tf1", arrays(base_params, "google"))
    write_json(folder / "bert_config.json", BertConfig.preset("base").to_dict("google"))
    (folder / "vocab.txt").write_text(vocabulary)
    return folder


def cost_of(verb: str, model: Path, out: Path) -> dict[str, Any]:
    """What `import_cost.py` measured in a process of its own."""
    done = subprocess.run(
        [
            *(sys.executable, str(Path(__file__).with_name("import_cost.py")), verb, str(model)),
            *([str(out)] if verb == "convert" else []),
        ],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    cost: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(verb, model.name, cost)
    return cost


@pytest.mark.ci
@pytest.mark.parametrize("verb", ["load", "convert"])
def test_memory_of_a_tensorflow_checkpoint(tmp_path: Path, tf1: Path, verb: str) -> None:
    """TensorFlow itself is in it: what is held beside the model is the least here."""
    cost = cost_of(verb, tf1, tmp_path / "out")
    assert cost["model_bytes"] > 430e6 and cost["ratio"] < 3, cost


@pytest.mark.full
def test_tensorflow_and_its_zip(tmp_path: Path, tf1: Path) -> None:
    cost = cost_of("load_model", tf1, tmp_path)
    assert cost["seconds"] < 10 and cost["ratio"] < 3, cost
    zipped = tmp_path / "uncased_base.zip"
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for item in tf1.iterdir():
            archive.write(item, f"uncased_base/{item.name}")
    for verb in VERBS:
        cost = cost_of(verb, zipped, tmp_path / "out")
        assert cost["ratio"] < 3, (verb, cost)


@pytest.mark.full
def test_safetensors(tmp_path: Path, base_params: dict[str, Any], vocabulary: str) -> None:
    from safetensors.numpy import save_file

    theirs = tmp_path / "hugging_face"
    theirs.mkdir()
    save_file(arrays(base_params, "torch"), theirs / "model.safetensors", metadata={"format": "pt"})
    config = BertConfig.preset("base").to_dict("huggingface") | {"architectures": ["BertForPreTraining"]}
    write_json(theirs / "config.json", config)
    (theirs / "vocab.txt").write_text(vocabulary)
    for verb in VERBS:
        cost = cost_of(verb, theirs, tmp_path / "out")
        assert cost["ratio"] < 3 and (verb != "load_model" or cost["seconds"] < 10), (verb, cost)
