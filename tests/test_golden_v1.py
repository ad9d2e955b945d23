"""What was written in version 1 of the formats is read for ever.

tests/golden/v1 holds a token store, a run and a model directory as `make_golden_v1.py` wrote them under Python 3.11 and
jax 0.10.2. They are never made again. When one of these tests fails, today's code has lost the ability to read what
users have on their disks: mend the code, or read the old format beside the new one; the files stay as they are. A new
format gets files of its own, under another number, and these remain.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_golden_v1 import LATER_STEPS, QUESTION, SENTENCES, SETTINGS, STEPS, read_lines

import bert_jax
from bert_jax import Config, Data
from bert_jax.data.store import load_store
from bert_jax.train.run import open_run

GOLDEN = Path(__file__).parent / "golden" / "v1"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
SAME = {"rtol": 1e-5, "atol": 1e-7}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run: the kept one is only read."""
    return Path(shutil.copytree(GOLDEN / "run", tmp_path_factory.mktemp("v1") / "run"))


def test_the_store_opens_and_is_whole() -> None:
    store = load_store(GOLDEN / "store")
    assert store.fingerprint == EXPECTED["store_fingerprint"]
    store.verify()
    assert (store.split("train").documents, store.split("eval").documents) == (30, 10)
    assert store.split("train").tokens == len(np.load(GOLDEN / "store" / "shards" / "00000" / "train.tokens.npy"))


def test_the_run_predicts() -> None:
    masks: Any = bert_jax.load(str(GOLDEN / "run")).fill_mask(QUESTION, top_k=3)["masks"]
    found = masks[0]["candidates"]
    assert [one["token"] for one in found] == [token for token, _ in EXPECTED["fill_mask"]]
    np.testing.assert_allclose(
        [one["probability"] for one in found], [probability for _, probability in EXPECTED["fill_mask"]], **SAME
    )


def test_the_model_directory_embeds() -> None:
    found = bert_jax.load(str(GOLDEN / "model")).embed(SENTENCES)
    np.testing.assert_allclose(found, EXPECTED["embeddings"], **SAME)


def test_the_run_goes_on(run: Path) -> None:
    assert open_run(run).newest_step == STEPS
    store = Config(data=Data(store=(str(GOLDEN / "store"),), cache=str(run.parent / "cache")))
    more = ["--train.steps", str(LATER_STEPS)]
    found = bert_jax.pretrain(store, run=str(run), overrides=[*SETTINGS, *more], change=True)
    assert found["step"] == LATER_STEPS
    losses = [line["loss"] for line in read_lines(run / "metrics.jsonl") if "loss" in line]
    assert losses[:STEPS] == EXPECTED["first_losses"]
    np.testing.assert_allclose(losses, EXPECTED["resumed_losses"], **SAME)
    np.testing.assert_allclose(found["eval_mlm_loss"], EXPECTED["resumed_eval_mlm_loss"], **SAME)


def test_what_is_kept_is_small_and_names_no_place() -> None:
    files = [path for path in GOLDEN.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 300_000
    assert not [path for path in files if b"/tmp/" in path.read_bytes() or b"/home/" in path.read_bytes()]
