"""A model with more words: the ones that save most pieces, each begun as the mean of its pieces."""

from __future__ import annotations

import dataclasses
import json
import types
from pathlib import Path

import numpy as np
import pytest
from checkpoints import arrays, parameters, write_hugging_face
from small_models import WORDS

from bert_jax import cli
from bert_jax.data.sources import open_source
from bert_jax.errors import BertJaxError
from bert_jax.formats import extend as extending
from bert_jax.formats.extend import extend_model, new_words
from bert_jax.formats.model import load_model
from bert_jax.formats.pooling import Pooling
from bert_jax.text.tokenizer import SPECIAL_PIECES, WordPieceTokenizer

TEXT = "\n\n".join(["the cat plays .", "the dog played on the mat .", "it plays , it plays !"] * 4)


def model(folder: Path, unused: int = 0, spare: int = 0) -> Path:
    """A small model whose vocabulary has `unused` rows named so and whose table has `spare` rows past it."""
    lines = [*SPECIAL_PIECES.values(), *WORDS]
    lines[-unused:] = [f"[unused{index}]" for index in range(unused)] if unused else lines[-unused:]
    params = parameters(("masked_lm", "next_sentence"))
    rng = np.random.default_rng(1)
    words = params["embeddings"]["word_embeddings"]
    params["embeddings"]["word_embeddings"] = np.concatenate(
        [words, rng.normal(size=(spare, words.shape[1])).astype(np.float32)]
    )
    params["masked_lm"]["bias"] = np.concatenate([params["masked_lm"]["bias"], np.zeros(spare, np.float32)])
    write_hugging_face(folder, arrays(params, "torch"), vocab_size=len(words) + spare)
    WordPieceTokenizer(lines, cased=False).save(folder)
    return folder


def extend(tmp_path: Path, origin: Path, add: int, capsys: pytest.CaptureFixture[str], *more: str) -> dict:
    (tmp_path / "text.txt").write_text(TEXT)
    arguments = ["vocab", "--source", str(tmp_path / "text.txt"), "--extend", str(origin), "--add", str(add)]
    code = cli.main([*arguments, "--out", str(tmp_path / "out"), "--workers", "1", *more])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


def test_new_rows_are_the_means_of_their_pieces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    origin = model(tmp_path / "model")
    result = extend(tmp_path, origin, 2, capsys)
    assert [word["word"] for word in result["words"]] == ["plays", "played"]
    old, new = load_model(origin), load_model(tmp_path / "out")
    size = old.tokenizer.vocab_size
    assert new.tokenizer.vocab_size == size + 2 == result["vocab_size"]
    assert new.tokenizer.ids("plays played") == [size, size + 1]
    table, before = new.params["embeddings"]["word_embeddings"], old.params["embeddings"]["word_embeddings"]
    pieces = old.tokenizer.ids("plays")
    assert len(pieces) == 2
    np.testing.assert_array_equal(table[size], before[pieces].mean(axis=0))
    bias, bias_before = new.params["masked_lm"]["bias"], old.params["masked_lm"]["bias"]
    np.testing.assert_array_equal(bias[size], bias_before[pieces].mean())
    np.testing.assert_array_equal(table[:size], before)
    np.testing.assert_array_equal(new.params["pooler"]["kernel"], old.params["pooler"]["kernel"])
    assert new.heads == old.heads


def test_unused_rows_are_taken_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    origin = model(tmp_path / "model", unused=1)
    result = extend(tmp_path, origin, 2, capsys)
    assert result["in_unused"] == 1
    old, new = load_model(origin).tokenizer, load_model(tmp_path / "out").tokenizer
    assert new.ids("plays") == [old.id_of("[unused0]")]
    assert new.ids("played") == [old.vocab_size]


def test_spare_rows_of_the_table_are_used_before_it_grows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    origin = model(tmp_path / "model", spare=3)
    extend(tmp_path, origin, 2, capsys)
    old, new = load_model(origin), load_model(tmp_path / "out")
    assert new.config.vocab_size == old.config.vocab_size
    assert new.tokenizer.vocab_size == old.tokenizer.vocab_size + 2


