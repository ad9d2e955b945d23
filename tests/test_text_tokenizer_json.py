"""`tokenizer.json`: the same ids as from `vocab.txt`, the flags respected, anything that is not BERT's refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bert_jax.errors import BertJaxError
from bert_jax.files import write_json
from bert_jax.text.tokenizer import load_tokenizer

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cafe", "café", "Café", "東", "東京", "a", "##b")


def tokenizer_json(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": WORDS[i], "special": True} for i in range(5)],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {word: index for index, word in enumerate(WORDS)},
        },
    }
    for path, value in changes.items():
        *folders, name = path.split("__")
        part = values
        for folder in folders:
            part = part[folder]
        part[name] = value
    return values


def make(folder: Path, config: dict[str, Any] | None = None, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    write_json(folder / "tokenizer.json", tokenizer_json(**changes))
    if config is not None:
        write_json(folder / "tokenizer_config.json", config)
    return folder


@pytest.mark.parametrize(
    ("flags", "tokens"),
    [
        ({}, ["cafe", "東", "[UNK]"]),
        ({"normalizer__strip_accents": False}, ["café", "東", "[UNK]"]),
        ({"normalizer__lowercase": False}, ["Café", "東", "[UNK]"]),
        ({"normalizer__handle_chinese_chars": False}, ["cafe", "東京"]),
        ({"normalizer__lowercase": False, "normalizer__strip_accents": True}, ["[UNK]", "東", "[UNK]"]),
    ],
)
def test_the_normalisers_flags(tmp_path: Path, flags: dict[str, Any], tokens: list[str]) -> None:
    assert load_tokenizer(make(tmp_path / "cased_by_name", **flags)).tokenize("Café 東京") == tokens


def test_the_configuration_comes_first(tmp_path: Path) -> None:
    config = {"do_lower_case": False, "tokenize_chinese_chars": False, "tokenizer_class": "TokenizersBackend"}
    assert load_tokenizer(make(tmp_path / "a", config)).tokenize("Café 東京") == ["Café", "東京"]
    config = {"strip_accents": None}  # null is a value: follow the casing
    changed = make(tmp_path / "b", config, normalizer__strip_accents=False)
    assert load_tokenizer(changed).tokenize("Café") == ["cafe"]
    assert load_tokenizer(make(tmp_path / "c", {"do_lower_case": True}), cased=True).tokenize("Café") == ["Café"]


def test_a_vocabulary_beside_it_comes_first_and_takes_its_flags(tmp_path: Path) -> None:
    folder = make(tmp_path / "model", normalizer__lowercase=False)
    (folder / "vocab.txt").write_text("\n".join((*WORDS, "extra")) + "\n", encoding="utf-8")
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.vocab_size, tokenizer.cased) == (len(WORDS) + 1, True)
    write_json(folder / "tokenizer.json", tokenizer_json(normalizer={"type": "Lowercase"}))
    assert load_tokenizer(folder).cased is False  # by the entries: theirs says nothing that is understood


def test_added_tokens_are_entries(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    added = [{"id": len(WORDS), "content": "covid"}]
    tokenizer = load_tokenizer(make(tmp_path / "model", added_tokens=added))
    assert tokenizer.tokenize("Covid a") == ["covid", "a"]
    assert "1 added tokens (covid)" in caplog.text


def test_added_tokens_beside_a_vocabulary(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Words become its entries; what a text would have to be cut at first is refused, with and without the file."""

    def beside(name: str, *added: tuple[str, int]) -> Path:
        tokens = [{"id": number, "content": token, "special": True} for token, number in added]
        folder = make(tmp_path / name, added_tokens=tokens)
        (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
        return folder

    count = len(WORDS)
    tokenizer = load_tokenizer(beside("a", ("[PAD]", 0), ("flu", count + 1), ("covid", count)))
    assert tokenizer.ids("Covid flu a") == [count, count + 1, WORDS.index("a")]
    assert tokenizer.vocab_size == count + 2 and "2 added tokens (covid, flu)" in caplog.text
    for folder in (beside("b", ("[E1]", count)), make(tmp_path / "c", added_tokens=[{"id": count, "content": "[E1]"}])):
        with pytest.raises(BertJaxError, match=r"added tokens that are no words by themselves \(\[E1\]\)"):
            load_tokenizer(folder)
    with pytest.raises(BertJaxError, match=f"adds covid with ids {count + 5}: expected {count} and on"):
        load_tokenizer(beside("d", ("covid", count + 5)))


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("added_tokens.json", lambda count: {"flu": count + 1, "covid": count, "[PAD]": 0}),
        (
            "tokenizer_config.json",
            lambda count: {
                "added_tokens_decoder": {
                    "0": {"content": "[PAD]", "special": True},
                    str(count + 1): {"content": "flu"},
                    str(count): {"content": "covid"},
                }
            },
        ),
    ],
)
def test_tokens_added_by_older_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, written: Callable[[int], dict[str, Any]]
) -> None:
    """Their slow tokenizers write no tokenizer.json, and what they added stands beside vocab.txt."""
    count = len(WORDS)
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    write_json(tmp_path / name, written(count))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.ids("Covid flu a") == [count, count + 1, WORDS.index("a")]
    assert tokenizer.vocab_size == count + 2 and f"{name}: 2 added tokens (covid, flu)" in caplog.text
    (tmp_path / name).write_text((tmp_path / name).read_text().replace("covid", "[E1]"))
    with pytest.raises(BertJaxError, match=name + r" has added tokens that are no words by themselves \(\[E1\]\)"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__type": "BPE"}, "holds BPE: only BERT's WordPiece"),
        ({"model": None}, "holds nothing: only BERT's WordPiece"),
        ({"model__vocab": [1]}, "has no vocabulary of a WordPiece model"),
        ({"model__continuing_subword_prefix": "@@"}, "marks the pieces inside words by '@@'"),
        ({"model__max_input_chars_per_word": 7}, "words of more than 7 characters as unknown"),
        ({"normalizer": {"type": "Sequence", "normalizers": []}}, "its normalizer is Sequence, which splits text"),
        ({"normalizer": None}, "its normalizer is nothing"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "its pre_tokenizer is Whitespace"),
        ({"normalizer__clean_text": False}, "keeps control characters"),
        ({"normalizer__lowercase": "yes"}, "lowercase of its normalizer is 'yes'"),
        ({"added_tokens": [{"id": 99, "content": "x"}]}, f"has no entry {len(WORDS)}, but 99 is one"),
        ({"added_tokens": [{"id": 5, "content": "x"}]}, "gives id 5 to both 'cafe' and 'x'"),
        ({"added_tokens": [{"id": "5", "content": "x"}]}, "the id of 'x' is '5'"),
        ({"model__vocab": {"a": 0}, "added_tokens": []}, r"has no \[PAD\]"),
    ],
)
def test_what_is_not_berts_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = make(tmp_path / "model", **changes)
    with pytest.raises(BertJaxError, match=message) as caught:
        load_tokenizer(folder)
    assert str(folder / "tokenizer.json") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff"])
