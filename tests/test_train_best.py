"""The best parameters of runs side by side, their files, and when a run ends for want of better."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_jax.errors import BertJaxError
from bert_jax.train.best import Best, best_models, read_best
from bert_jax.train.supervised import Member

ONE = (Member("seed-0", 0, 1e-3),)
TWO = (*ONE, Member("seed-1", 1, 1e-3))


def params(value: float, members: int = 1) -> dict[str, Any]:
    leaf = np.full((2, 3), value, np.float32)
    return {"encoder": {"kernel": leaf if members == 1 else np.stack([leaf + index for index in range(members)])}}


def told(best: Best, log: Path, step: int, score: dict[str, Any], value: float, members: int = 1) -> bool:
    """As the loop does: the line is written, then shown."""
    line = {"step": step} | {f"eval_{name}": number for name, number in score.items()}
    with log.open("a") as file:
        file.write(json.dumps(line) + "\n")
    return best.evaluated(line, params(value, members))


def test_the_best_is_kept_and_read_back(tmp_path: Path) -> None:
    best, log = Best(tmp_path / "models", tmp_path / "m.jsonl", ONE, "f1", None), tmp_path / "m.jsonl"
    for step, score in ((10, 0.5), (20, 0.8), (30, 0.7)):
        assert not told(best, log, step, {"f1": score, "accuracy": 1 - score}, score)
    found = best_models(tmp_path / "models")["seed-0"]
    assert (found.step, found.score, found.scores) == (20, 0.8, {"f1": 0.8, "accuracy": pytest.approx(0.2)})
    kernel = read_best(tmp_path / "models", "seed-0")["encoder"]["kernel"]
    np.testing.assert_array_equal(kernel, params(0.8)["encoder"]["kernel"])


def test_members_are_kept_each_at_its_own_best_step(tmp_path: Path) -> None:
    best, log = Best(tmp_path, tmp_path / "m.jsonl", TWO, "f1", None), tmp_path / "m.jsonl"
    told(best, log, 10, {"f1": 0.4, "f1_seed-0": 0.5, "f1_seed-1": 0.3}, 1.0, 2)
    told(best, log, 20, {"f1": 0.5, "f1_seed-0": 0.4, "f1_seed-1": 0.6}, 2.0, 2)
    found = best_models(tmp_path)
    assert list(found) == ["seed-1", "seed-0"]
    assert (found["seed-0"].step, found["seed-1"].step) == (10, 20)
    assert read_best(tmp_path, "seed-0")["encoder"]["kernel"][0, 0] == 1.0
    assert read_best(tmp_path, "seed-1")["encoder"]["kernel"][0, 0] == 3.0


def test_patience_counts_evaluations_without_a_better_one(tmp_path: Path) -> None:
    best, log = Best(tmp_path, tmp_path / "m.jsonl", TWO, "f1", 2), tmp_path / "m.jsonl"
    scores = [(0.5, 0.1), (0.4, 0.2), (0.3, 0.3), (0.9, 0.2), (0.9, 0.3)]
    ends = [
        told(best, log, 10 * (index + 1), {"f1": 0.0, "f1_seed-0": one, "f1_seed-1": two}, index, 2)
        for index, (one, two) in enumerate(scores)
    ]
    assert ends == [False, False, False, False, True]
    assert best_models(tmp_path)["seed-0"].score == 0.5  # it had ended before the better score came


def test_where_a_run_stands_follows_from_the_metrics_alone(tmp_path: Path) -> None:
    log = tmp_path / "m.jsonl"
    first = Best(tmp_path, log, ONE, "f1", 2)
    for step, score in ((10, 0.5), (20, 0.4), (30, 0.3)):
        told(first, log, step, {"f1": score}, score)
    again = Best(tmp_path, log, ONE, "f1", 2)
    assert [again.ended(step) for step in (10, 20, 30)] == [False, False, True]
    assert again.courses == first.courses


def test_a_score_that_is_not_defined_is_an_error(tmp_path: Path) -> None:
    best, log = Best(tmp_path, tmp_path / "m.jsonl", TWO, "f1", None), tmp_path / "m.jsonl"
    assert not told(best, log, 10, {"f1": 0.1, "f1_seed-0": None, "f1_seed-1": 0.1}, 1, 2)
    with pytest.raises(BertJaxError, match="f1 is not defined on the dev set at step 20"):
        told(best, log, 20, {"f1": None, "f1_seed-0": None, "f1_seed-1": None}, 1, 2)


@pytest.mark.parametrize("place", [-3, 12])
def test_a_flipped_byte_is_found(tmp_path: Path, place: int) -> None:
    best = Best(tmp_path, tmp_path / "m.jsonl", ONE, "f1", None)
    told(best, tmp_path / "m.jsonl", 10, {"f1": 0.5}, 1.0)
    path = tmp_path / "seed-0.safetensors"
    data = bytearray(path.read_bytes())
    data[place] ^= 0x40
    path.write_bytes(bytes(data))
    with pytest.raises(BertJaxError, match="is damaged"):
        read_best(tmp_path, "seed-0")