@pytest.mark.parametrize(
    "flags", [{"strip_accents": False}, {"cased": True, "strip_accents": True}, {"chinese": False}]
)
def test_words_are_split_as_the_model_splits_them(tmp_path: Path, flags: dict[str, bool]) -> None:
    """Every word that is added is one that the tokenizer makes of the text."""
    letters = dict.fromkeys("abcdefghijklmnopqrstuvwxyzäöüßABGTÜ東京都民")
    known = [*SPECIAL_PIECES.values(), *WORDS]
    more = [piece for letter in letters for piece in (letter, f"##{letter}") if piece not in known]
    origin = model(tmp_path / "model", spare=len(more))
    WordPieceTokenizer([*known, *more], **({"cased": False} | flags)).save(origin)
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(["Täter übt Größe", "東京都民 Übergröße Täter"] * 40), encoding="utf-8")
    result = extend_model(str(origin), open_source(str(text)), tmp_path / "out", 3, workers=1)
    tokenizer = load_model(tmp_path / "out").tokenizer
    assert tokenizer.fingerprint != load_model(origin).tokenizer.fingerprint
    pieces = tokenizer.tokenize(text.read_text(encoding="utf-8"))
    assert {word["word"] for word in result["words"]} <= set(pieces)


def test_labels_task_and_pooling_come_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_model(model(tmp_path / "model"))
    head = {"kernel": np.ones((loaded.config.hidden_size, 2), np.float32), "bias": np.zeros(2, np.float32)}
    params = {name: part for name, part in loaded.params.items() if name not in loaded.heads} | {"classification": head}
    form = types.SimpleNamespace(form="multi_label")
    facts = {"heads": ("classification",), "labels": ("yes", "no"), "task": form, "pooling": Pooling("cls")}
    monkeypatch.setattr(extending, "load_model", lambda model: dataclasses.replace(loaded, params=params, **facts))
    (tmp_path / "text.txt").write_text(TEXT)
    extend_model("any", open_source(str(tmp_path / "text.txt")), tmp_path / "out", 2, workers=1)
    written = load_model(tmp_path / "out")
    assert (written.heads, written.labels) == (("classification",), ("yes", "no"))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["problem_type"] == "multi_label_classification"
    assert written.pooling is not None and written.pooling.mode == "cls"


def test_a_head_that_hugging_face_lacks_is_refused_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = dataclasses.replace(load_model(model(tmp_path / "model")), heads=("relation",))
    monkeypatch.setattr(extending, "load_model", lambda model: loaded)
    monkeypatch.setattr(extending, "count_source", lambda *_: pytest.fail("the text was counted"))
    (tmp_path / "text.txt").write_text(TEXT)
    with pytest.raises(BertJaxError, match="has the head relation, which no class .*: extend the model"):
        extend_model("any", open_source(str(tmp_path / "text.txt")), tmp_path / "out", 2, workers=1)


def test_words_by_what_they_save_then_by_the_alphabet() -> None:
    tokenizer = WordPieceTokenizer([*SPECIAL_PIECES.values(), *WORDS], cased=False)
    counts = {"plays": 3, "played": 3, "playings": 2, "cat": 100, "zebra": 100}
    found = new_words(tokenizer, counts, 3)
    assert [(word.word, word.saves) for word in found] == [("playings", 4), ("played", 3), ("plays", 3)]
    with pytest.raises(BertJaxError, match="3 words of several pieces: --add 4 is more"):
        new_words(tokenizer, counts, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--extend", "model"], "go together"),
        (["--add", "3"], "go together"),
        (["--extend", "model", "--add", "0"], "--add 0"),
        (["--extend", "model", "--add", "3", "--size", "100"], "--size is for a new vocabulary"),
    ],
)
def test_what_does_not_go_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    code = cli.main(["vocab", "--source", str(tmp_path / "text.txt"), "--out", str(tmp_path / "out"), *arguments])
    assert code == 2
    assert message in capsys.readouterr().err
