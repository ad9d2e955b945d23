"""embed and features through the command line: lines, files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_models import small_run

from bert_jax import cli

TEXTS = ("the cat sat", "it was tired , it ran")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "run"
    small_run(path, {1: None})
    return str(path)


def predict(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict]:
    assert cli.main(["predict", *arguments]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_embed(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = predict(capsys, "embed", model, *TEXTS)
    assert [line["text"] for line in lines] == list(TEXTS)
    packed = predict(capsys, "embed", model, *TEXTS, "--packing", "4")
    assert [line["text"] for line in packed] == list(TEXTS)
    found, expected = ([line["embedding"] for line in answers] for answers in (packed, lines))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert predict(capsys, "embed", model, *TEXTS, "--out", str(tmp_path / "x.npy")) == []
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), [line["embedding"] for line in lines], atol=1e-6)
    (tmp_path / "in.jsonl").write_text('["the cat", "it sat"]\n{"text": "rain"}\n')
    lines = predict(capsys, "embed", model, "--input", str(tmp_path / "in.jsonl"), "--normalize", "True")
    assert (lines[0]["a"], lines[0]["b"], lines[1]["text"]) == ("the cat", "it sat", "rain")
    np.testing.assert_allclose(np.linalg.norm(lines[0]["embedding"]), 1, rtol=1e-5)


def test_features(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layers = ("--layers", "-1,-2")
    lines = predict(capsys, "features", model, *TEXTS, *layers)
    assert [np.shape(line["vectors"]) for line in lines] == [(5, 32), (8, 32)]
    written = predict(capsys, "features", model, *TEXTS, *layers, "--out", str(tmp_path / "x.npy"))
    assert [line["rows"] for line in written] == [[0, 5], [5, 13]]
    assert not any("vectors" in line for line in written)
    stacked = np.concatenate([line["vectors"] for line in lines])
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), stacked, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("features", "--layers", "1,x"), 2, "--layers 1,x: expected numbers with commas"),
        (("features", "--layers", "-9"), 1, "there is no layer -9"),
        (("embed", "--words"), 2, "--words is for features, not for embed"),
        (
            ("tag", "--truncate"),
            2,
            "--truncate is for fill-mask, next-sentence, embed, features, attention, classify, senses, not for tag",
        ),
        (("embed", "--out", "x.png"), 2, "embed writes .jsonl, .npy"),
        (("embed", "--out", "/proc/x.npy"), 1, "cannot write /proc/x.npy"),
        (("embed", "--truncate", "--window", "3"), 1, "exclude each other"),
        (("embed", "--max-length", "500"), 1, "max_length is 500: expected 3 to 64"),
        (("embed", "--packing", "0"), 2, "packing is 0: expected at least 1"),
        (
            ("features", "--packing", "4"),
            2,
            "next-sentence, embed, classify, choose, not for features",
        ),
        (("tag", "--packing", "4"), 2, "--packing is for next-sentence, embed, classify, choose, not for tag"),
    ],
)
def test_what_is_refused(
    model: str, arguments: tuple[str, ...], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    task, *options = arguments
    assert cli.main(["predict", task, model, "the cat", *options]) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'"the [MASK]"\n"caf\xe9 [MASK]"\n', "inputs.jsonl, line 2 is not UTF-8 at byte 4"),
        (b'"the [MASK]"\n{"a": "the", "b": "[MASK]"}\n', "input 2 is ('the', '[MASK]'): expected one text"),
    ],
)
def test_an_input_that_cannot_be_read_is_named(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, message: str
) -> None:
    (tmp_path / "inputs.jsonl").write_bytes(content)
    assert cli.main(["predict", "fill-mask", model, "--input", str(tmp_path / "inputs.jsonl")]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.out.splitlines()) == 1  # the answer to the input before it