def test_a_broken_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(BertJaxError, match="tokenizer.json (is not JSON|holds list)"):
        load_tokenizer(tmp_path)


GOLDEN = ("bert_base_uncased", "bert_base_cased", "bert_base_chinese", "bert_base_multilingual_cased")


@pytest.mark.parametrize("name", GOLDEN)
def test_equal_to_the_tokenizer_of_vocab_txt(tmp_path: Path, data_dir: Path, name: str) -> None:
    """The official tokens of golden lines, the vocabulary read from `tokenizer.json`."""
    lines = (data_dir / "vocab" / f"{name}.txt").read_text(encoding="utf-8").split("\n")
    entries = {line.strip("\r"): index for index, line in enumerate(lines) if line}
    lower = name != "bert_base_cased" and "multilingual" not in name
    folder = make(tmp_path / "model", model__vocab=entries, added_tokens=[], normalizer__lowercase=lower)
    tokenizer = load_tokenizer(folder)
    with open(data_dir / "golden" / "tokenization" / f"{name}.jsonl", encoding="utf-8") as file:
        for line in map(json.loads, file):
            assert tokenizer.ids(line["text"]) == line["ids"]


@pytest.mark.parametrize("name", GOLDEN)
def test_equal_to_the_library_that_wrote_the_file(tmp_path: Path, data_dir: Path, name: str) -> None:
    """Where the official code and `tokenizers` agree, so do we on the very file it saved; they differ on few lines."""
    tokenizers = pytest.importorskip("tokenizers")
    lower = name in ("bert_base_uncased", "bert_base_chinese")
    theirs = tokenizers.BertWordPieceTokenizer(str(data_dir / "vocab" / f"{name}.txt"), lowercase=lower)
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = load_tokenizer(tmp_path)
    agreed = total = 0
    with open(data_dir / "golden" / "tokenization" / f"{name}.jsonl", encoding="utf-8") as file:
        for line in map(json.loads, file):
            total += 1
            their_ids = theirs.encode(line["text"], add_special_tokens=False).ids
            if their_ids == line["ids"]:
                agreed += 1
                assert ours.ids(line["text"]) == their_ids
    assert agreed > 0.9 * total
