"""Load the tokenizer of a directory: `vocab.txt` or `spiece.model`, and `tokenizer_config.json`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from bert_jax.console import log
from bert_jax.errors import BertJaxError
from bert_jax.text.interface import SPECIAL_PIECES, Tokenizer
from bert_jax.text.tokenizer_files import (
    SENTENCE_PIECE_FILE,
    VOCABULARY_FILE,
    flag_of,
    guess_cased,
    read_config,
    read_vocabulary,
    special_pieces_of,
)
from bert_jax.text.wordpiece_tokenizer import WordPieceTokenizer

__all__ = ["SPECIAL_PIECES", "Tokenizer", "WordPieceTokenizer", "load_tokenizer", "tokenize_lines"]


def load_tokenizer(directory: str | os.PathLike[str], cased: bool | None = None) -> Tokenizer:
    """The tokenizer of `directory`.

    Casing: `cased` when given, else `do_lower_case` of `tokenizer_config.json`, else the directory's name, else
    whether more than 100 entries hold a capital letter (logged). Errors: `BertJaxError` for a directory that is
    missing or holds no vocabulary, and whatever is wrong with that.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise BertJaxError(f"no tokenizer at {folder}: expected a directory with {VOCABULARY_FILE}")
    config = read_config(folder)
    if (folder / VOCABULARY_FILE).is_file():
        return _load_wordpiece(folder, config, cased)
    raise BertJaxError(f"{folder} holds neither {VOCABULARY_FILE} nor {SENTENCE_PIECE_FILE}: it is no tokenizer")


def _load_wordpiece(folder: Path, config: dict[str, object], cased: bool | None) -> Tokenizer:
    lines = read_vocabulary(folder / VOCABULARY_FILE)
    lower = flag_of(config, "do_lower_case", folder)
    if cased is None and lower is not None:
        cased = not lower
    if cased is None:
        cased, reason = guess_cased(folder, lines)
        log(f"{folder / VOCABULARY_FILE} is taken as {'cased' if cased else 'uncased'}: {reason}")
    chinese = flag_of(config, "tokenize_chinese_chars", folder)
    return WordPieceTokenizer(
        lines,
        cased,
        strip_accents=flag_of(config, "strip_accents", folder),
        chinese=True if chinese is None else chinese,
        special_pieces=special_pieces_of(config),
        source=folder / VOCABULARY_FILE,
    )


def tokenize_lines(tokenizer: Tokenizer, lines: Iterable[str], pieces: bool = False) -> Iterator[str]:
    """For each line of text one line of ids, or of pieces, with blanks between; one in, one out, as they come."""
    for line in lines:
        ids = tokenizer.ids(line)
        yield " ".join(tokenizer.pieces(ids) if pieces else map(str, ids))
