"""Vectors on disk: one array, whatever the number of rows, or no file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bert_jax.infer.vectors_file import write_embeddings, write_features


@pytest.mark.parametrize("count", [0, 1, 1234])
def test_embeddings_stand_one_under_another(tmp_path: Path, count: int) -> None:
    vectors = np.random.default_rng(0).normal(size=(count, 5)).astype(np.float32)
    write_embeddings(({"text": "", "embedding": vector} for vector in vectors), tmp_path / "x.npy")
    found = np.load(tmp_path / "x.npy")
    assert (found.dtype, len(found)) == (np.float32, count)
    np.testing.assert_array_equal(found, vectors if count else np.zeros((0, 0)))


def test_features_say_which_rows_are_theirs(tmp_path: Path) -> None:
    blocks = [np.full((rows, 3), rows, np.float32) for rows in (2, 0, 4)]
    lines = list(write_features([{"tokens": ["x"], "vectors": block} for block in blocks], tmp_path / "x.npy"))
    assert lines == [{"tokens": ["x"], "rows": rows} for rows in ([0, 2], [2, 2], [2, 6])]
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), np.concatenate(blocks))


def test_nothing_half_written(tmp_path: Path) -> None:
    def answers():
        yield {"embedding": np.zeros(3, np.float32)}
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        write_embeddings(answers(), tmp_path / "x.npy")
    assert list(tmp_path.iterdir()) == []
