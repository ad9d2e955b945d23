"""Tokenizer directories: the official vocabularies on real text, places, casing, saving, and Hugging Face."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from official_wordpiece import hostile_strings, official_tokens

from bert_jax.errors import BertJaxError
from bert_jax.text.tokenizer import SPECIAL_PIECES, Tokenizer, WordPieceTokenizer, load_tokenizer, tokenize_lines

VOCABULARIES = {
    "bert_base_uncased": False,
    "bert_base_cased": True,
    "bert_base_chinese": False,
    "bert_base_multilingual_cased": True,
}


SMALL = "[PAD] [UNK] [CLS] [SEP] [MASK] the cat sat ##s on , . ' [ ] mask ##ing 中 文 cafe e ##f"


@pytest.fixture(scope="module", params=VOCABULARIES)
def official(request: pytest.FixtureRequest, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Each official vocabulary in a directory of its own that says nothing of its casing, named so as not to."""
    folder = tmp_path_factory.mktemp("vocabulary")
    shutil.copy(data_dir / "vocab" / f"{request.param}.txt", folder / "vocab.txt")
    tokenizer = load_tokenizer(folder)
    assert tokenizer.cased is VOCABULARIES[request.param]
    tokenizer.name = request.param  # type: ignore[attr-defined]
    return tokenizer


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A vocabulary made here, so that these tests need no outside data."""
    folder = tmp_path_factory.mktemp("small_uncased")
    entries = SMALL.split()
    (folder / "vocab.txt").write_text("\n".join(entries) + "\n")
    return load_tokenizer(folder)


def _golden(data_dir: Path, name: str) -> Iterator[dict]:
    with open(data_dir / "golden" / "tokenization" / f"{name}.jsonl", encoding="utf-8") as file:
        yield from map(json.loads, file)


def _check_offsets(text: str, offsets: np.ndarray) -> None:
    assert offsets.dtype == np.int32
    assert (offsets[:, 0] < offsets[:, 1]).all(), ascii(text)
    assert (np.diff(offsets, axis=0) >= 0).all(), ascii(text)
    assert ((offsets >= 0) & (offsets <= len(text))).all(), ascii(text)


def test_every_golden_line(official: Tokenizer, data_dir: Path) -> None:
    """Tokens and ids as the published code gives them, and the slow path with places gives the same."""
    lines = 0
    for line in _golden(data_dir, official.name):  # type: ignore[attr-defined]
        text = line["text"]
        assert official.ids(text) == line["ids"], ascii(text)
        assert official.tokenize(text) == line["tokens"], ascii(text)
        ids, offsets = official.encode_with_offsets(text)
        assert ids.tolist() == line["ids"], ascii(text)
        _check_offsets(text, offsets)
        lines += 1
    assert lines > 300


def test_official_rules_on_hostile_strings(official: Tokenizer) -> None:
    vocabulary = {official.pieces([number])[0]: number for number in range(official.vocab_size)}
    for text in hostile_strings(700, seed=11):
        assert official.tokenize(text) == official_tokens(text, vocabulary, not official.cased), ascii(text)
        ids, offsets = official.encode_with_offsets(text)
        assert ids.tolist() == official.ids(text), ascii(text)
        _check_offsets(text, offsets)


def test_word_starts_are_pieces_that_do_not_go_on(official: Tokenizer, data_dir: Path) -> None:
    texts = [line["text"] for line in _golden(data_dir, official.name)][:100]  # type: ignore[attr-defined]
    for text in texts:
        ids, starts = official.ids_and_word_starts(text)
        assert ids.dtype == np.int32
        assert starts.tolist() == [not piece.startswith("##") for piece in official.tokenize(text)]
    ids, counts = official.bulk_ids(texts)
    assert ids.tolist() == [number for text in texts for number in official.ids(text)]
    assert counts.tolist() == [len(official.ids(text)) for text in texts]


def test_official_vocabulary_survives_saving(official: Tokenizer, data_dir: Path, tmp_path: Path) -> None:
    official.save(tmp_path)
    name = official.name  # type: ignore[attr-defined]
    assert (tmp_path / "vocab.txt").read_bytes() == (data_dir / "vocab" / f"{name}.txt").read_bytes()
    again = load_tokenizer(tmp_path)
    assert again.fingerprint == official.fingerprint
    assert again.cased == official.cased


@pytest.mark.parametrize("cased", [False, True])
@pytest.mark.parametrize("strip_accents", [None, False, True])
@pytest.mark.parametrize("chinese", [False, True])
def test_every_flag_survives_saving(cased: bool, strip_accents: bool | None, chinese: bool, tmp_path: Path) -> None:
    lines = [*SPECIAL_PIECES.values(), "a", "café", "cafe", "東", "##京", "京"]
    tokenizer = WordPieceTokenizer(lines, cased, strip_accents, chinese)
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint
    assert again.tokenize("Café 東京") == tokenizer.tokenize("Café 東京")


def test_accents_and_removed_characters_keep_their_places(small: Tokenizer) -> None:
    text = "The\x00 CAFE\u0301, café"
    ids, offsets = small.encode_with_offsets(text)
    assert small.pieces(ids) == ["the", "cafe", ",", "cafe"]
    assert [text[first:last] for first, last in offsets] == ["The", "CAFE\u0301", ",", "café"]
    empty_ids, empty = small.encode_with_offsets(" \x00")
    assert (empty_ids.shape, empty.shape) == ((0,), (0, 2))


def test_specials_typed_in_text_are_characters(small: Tokenizer) -> None:
    assert small.tokenize("the [MASK]") == ["the", "[", "mask", "]"]
    assert small.encode("[SEP]")["input_ids"].tolist() == [2, *small.ids("[ SEP ]"), 3]
    assert small.mask_id not in small.ids("[MASK][PAD]")
    assert small.ids_with_specials("the[MASK] sat[SEP]on [mask]") == [5, 4, 7, 3, 9, *small.ids("[mask]")]
    assert small.special_ids == (0, 1, 2, 3, 4)


def test_encode(small: Tokenizer) -> None:
    batch = small.encode("the cat", "sat", length=8)
    assert batch["input_ids"].tolist() == [2, 5, 6, 3, 7, 3, 0, 0]
    assert batch["segment_ids"].tolist() == [0, 0, 0, 0, 1, 1, 0, 0]
    assert batch["input_mask"].tolist() == [1, 1, 1, 1, 1, 1, 0, 0]
    assert {value.dtype for value in batch.values()} == {np.dtype(np.int32)}
    assert small.encode("the", "")["input_ids"].tolist() == [2, 5, 3, 3]
    with pytest.raises(BertJaxError, match="6 tokens long .* more than the 5 asked for"):
        small.encode("the cat", "sat", length=5)


def test_decode(small: Tokenizer) -> None:
    ids = [2, *small.ids("the cats sat, 中文."), 4, 3, 0]
    assert small.decode(ids) == "the cats sat, 中文. [MASK]"
    with pytest.raises(BertJaxError, match="id 99 is outside the vocabulary of 22 entries"):
        small.decode([99])
    with pytest.raises(BertJaxError, match="id -1 is outside"):
        small.pieces([-1])
    assert small.id_of("cat") == 6
    assert small.id_of("dog") is None


def test_casing_comes_from_argument_then_configuration_then_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "my_cased_model"
    folder.mkdir()
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nÀ\nA\na\n")
    with caplog.at_level(logging.INFO, logger="bert_jax"):
        assert load_tokenizer(folder).tokenize("À") == ["À"]
    assert "taken as cased: the directory is named my_cased_model" in caplog.text
    for config, expected in (
        ({"do_lower_case": True}, "a"),
        ({"do_lower_case": False}, "À"),
        ({"do_lower_case": False, "strip_accents": True}, "A"),
        ({"do_lower_case": True, "strip_accents": False}, "[UNK]"),
    ):
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        assert load_tokenizer(folder).tokenize("À") == [expected], config
    assert load_tokenizer(folder, cased=True).cased is True


def test_fingerprint_tells_what_changes_ids(small: Tokenizer, tmp_path: Path) -> None:
    """Pinned: stores on disk hold it, so it may not change between versions, machines or Pythons."""
    assert small.fingerprint == "fc000783393dc55be212d1b7afd1c620e27a884cb0e372fc9f52edc6182c6aaa"
    small.save(tmp_path)
    assert load_tokenizer(tmp_path, cased=True).fingerprint != small.fingerprint
    with open(tmp_path / "vocab.txt", "a") as file:
        file.write("more\n")
    assert load_tokenizer(tmp_path).fingerprint != small.fingerprint


def test_pickles_without_its_memo(small: Tokenizer) -> None:
    again = pickle.loads(pickle.dumps(small))
    assert again.fingerprint == small.fingerprint
    assert again.ids("the cats") == small.ids("the cats")


def test_tokenize_lines_streams(small: Tokenizer) -> None:
    def lines() -> Iterator[str]:
        yield "the cat\n"
        yield "\n"
        raise AssertionError("read ahead")

    stream = tokenize_lines(small, lines())
    assert [next(stream), next(stream)] == ["5 6", ""]
    assert list(tokenize_lines(small, ["the cats"], pieces=True)) == ["the cat ##s"]


def test_hugging_face_reads_the_directory(official: Tokenizer, data_dir: Path, tmp_path: Path) -> None:
    """Where transformers is there: BertTokenizer on the saved directory, but for the lines where it is known to err."""
    transformers = pytest.importorskip("transformers", reason="transformers is not here: pip install -e .[compare]")
    official.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.pad_token_id, theirs.mask_token_id) == (official.pad_id, official.mask_id)
    lines = list(_golden(data_dir, official.name))  # type: ignore[attr-defined]
    equal = sum(theirs(line["text"], add_special_tokens=False)["input_ids"] == line["ids"] for line in lines)
    assert equal > 0.95 * len(lines)
    ours = official.encode("a text", "and another")
    both = theirs("a text", "and another")
    assert both["input_ids"] == ours["input_ids"].tolist()
    assert both["token_type_ids"] == ours["segment_ids"].tolist()
