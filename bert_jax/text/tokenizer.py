"""Load the tokenizer of a directory: `vocab.txt`, `tokenizer.json` or `spiece.model`, and `tokenizer_config.json`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from bert_jax.console import log, warn
from bert_jax.errors import BertJaxError
from bert_jax.text.interface import SPECIAL_PIECES, Tokenizer
from bert_jax.text.sentence_piece import ALBERT_PIECES, SentencePieceTokenizer, read_model
from bert_jax.text.tokenizer_files import (
    CONFIG_FILE,
    KIND_KEY,
    SENTENCE_PIECE_FILE,
    VOCABULARY_FILE,
    flag_of,
    guess_cased,
    read_config,
    read_vocabulary,
    special_pieces_of,
)
from bert_jax.text.tokenizer_json import (
    ADDED_FILE,
    TOKENIZER_FILE,
    Flags,
    check_added,
    read_added,
    read_flags,
    read_tokenizer_json,
)
from bert_jax.text.wordpiece_tokenizer import WordPieceTokenizer
from bert_jax.text.words import WordsTokenizer

__all__ = [
    "SPECIAL_PIECES",
    "SentencePieceTokenizer",
    "Tokenizer",
    "WordPieceTokenizer",
    "WordsTokenizer",
    "load_tokenizer",
    "tokenize_lines",
]

FILES = (VOCABULARY_FILE, SENTENCE_PIECE_FILE, CONFIG_FILE, TOKENIZER_FILE, ADDED_FILE)
"""Every file that a tokenizer directory is read from: who fetches or unpacks one takes all of these."""

# Classes of Hugging Face whose `vocab.txt` is read as BERT's is; another name gets a warning, not a refusal.
_WORDPIECE_CLASSES = frozenset(
    f"{name}Tokenizer{fast}"
    for name in ("Bert", "DistilBert", "Electra", "MobileBert", "ConvBert", "LayoutLM", "Lxmert", "SqueezeBert")
    for fast in ("", "Fast")
) | {"PreTrainedTokenizerFast", "TokenizersBackend"}  # any class of `tokenizer.json`, which is looked at itself


def load_tokenizer(directory: str | os.PathLike[str], cased: bool | None = None) -> Tokenizer:
    """The tokenizer of `directory`.

    Casing: `cased` when given, else `do_lower_case` of `tokenizer_config.json`, else `lowercase` of `tokenizer.json`,
    else the directory's name, else whether more than 100 entries hold a capital letter (logged); SentencePiece is
    uncased unless told. `vocab.txt` comes before the vocabulary of `tokenizer.json`.
    Errors: `BertJaxError` for a directory that is missing or holds no vocabulary, and whatever is wrong with that.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise BertJaxError(f"no tokenizer at {folder}: expected a directory with {VOCABULARY_FILE}")
    config = read_config(folder)
    words, model = folder / VOCABULARY_FILE, folder / SENTENCE_PIECE_FILE
    if words.exists() and model.exists() and not _is_albert(config):
        raise BertJaxError(f"{folder} holds {words.name} and {model.name}: remove the one that is not meant")
    if model.exists() and (not words.exists() or _is_albert(config)):
        return _load_sentence_piece(folder, config, cased)
    if words.exists():
        return (
            _load_words(folder, config) if config.get(KIND_KEY) == "words" else _load_wordpiece(folder, config, cased)
        )
    if (folder / TOKENIZER_FILE).is_file():
        return _load_tokenizer_json(folder, config, cased)
    raise BertJaxError(
        f"{folder} is no tokenizer: it holds neither {VOCABULARY_FILE}, {TOKENIZER_FILE} nor {SENTENCE_PIECE_FILE}; "
        "make one with bert-jax vocab"
    )


def _is_albert(config: dict[str, object]) -> bool:
    return str(config.get("tokenizer_class")).startswith("Albert")


