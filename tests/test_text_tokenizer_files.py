"""Vocabulary files, good and broken: each error is one line that names the thing."""

from __future__ import annotations

from pathlib import Path

import pytest

from bert_jax.errors import BertJaxError
from bert_jax.text.tokenizer import load_tokenizer
from bert_jax.text.tokenizer_files import guess_cased

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def _directory(tmp_path: Path, content: bytes | None, config: str | None = None) -> Path:
    folder = tmp_path / "uncased"
    folder.mkdir()
    if content is not None:
        (folder / "vocab.txt").write_bytes(content)
    if config is not None:
        (folder / "tokenizer_config.json").write_text(config)
    return folder


@pytest.mark.parametrize(
    ("content", "config", "message"),
    [
        (None, None, r"holds neither vocab\.txt, tokenizer\.json nor spiece\.model"),
        (b"", None, r"vocab\.txt is empty"),
        ("\n".join([*SPECIALS, "a", "b", "a"]).encode(), None, r"holds 'a' twice, on lines 6 and 8"),
        ("\n".join([*SPECIALS, "a", " a "]).encode(), None, r"holds 'a' twice, on lines 6 and 7"),
        ("\n".join(SPECIALS[:4]).encode(), None, r"has no \[MASK\]: "),
        (b"a\nb\n", None, r"has no \[PAD\] and no \[UNK\] and no \[CLS\]"),
        ("\n".join(SPECIALS).encode() + b"\nab\nc\xff\n", None, r"not UTF-8 at line 7, byte"),
        ("\n".join(SPECIALS).encode(), "[]", r"holds list, expected a JSON object"),
        ("\n".join(SPECIALS).encode(), "{", r"is not JSON"),
        ("\n".join(SPECIALS).encode(), '{"do_lower_case": "yes"}', r"do_lower_case .* is 'yes', expected true, false"),
        ("\n".join(SPECIALS).encode(), '{"tokenizer_class": "BertJapaneseTokenizer"}', r"its own word splitting"),
    ],
)
def test_broken_directories(tmp_path: Path, content: bytes | None, config: str | None, message: str) -> None:
    folder = _directory(tmp_path, content, config)
    with pytest.raises(BertJaxError, match=message) as raised:
        load_tokenizer(folder)
    assert "\n" not in str(raised.value)
    assert str(folder) in str(raised.value)


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(BertJaxError, match="no tokenizer at .*nowhere"):
        load_tokenizer(tmp_path / "nowhere")


def test_windows_line_ends_and_line_separators(tmp_path: Path) -> None:
    """A carriage return is stripped; U+2028 is an entry of the official Chinese vocabulary, not a line end."""
    text = "\r\n".join([*SPECIALS, "a", "\u2028", "##\u2028", "b"]) + "\r\n"
    tokenizer = load_tokenizer(_directory(tmp_path, text.encode()))
    assert tokenizer.vocab_size == 9
    assert tokenizer.ids("a b") == [5, 8]
    assert tokenizer.pieces([6, 7]) == ["", "##"]


def test_special_pieces_may_have_other_names(tmp_path: Path) -> None:
    config = '{"mask_token": {"content": "<mask>"}, "do_lower_case": true}'
    tokenizer = load_tokenizer(_directory(tmp_path, "\n".join([*SPECIALS[:4], "<mask>"]).encode(), config))
    assert tokenizer.mask_id == 4
    assert tokenizer.ids_with_specials("<mask>") == [4]


def test_casing_without_configuration() -> None:
    plain = ["a"] * 1000
    assert guess_cased(Path("/x/uncased_L-12"), ["A"] * 500) == (False, "the directory is named uncased_L-12")
    assert guess_cased(Path("/x/multi_cased_L-12"), plain)[0] is True
    assert guess_cased(Path("/x/model"), [*plain, *["A"] * 100]) == (
        False,
        "100 of 1,100 entries hold a capital letter",
    )
    assert guess_cased(Path("/x/model"), [*plain, *["É"] * 101])[0] is True
