"""What every tokenizer offers: text → ids and back. `tokenizer.py` loads one from a directory."""

from __future__ import annotations

import abc
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bert_jax.errors import BertJaxError

SPECIAL_PIECES = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


class Tokenizer(abc.ABC):
    """Text → ids. Special tokens typed in a text are plain characters, except in `ids_with_specials`.

    Attributes: `kind` ('wordpiece', 'sentencepiece' or 'words'), `vocab_size`, `pad_id`, `unk_id`, `cls_id`, `sep_id`,
    `mask_id`, `special_ids` (those five, sorted), `cased`, `fingerprint` (hex; equal exactly when kind, vocabulary and
    settings that change ids are equal).
    """

    kind: str
    vocab_size: int
    pad_id: int
    unk_id: int
    cls_id: int
    sep_id: int
    mask_id: int
    cased: bool
    fingerprint: str

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Ids that are never masked, in ascending order; the unknown one is among them: nothing is learned from it."""
        return tuple(sorted({self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id}))

    @abc.abstractmethod
    def ids(self, text: str) -> list[int]:
        """Ids of `text`, no specials added."""

    @abc.abstractmethod
    def bulk_ids(self, texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of many texts one after another, int32 (n,), and how many each text gave, int64 (texts,)."""

    @abc.abstractmethod
    def word_starts(self, ids: np.ndarray) -> np.ndarray:
        """Whether each of `ids` begins a word, bool of the same shape."""

    @abc.abstractmethod
    def encode_with_offsets(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids of `text`, int32 (n,), and the characters of `text` each came from, int32 (n, 2), first and past-last.

        Both columns never decrease. A piece of a character that became several covers the whole character.
        """

    @abc.abstractmethod
    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Vocabulary entries of `ids`. Errors: `BertJaxError` for an id outside the vocabulary."""

    @abc.abstractmethod
    def id_of(self, piece: str) -> int | None:
        """Id of the vocabulary entry `piece`, or None."""

    @abc.abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Readable text of `ids`: [PAD], [CLS] and [SEP] left out, pieces joined to words, words spaced."""

    @abc.abstractmethod
    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write a directory that `load_tokenizer` and Hugging Face read; files there are replaced."""

    def lowered(self) -> Tokenizer:
        """This tokenizer for text that is lower-cased first, its accents left. Errors: `BertJaxError` where there is
        no such one."""
        raise BertJaxError(f"a tokenizer of kind {self.kind} cannot be made to lower-case its text")

    def tokenize(self, text: str) -> list[str]:
        """Pieces of `text`, no specials added."""
        return self.pieces(self.ids(text))

    def ids_and_word_starts(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids of `text`, int32 (n,), and whether each begins a word, bool (n,): the fast form for much text."""
        ids, _ = self.bulk_ids((text,))
        return ids, self.word_starts(ids)

    def ids_with_specials(self, text: str) -> list[int]:
        """Ids of a text in which `[MASK]`, `[SEP]` … are typed as such: cut out first, each its own id."""
        ids: list[int] = []
        for part, special in _cut_at(text, self.special_pieces()):
            ids += self.ids(part)
            if special is not None:
                ids.append(special)
        return ids

    def special_pieces(self) -> dict[str, int]:
        """The five special pieces as they are written in the vocabulary, and their ids."""
        ids = (self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id)
        return dict(zip(self.pieces(ids), ids, strict=True))

    def encode(self, a: str, b: str | None = None, length: int | None = None) -> dict[str, np.ndarray]:
        """`[CLS] a [SEP]`, or `[CLS] a [SEP] b [SEP]`, as the model takes it.

        Returns int32 arrays `input_ids`, `segment_ids` (0 up to the first [SEP], then 1) and `input_mask` (1 for real
        tokens), padded to `length` where it is given. Errors: `BertJaxError` when it does not fit into `length`.

        >>> row = bert.tokenizer.encode("the cat sat", "it was tired", length=12)
        >>> bert.tokenizer.pieces(row["input_ids"])[:6]
        ['[CLS]', 'the', 'cat', 'sat', '[SEP]', 'it']
        >>> row["segment_ids"].tolist()
        [0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0]
        >>> int(row["input_mask"].sum())
        9
        """
        first = [self.cls_id, *self.ids(a), self.sep_id]
        second = [] if b is None else [*self.ids(b), self.sep_id]
        return self.assemble(first, second, length)

    def assemble(self, first: Sequence[int], second: Sequence[int] = (), length: int | None = None) -> dict[str, Any]:
        """`encode` for ids that already hold their [CLS] and [SEP]."""
        used = len(first) + len(second)
        if length is not None and used > length:
            raise BertJaxError(
                f"the text is {used} tokens long with [CLS] and [SEP], more than the {length} asked for: "
                "shorten it, or ask for a longer length"
            )
        total = used if length is None else length
        ids = np.full(total, self.pad_id, np.int32)
        ids[:used] = [*first, *second]
        segments = np.zeros(total, np.int32)
        segments[len(first) : used] = 1
        mask = np.zeros(total, np.int32)
        mask[:used] = 1
        return {"input_ids": ids, "segment_ids": segments, "input_mask": mask}

    def check_id(self, number: int) -> int:
        """`number`, an int inside the vocabulary. Errors: `BertJaxError` otherwise."""
        if not 0 <= number < self.vocab_size:
            raise BertJaxError(f"id {number} is outside the vocabulary of {self.vocab_size} entries")
        return int(number)


def _cut_at(text: str, specials: dict[str, int]) -> list[tuple[str, int | None]]:
    """`text` as (plain part, special that follows it or None), cut at the earliest special each time."""
    pieces = sorted(filter(None, specials))  # of two at one place the first in this order
    parts: list[tuple[str, int | None]] = []
    begin = 0
    for found in re.finditer("|".join(map(re.escape, pieces)), text) if pieces else ():
        parts.append((text[begin : found.start()], specials[found[0]]))
        begin = found.end()
    return [*parts, (text[begin:], None)]