def _load_wordpiece(folder: Path, config: dict[str, object], cased: bool | None) -> Tokenizer:
    _check_class(folder, config)
    lines = read_vocabulary(folder / VOCABULARY_FILE)
    lines += read_added(folder, lines)
    return _wordpiece(folder, config, cased, lines, read_flags(folder), VOCABULARY_FILE)


def _load_tokenizer_json(folder: Path, config: dict[str, object], cased: bool | None) -> Tokenizer:
    _check_class(folder, config)
    lines, flags = read_tokenizer_json(folder)
    return _wordpiece(folder, config, cased, lines, flags, TOKENIZER_FILE)


def _wordpiece(
    folder: Path, config: dict[str, object], cased: bool | None, lines: list[str], flags: Flags | None, source: str
) -> Tokenizer:
    """The configuration's flags come first, then those of `tokenizer.json`, then what BERT does by itself."""
    accents, chinese = flag_of(config, "strip_accents", folder), flag_of(config, "tokenize_chinese_chars", folder)
    if flags is not None:
        accents = flags.strip_accents if "strip_accents" not in config else accents
        chinese = flags.chinese if chinese is None else chinese
    tokenizer = WordPieceTokenizer(
        lines,
        _cased(folder, config, cased, lines, flags),
        strip_accents=accents,
        chinese=True if chinese is None else chinese,
        special_pieces=special_pieces_of(config),
        source=folder / source,
    )
    check_added(tokenizer, folder)
    return tokenizer


def _load_words(folder: Path, config: dict[str, object]) -> Tokenizer:
    lines = read_vocabulary(folder / VOCABULARY_FILE)
    return WordsTokenizer(lines, special_pieces_of(config), folder / VOCABULARY_FILE)


def _load_sentence_piece(folder: Path, config: dict[str, object], cased: bool | None) -> Tokenizer:
    path = folder / SENTENCE_PIECE_FILE
    lower = flag_of(config, "do_lower_case", folder)
    if cased is None:
        # The published models hold capitals and are used in lower case: their pieces tell nothing.
        cased = lower is False
    return SentencePieceTokenizer(
        read_model(path),
        cased,
        keep_accents=bool(flag_of(config, "keep_accents", folder)),
        special_pieces=special_pieces_of(config, ALBERT_PIECES),
        source=path,
    )


def _cased(
    folder: Path, config: dict[str, object], cased: bool | None, entries: Sequence[str], flags: Flags | None
) -> bool:
    """Casing of a directory by the rule of `load_tokenizer`."""
    lower = flag_of(config, "do_lower_case", folder)
    if cased is not None:
        return cased
    if lower is not None:
        return not lower
    if flags is not None:
        return not flags.lower
    cased, reason = guess_cased(folder, entries)
    log(f"{folder} is taken as {'cased' if cased else 'uncased'}: {reason}")
    return cased


def _check_class(folder: Path, config: dict[str, object]) -> None:
    """Refuse what splits words otherwise, warn of a class that is not known."""
    name = str(config.get("tokenizer_class") or "BertTokenizer")
    if name.startswith("BertJapanese") or config.get("do_basic_tokenize") is False:
        raise BertJaxError(
            f"{folder / CONFIG_FILE} asks for {name} with its own word splitting, which is not BERT's: "
            "only plain WordPiece, ALBERT's SentencePiece and bert-jax's words are read"
        )
    if name not in _WORDPIECE_CLASSES:
        warn(f"{folder / CONFIG_FILE} names {name}: its {VOCABULARY_FILE} is read as BERT's WordPiece")


def tokenize_lines(tokenizer: Tokenizer, lines: Iterable[str], pieces: bool = False) -> Iterator[str]:
    """For each line of text one line of ids, or of pieces, with blanks between; one in, one out, as they come."""
    for line in lines:
        ids = tokenizer.ids(line)
        yield " ".join(tokenizer.pieces(ids) if pieces else map(str, ids))
