"""The files of a tokenizer directory: `vocab.txt` and `tokenizer_config.json`, with Hugging Face's keys."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bert_jax.errors import BertJaxError
from bert_jax.files import clear_errors, read_json, write_json
from bert_jax.text.interface import SPECIAL_PIECES
from bert_jax.text.unicode_tables import character_map, character_set

VOCABULARY_FILE = "vocab.txt"
SENTENCE_PIECE_FILE = "spiece.model"
CONFIG_FILE = "tokenizer_config.json"
KIND_KEY = "bert_jax_kind"  # ours, for the kind that Hugging Face has no class for

# More entries with a capital letter than this, and the vocabulary is of cased text (uncased ones have 7, cased ones
# 8,373 and 19,003).
_CAPITALIZED_ENTRIES = 100


def read_vocabulary(path: str | os.PathLike[str]) -> list[str]:
    """Lines of a `vocab.txt`, or of the one in a directory, in order, as they stand there, without their line ends.

    Errors: `BertJaxError` when it is missing, empty, or not UTF-8.
    """
    path = Path(path)
    if path.is_dir():
        path /= VOCABULARY_FILE
    if not path.is_file():
        raise BertJaxError(f"no vocabulary at {path}: give a directory that holds {VOCABULARY_FILE}")
    with clear_errors("read", path):
        raw = path.read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise BertJaxError(f"{path} is not UTF-8 at line {line}, byte {error.start}: save it as UTF-8") from error
    lines = text.split("\n")  # and at nothing else: the official Chinese vocabulary has an entry that is U+2028
    if not lines[-1]:
        lines.pop()
    if not lines:
        raise BertJaxError(f"{path} is empty: a vocabulary has one entry per line, from {SPECIAL_PIECES['pad']} on")
    return lines


def entries_of(lines: Sequence[str], source: object) -> dict[str, int]:
    """Entry → id, each line stripped as the official loader does.

    Errors: `BertJaxError` when two lines hold the same entry (the official loader would silently lose one).
    """
    whitespace = "".join(character_set("whitespace"))
    entries: dict[str, int] = {}
    for number, line in enumerate(lines):
        entry = line.strip(whitespace)
        first = entries.setdefault(entry, number)
        if first != number:
            raise BertJaxError(
                f"{source} holds {entry!r} twice, on lines {first + 1} and {number + 1}: "
                "an entry has one id; remove or rename one of them"
            )
    return entries


def special_ids(entries: dict[str, int], pieces: dict[str, str], source: object) -> dict[str, int]:
    """Ids of the special pieces, keys as in `SPECIAL_PIECES`. Errors: `BertJaxError` for those that are missing."""
    missing = [piece for piece in pieces.values() if piece not in entries]
    if missing:
        raise BertJaxError(
            f"{source} has no {' and no '.join(missing)}: a BERT vocabulary holds {' '.join(pieces.values())}; "
            f"put them into it, or name those it uses in {CONFIG_FILE}"
        )
    return {name: entries[piece] for name, piece in pieces.items()}


def read_config(directory: Path) -> dict[str, Any]:
    """`tokenizer_config.json` of a directory, empty when there is none. Errors: `BertJaxError` when it is no object."""
    path = directory / CONFIG_FILE
    if not path.is_file():
        return {}
    config = read_json(path)
    if not isinstance(config, dict):
        raise BertJaxError(f"{path} holds {type(config).__name__}, expected a JSON object")
    return config


def flag_of(config: dict[str, Any], key: str, directory: object) -> bool | None:
    """A true/false/null field of the configuration. Errors: `BertJaxError` for anything else."""
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise BertJaxError(f"{key} in {directory}/{CONFIG_FILE} is {value!r}, expected true, false or null")
    return value


def special_pieces_of(config: dict[str, Any], defaults: dict[str, str] = SPECIAL_PIECES) -> dict[str, str]:
    """The special pieces a configuration names, the usual ones where it names none."""
    pieces = {}
    for name, default in defaults.items():
        value = config.get(f"{name}_token") or default
        pieces[name] = str(value["content"]) if isinstance(value, dict) and "content" in value else str(value)
    return pieces


def guess_cased(directory: Path, lines: Sequence[str]) -> tuple[bool, str]:
    """Whether a vocabulary without a configuration is of cased text, and by what that was told."""
    name = directory.resolve().name
    if "uncased" in name.lower():
        return False, f"the directory is named {name}"
    if "cased" in name.lower():
        return True, f"the directory is named {name}"
    capitals = character_map("lower").keys()
    count = sum(not capitals.isdisjoint(line) for line in lines)
    return count > _CAPITALIZED_ENTRIES, f"{count:,} of {len(lines):,} entries hold a capital letter"


def write_config(directory: Path, tokenizer_class: str, pieces: dict[str, str], **settings: Any) -> None:
    """Write `tokenizer_config.json`: the class that reads the directory in Hugging Face, specials, settings."""
    specials = {f"{name}_token": piece for name, piece in pieces.items()}
    write_json(directory / CONFIG_FILE, {"tokenizer_class": tokenizer_class, **settings, **specials})
