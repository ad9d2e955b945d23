"""The words tokenizer: one id per blank-separated token, for corpora that are already encoded."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax.files import digest, write_json, write_text
from bert_jax.text.interface import SPECIAL_PIECES, Tokenizer
from bert_jax.text.tokenizer_files import KIND_KEY, VOCABULARY_FILE, entries_of, special_ids, write_config


class WordsTokenizer(Tokenizer):
    """Each token between blanks is one entry of `vocab.txt`, as it stands, or unknown; every one is a whole word.

    `lines`: the lines of `vocab.txt`; `special_pieces`: as `SPECIAL_PIECES`; `source` names the vocabulary in errors.
    A special piece typed in a text is unknown. Errors: `BertJaxError` for an entry that stands twice or a special piece
    that is missing.
    """

    kind = "words"
    cased = True

    def __init__(
        self,
        lines: Sequence[str],
        special_pieces: dict[str, str] | None = None,
        source: object = "the vocabulary",
    ):
        self._arguments = (tuple(lines), special_pieces, str(source))
        self._names = dict(special_pieces or SPECIAL_PIECES)
        self._ids = entries_of(lines, source)
        self._entries = list(self._ids)
        special = special_ids(self._ids, self._names, source)
        self.pad_id, self.unk_id, self.cls_id = special["pad"], special["unk"], special["cls"]
        self.sep_id, self.mask_id = special["sep"], special["mask"]
        self.vocab_size = len(self._entries)
        self._plain = {word: number for word, number in self._ids.items() if number not in self.special_ids}
        self.fingerprint = digest({"kind": self.kind, "entries": self._entries, "special_ids": special})

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments

    def ids(self, text: str) -> list[int]:
        return [self._plain.get(word, self.unk_id) for word in text.split()]

    def bulk_ids(self, texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        found = list(map(self.ids, texts))
        counts = np.fromiter(map(len, found), np.int64, len(found))
        return np.fromiter((number for ids in found for number in ids), np.int32, int(counts.sum())), counts

    def word_starts(self, ids: np.ndarray) -> np.ndarray:
        return np.ones(np.shape(ids), bool)

    def encode_with_offsets(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        offsets = []
        end = 0
        for word in text.split():
            start = text.index(word, end)
            end = start + len(word)
            offsets.append((start, end))
        return np.array(self.ids(text), np.int32), np.array(offsets, np.int32).reshape(-1, 2)

    def pieces(self, ids: Iterable[int]) -> list[str]:
        return [self._entries[self.check_id(number)] for number in ids]

    def id_of(self, piece: str) -> int | None:
        return self._ids.get(piece)

    def decode(self, ids: Iterable[int]) -> str:
        left_out = {self.pad_id, self.cls_id, self.sep_id}
        return " ".join(self.pieces(number for number in ids if number not in left_out))

    def save(self, directory: str | os.PathLike[str]) -> None:
        folder = Path(directory)
        write_text(folder / VOCABULARY_FILE, "".join(f"{entry}\n" for entry in self._entries))
        inputs = ["input_ids", "token_type_ids", "attention_mask"]
        write_config(folder, "PreTrainedTokenizerFast", self._names, model_input_names=inputs, **{KIND_KEY: self.kind})
        write_json(folder / "tokenizer.json", self._hugging_face_tokenizer())

    def _hugging_face_tokenizer(self) -> dict[str, Any]:
        """The same tokenizer in the file format of Hugging Face's `tokenizers`, which has no class for it."""
        cls, sep = self._names["cls"], self._names["sep"]

        def special(piece: str, segment: int) -> dict[str, Any]:
            return {"SpecialToken": {"id": piece, "type_id": segment}}

        a, b = ({"Sequence": {"id": name, "type_id": segment}} for segment, name in enumerate("AB"))
        first = [special(cls, 0), a, special(sep, 0)]
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                {"id": number, "content": piece, "special": True}
                | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
                for piece, number in sorted(self.special_pieces().items(), key=lambda item: item[1])
            ],
            "normalizer": None,
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": first,
                "pair": [*first, b, special(sep, 1)],
                "special_tokens": {
                    piece: {"id": piece, "ids": [self._ids[piece]], "tokens": [piece]} for piece in (cls, sep)
                },
            },
            "decoder": None,
            "model": {"type": "WordLevel", "vocab": self._ids, "unk_token": self._names["unk"]},
        }
