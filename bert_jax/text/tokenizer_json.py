"""`tokenizer.json` of Hugging Face's `tokenizers`, as far as it says what BERT's WordPiece is: vocabulary and flags.

Newer versions of their library save this file alone, without a `vocab.txt`. Anything that splits text otherwise than
BERT does is refused: read as BERT's it would give other ids without a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bert_jax.console import warn
from bert_jax.errors import BertJaxError
from bert_jax.files import read_json
from bert_jax.text.interface import SPECIAL_PIECES, Tokenizer
from bert_jax.text.tokenizer_files import CONFIG_FILE
from bert_jax.text.wordpiece import CONTINUES, MAX_WORD_CHARACTERS

TOKENIZER_FILE = "tokenizer.json"
ADDED_FILE = "added_tokens.json"
_THEIR_MAX_WORD_CHARACTERS = 100  # what their converter writes; longer words differ from google's, as documented


_ID = re.compile("[0-9]{1,18}")


class Flags(NamedTuple):
    """What BERT's normaliser is told to do; `strip_accents` None follows `lower`."""

    lower: bool
    strip_accents: bool | None
    chinese: bool


def read_flags(directory: Path) -> Flags | None:
    """The flags in `tokenizer.json` of a directory; None when there is none, or its normaliser is not BERT's."""
    path = directory / TOKENIZER_FILE
    if not path.is_file():
        return None
    normalizer = _read(path).get("normalizer")
    if not isinstance(normalizer, Mapping) or _type(normalizer) != "BertNormalizer":
        return None
    return _flags(normalizer, path)


def read_added(directory: Path, lines: Sequence[str]) -> list[str]:
    """Tokens that the files beside a `vocab.txt` add to its `lines`, in the order of their ids; empty without them.

    Errors: `BertJaxError` for ids that do not follow on the vocabulary's.
    """
    path, added = _added(directory)
    known = set(lines)
    for content, number in added:
        if type(number) is not int or "\n" in content:
            raise BertJaxError(
                f"{path}: the token {content[:60]!r} has the id {number!r}: expected a line and its number"
            )
    by_id = {number: content for content, number in added if content not in known}
    if sorted(by_id) != list(range(len(lines), len(lines) + len(by_id))):
        raise BertJaxError(
            f"{path} adds {_some(list(by_id.values()))} with ids {_some(list(map(str, by_id)))}: expected "
            f"{len(lines)} and on, behind the entries of vocab.txt; do the two files belong together?"
        )
    found = [by_id[number] for number in sorted(by_id)]
    _tell(path, found)
    return found


def check_added(tokenizer: Tokenizer, directory: Path) -> None:
    """Errors: `BertJaxError` for added tokens that are no word by themselves: BERT would cut them to pieces, and their
    library finds them before anything else."""
    path, added = _added(directory)
    specials = set(tokenizer.special_pieces())
    lost = [
        content
        for content, _ in added
        if content not in specials
        and content not in SPECIAL_PIECES.values()
        and tokenizer.ids(content) != [tokenizer.id_of(content)]
    ]
    if lost:
        raise BertJaxError(
            f"{path} has added tokens that are no words by themselves ({_some(lost)}): they are to be found in a text "
            "before it is split, which is not done here; without its added tokens the directory loads, and reads them "
            "as plain characters"
        )


def _added(directory: Path) -> tuple[Path, list[tuple[str, Any]]]:
    """Tokens added to a vocabulary, each with its id, and the file that says so: the first that is there and names any,
    since each of them is the whole list: `tokenizer.json`, `tokenizer_config.json`, and the `added_tokens.json` of
    older versions."""
    path = directory / TOKENIZER_FILE
    listed = _read(path).get("added_tokens") if path.is_file() else None
    if listed:
        return path, [(str(item["content"]), item["id"]) for item in _tokens(listed)]
    path = directory / CONFIG_FILE
    by_id = _read(path).get("added_tokens_decoder") if path.is_file() else None
    if isinstance(by_id, Mapping) and by_id:
        items = _tokens({"id": int(key) if _ID.fullmatch(key) else key, **_fields(item)} for key, item in by_id.items())
        return path, [(str(item["content"]), item["id"]) for item in items]
    path = directory / ADDED_FILE
    return path, list(_read(path).items()) if path.is_file() else []


def _fields(item: Any) -> Mapping[str, Any]:
    return item if isinstance(item, Mapping) else {}


def _tokens(items: Iterable[Any]) -> list[Mapping[str, Any]]:
    return [item for item in items if isinstance(item, Mapping) and _is_token(item)]


def _some(items: Sequence[str]) -> str:
    return ", ".join(items[:3]) + (", …" if len(items) > 3 else "")


