"""The WordPiece tokenizer of a `vocab.txt`: `wordpiece.py` behind the common interface."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax.files import digest, write_text
from bert_jax.text.interface import SPECIAL_PIECES, Tokenizer
from bert_jax.text.normalise import WordRules, WordSplitter
from bert_jax.text.readable import readable
from bert_jax.text.tokenizer_files import VOCABULARY_FILE, entries_of, special_ids, write_config
from bert_jax.text.wordpiece import CONTINUES, TextPieces, WordPieces

_PACKED = np.dtype("<i4")  # int32 on every machine that JAX runs on


class WordPieceTokenizer(Tokenizer):
    """Equal to google-research/bert's `FullTokenizer` on every string, under Unicode 15.0. `lines` is kept as given.

    `lines`: the lines of `vocab.txt`; `cased`: leave capitals and accents alone; `strip_accents`: None follows
    `cased`; `chinese`: Chinese characters are words; `special_pieces`: as `SPECIAL_PIECES`; `source` names the
    vocabulary in errors. Errors: `BertJaxError` for an entry that stands twice or a special piece that is missing.
    """

    kind = "wordpiece"

    def __init__(
        self,
        lines: Sequence[str],
        cased: bool,
        strip_accents: bool | None = None,
        chinese: bool = True,
        special_pieces: dict[str, str] | None = None,
        source: object = "the vocabulary",
    ):
        self._arguments = (tuple(lines), cased, strip_accents, chinese, special_pieces, str(source))
        self.lines = tuple(lines)
        self._names = dict(special_pieces or SPECIAL_PIECES)
        self._ids = entries_of(lines, source)
        self._entries = list(self._ids)
        special = special_ids(self._ids, self._names, source)
        self.pad_id, self.unk_id, self.cls_id = special["pad"], special["unk"], special["cls"]
        self.sep_id, self.mask_id = special["sep"], special["mask"]
        self.vocab_size = len(self._entries)
        self.cased, self.strip_accents, self.chinese = cased, strip_accents, chinese
        strips = not cased if strip_accents is None else strip_accents
        self.rules = WordRules(not cased, strips, chinese)
        self._text_pieces = TextPieces(WordSplitter(*self.rules), WordPieces(self._ids, self.unk_id))
        # As in the official whole-word masking: whatever is not marked as going on begins a word.
        self._starts = np.array([not entry.startswith(CONTINUES) for entry in self._entries])
        self.fingerprint = digest(
            {
                "kind": self.kind,
                "entries": self._entries,
                "lower": not cased,
                "strip_accents": strips,
                "chinese": chinese,
                "special_ids": special,
            }
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments  # without what was memoised

    def with_lines(self, lines: Sequence[str]) -> WordPieceTokenizer:
        """This tokenizer with another vocabulary."""
        return type(self)(lines, *self._arguments[1:])

    def lowered(self) -> WordPieceTokenizer:
        lines, _, strip_accents, chinese, pieces, source = self._arguments
        return type(self)(lines, False, bool(strip_accents), chinese, pieces, source)

    def ids(self, text: str) -> list[int]:
        return np.frombuffer(self._text_pieces.packed_ids(text), _PACKED).tolist()

    def bulk_ids(self, texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        packed = list(map(self._text_pieces.packed_ids, texts))
        counts = np.fromiter(map(len, packed), np.int64, len(packed)) // 4
        return np.frombuffer(bytearray().join(packed), _PACKED), counts

    def ids_and_word_starts(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        ids = np.frombuffer(bytearray(self._text_pieces.packed_ids(text)), _PACKED)
        return ids, self._starts.take(ids)

    def word_starts(self, ids: np.ndarray) -> np.ndarray:
        return self._starts[ids]

    def encode_with_offsets(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        found = np.array(self._text_pieces.with_offsets(text), np.int32).reshape(-1, 3)
        # Sorting combining characters may swap two places inside a word; the columns never decrease all the same.
        return found[:, 0].copy(), np.maximum.accumulate(found[:, 1:], axis=0)

    def pieces(self, ids: Iterable[int]) -> list[str]:
        return [self._entries[self.check_id(number)] for number in ids]

    def id_of(self, piece: str) -> int | None:
        return self._ids.get(piece)

    def decode(self, ids: Iterable[int]) -> str:
        left_out = {self.pad_id, self.cls_id, self.sep_id}
        words: list[str] = []
        for piece in self.pieces(number for number in ids if number not in left_out):
            if piece.startswith(CONTINUES) and piece != CONTINUES and words:
                words[-1] += piece[len(CONTINUES) :]
            else:
                words.append(piece)
        return readable(words)

    def save(self, directory: str | os.PathLike[str]) -> None:
        folder = Path(directory)
        write_text(folder / VOCABULARY_FILE, "".join(f"{line}\n" for line in self.lines))
        write_config(
            folder,
            "BertTokenizer",
            self._names,
            do_lower_case=not self.cased,
            strip_accents=self.strip_accents,
            tokenize_chinese_chars=self.chinese,
        )
