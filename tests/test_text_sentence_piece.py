"""SentencePiece the ALBERT way: ids against the library after the preprocessing that ALBERT documents."""

from __future__ import annotations

import pickle
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from official_wordpiece import hostile_strings

from bert_jax.errors import BertJaxError
from bert_jax.text.sentence_piece import Preprocessor
from bert_jax.text.tokenizer import SentencePieceTokenizer, Tokenizer, load_tokenizer

TEXTS = (
    "Hello, World's ``quoted'' text of 9,9 and 1,000, in 2,019, x9,",
    "Ünïcödé ﬁne ½ ΑΣ ΣΑ 中文，字 한국어 ﾊﾟ",
    "  blanks\t\nand\u3000more \u2028 ",
    "",
    " ",
    "٣, ४४, ९,",
    "e\u0301, E\u0301 i\u0307 İ \ud800",
    "[MASK] [CLS] <pad> <unk> ▁ ▁9,",
)


def albert_ids(model: Any, text: str, lower: bool = True) -> list[int]:
    """What ALBERT documents, with this Python's own `unicodedata`."""
    text = " ".join(text.strip().split()).replace("``", '"').replace("''", '"')
    text = "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
    text = (text.lower() if lower else text).replace("\ud800", "\ufffd").replace("\udfff", "\ufffd")
    pieces: list[str] = []
    for piece in model.encode(text, out_type=str):
        if len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit():
            parts = model.encode(piece[:-1].replace("▁", ""), out_type=str)
            if piece[0] != "▁" and parts[0][0] == "▁":
                parts = parts[1:] if len(parts[0]) == 1 else [parts[0][1:], *parts[1:]]
            pieces += [*parts, ","]
        else:
            pieces.append(piece)
    return [model.piece_to_id(piece) for piece in pieces]


@pytest.fixture(scope="module")
def albert(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("albert")
    shutil.copy(data_dir / "sentencepiece" / "albert_30k_clean.model", folder / "spiece.model")
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def library(data_dir: Path) -> Any:
    return sentencepiece.SentencePieceProcessor(model_file=str(data_dir / "sentencepiece" / "albert_30k_clean.model"))


def test_published_ids(albert: Tokenizer) -> None:
    assert (albert.pad_id, albert.unk_id, albert.cls_id, albert.sep_id, albert.mask_id) == (0, 1, 2, 3, 4)
    assert (albert.vocab_size, albert.cased, albert.kind) == (30_000, False, "sentencepiece")
    assert albert.tokenize("Hello 9,9, world") == ["▁hell", "o", "▁", "9,9", ",", "▁", "world"]


def test_ids_are_those_of_the_library(albert: Tokenizer, library: Any) -> None:
    assigned = ("".join(c for c in text if unicodedata.category(c) != "Cn") for text in hostile_strings(1_500, seed=9))
    for text in (*TEXTS, *assigned):
        expected = albert_ids(library, text)
        assert albert.ids(text) == expected, ascii(text)
        ids, offsets = albert.encode_with_offsets(text)
        assert ids.tolist() == expected, ascii(text)
        assert (offsets[:, 0] <= offsets[:, 1]).all(), ascii(text)
        assert (offsets[1:] >= offsets[:-1]).all(), ascii(text)
        assert ((offsets >= 0) & (offsets <= len(text))).all(), ascii(text)
    ids, counts = albert.bulk_ids(TEXTS)
    assert ids.tolist() == [number for text in TEXTS for number in albert.ids(text)]
    assert counts.tolist() == [len(albert.ids(text)) for text in TEXTS]


def test_places_and_word_starts(albert: Tokenizer) -> None:
    text = "  Hello ``Café''  in 2,019, x"
    ids, offsets = albert.encode_with_offsets(text)
    parts = [text[first:last].strip() for first, last in offsets]
    assert list(zip(albert.pieces(ids), parts, strict=True)) == [
        ("▁hell", "Hell"),
        ("o", "o"),
        ("▁", ""),
        ('"', "``"),
        ("ca", "Ca"),
        ("fe", "fé"),
        ('"', "''"),
        ("▁in", "in"),
        ("▁", ""),
        ("2,0", "2,0"),
        ("19", "19"),
        (",", ","),
        ("▁x", "x"),
    ]
    assert albert.word_starts(ids).tolist() == [piece.startswith("▁") for piece in albert.pieces(ids)]
    assert albert.decode([2, *ids, 3]) == 'hello "cafe" in 2,019, x'


def test_preprocessing_with_places_is_the_same() -> None:
    for lower in (True, False):
        for keep in (True, False):
            preprocessor = Preprocessor(lower, keep)
            for text in (*TEXTS, *hostile_strings(500, seed=2)):
                assert "".join(char for char, _, _ in preprocessor.aligned(text)) == preprocessor(text), ascii(text)


def test_saving_and_casing(albert: Tokenizer, tmp_path: Path) -> None:
    albert.save(tmp_path)
    assert load_tokenizer(tmp_path).fingerprint == albert.fingerprint
    assert pickle.loads(pickle.dumps(albert)).fingerprint == albert.fingerprint
    cased = load_tokenizer(tmp_path, cased=True)
    assert cased.fingerprint != albert.fingerprint
    assert cased.tokenize("Hello")[0] == "▁Hell"


def test_model_without_specials(data_dir: Path, tmp_path: Path) -> None:
    shutil.copy(data_dir / "sentencepiece" / "test_model.model", tmp_path / "spiece.model")
    with pytest.raises(BertJaxError, match=r"has no <pad> and no \[CLS\] and no \[SEP\] .*bert-jax vocab"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(("content", "message"), [(b"", "is empty"), (b"no model", "is no SentencePiece model")])
def test_broken_model(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "spiece.model").write_bytes(content)
    with pytest.raises(BertJaxError, match=message):
        load_tokenizer(tmp_path)


def test_user_defined_specials_are_plain_in_text(albert: Tokenizer) -> None:
    """A model that would match a typed [MASK] is made not to."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(albert._arguments[0])  # type: ignore[attr-defined]
    model.pieces[4].type = sentencepiece_model_pb2.ModelProto.SentencePiece.USER_DEFINED
    defined = model.SerializeToString()
    assert 4 in sentencepiece.SentencePieceProcessor(model_proto=defined).encode("a [MASK] b")
    tokenizer = SentencePieceTokenizer(defined, cased=True)
    assert 4 not in tokenizer.ids("a [MASK] b")
    assert 4 in tokenizer.ids_with_specials("a [MASK] b")


def test_hugging_face_reads_the_directory(albert: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not here: pip install -e .[compare]")
    albert.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "Hello world's café, quoted"
    assert theirs(text, "and more")["input_ids"] == albert.encode(text, "and more")["input_ids"].tolist()