def _tell(path: Path, new: Sequence[str]) -> None:
    if new:
        warn(
            f"{path}: {len(new)} added tokens ({_some(new)}) are entries of the vocabulary here, found where a whole "
            "word is one; they are not cut out of the text first"
        )


def read_tokenizer_json(directory: Path) -> tuple[list[str], Flags]:
    """Entries in the order of their ids, and the flags, of `tokenizer.json` in a directory.

    Errors: `BertJaxError` when it is broken, or says anything else than BERT's WordPiece.
    """
    path = directory / TOKENIZER_FILE
    values = _read(path)
    model = values.get("model")
    if not isinstance(model, Mapping) or _type(model) not in ("WordPiece", None):
        raise BertJaxError(f"{path} holds {_named(model)}: only BERT's WordPiece is read from {TOKENIZER_FILE}")
    _check_model(model, path)
    for key, expected in (("normalizer", "BertNormalizer"), ("pre_tokenizer", "BertPreTokenizer")):
        if _type(values.get(key)) != expected:
            raise BertJaxError(
                f"{path}: its {key} is {_named(values.get(key))}, which splits text otherwise than BERT does: only "
                f"{expected} is read"
            )
    return _entries(model["vocab"], values.get("added_tokens") or [], path), _flags(values["normalizer"], path)


def _read(path: Path) -> dict[str, Any]:
    values = read_json(path)
    if not isinstance(values, dict):
        raise BertJaxError(f"{path} holds {type(values).__name__}, expected a JSON object")
    return values


def _type(part: Any) -> str | None:
    return part.get("type") if isinstance(part, Mapping) else None


def _named(part: Any) -> str:
    return str(_type(part) or ("nothing" if part is None else "something without a type"))


def _check_model(model: Mapping[str, Any], path: Path) -> None:
    if not isinstance(model.get("vocab"), Mapping):
        raise BertJaxError(f"{path} has no vocabulary of a WordPiece model (entry → id): fetch it again")
    if model.get("continuing_subword_prefix", CONTINUES) != CONTINUES:
        raise BertJaxError(
            f"{path} marks the pieces inside words by {model['continuing_subword_prefix']!r}: expected {CONTINUES!r}"
        )
    longest = model.get("max_input_chars_per_word", _THEIR_MAX_WORD_CHARACTERS)
    if longest not in (_THEIR_MAX_WORD_CHARACTERS, MAX_WORD_CHARACTERS):
        raise BertJaxError(
            f"{path} takes words of more than {longest} characters as unknown: expected {MAX_WORD_CHARACTERS} "
            f"(google's) or {_THEIR_MAX_WORD_CHARACTERS}"
        )


def _flags(normalizer: Mapping[str, Any], path: Path) -> Flags:
    for key in ("clean_text", "handle_chinese_chars", "lowercase", "strip_accents"):
        value = normalizer.get(key)
        if value is not None and not isinstance(value, bool):
            raise BertJaxError(f"{path}: {key} of its normalizer is {value!r}, expected true, false or null")
    if normalizer.get("clean_text") is False:
        raise BertJaxError(f"{path} keeps control characters (clean_text false), which BERT removes: set it to true")
    chinese, lower = normalizer.get("handle_chinese_chars"), normalizer.get("lowercase")
    return Flags(lower is not False, normalizer.get("strip_accents"), chinese is not False)


def _entries(vocabulary: Mapping[str, Any], added: Any, path: Path) -> list[str]:
    """Entries by id: of the model, and tokens added behind it."""
    by_id: dict[int, str] = {}
    further = [(item["content"], item["id"]) for item in _tokens(added)]
    for entry, number in (*vocabulary.items(), *further):
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise BertJaxError(f"{path}: the id of {entry!r} is {number!r}: expected a whole number from 0 on")
        if by_id.setdefault(number, entry) != entry:
            raise BertJaxError(f"{path} gives id {number} to both {by_id[number]!r} and {entry!r}: restore the file")
        if "\n" in entry:
            raise BertJaxError(f"{path}: entry {number} holds a line end, which a vocabulary cannot: remove it")
    missing = next((number for number in range(len(by_id)) if number not in by_id), None)
    if missing is not None:
        raise BertJaxError(f"{path} has no entry {missing}, but {max(by_id)} is one: ids must follow one another")
    new = [str(entry) for entry, _ in further if entry not in vocabulary and entry not in SPECIAL_PIECES.values()]
    _tell(path, new)
    return [by_id[number] for number in range(len(by_id))]


def _is_token(item: Mapping[str, Any]) -> bool:
    return isinstance(item.get("content"), str) and "id" in item
