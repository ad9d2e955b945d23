"""The SentencePiece tokenizer of an ALBERT-style `spiece.model`: ALBERT's preprocessing, then the library.

Preprocessing as google-research/albert's `tokenization.py` and Hugging Face's `AlbertTokenizer` document it: runs of
whitespace become one blank, `` and '' become ", NFKD without combining characters unless accents are kept, lower case.
Then a piece that ends in a digit and a comma is cut before the comma: `9,9` gives ▁9 , 9.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax.errors import BertJaxError
from bert_jax.files import atomic_writer, clear_errors, digest
from bert_jax.text.interface import Tokenizer
from bert_jax.text.tokenizer_files import SENTENCE_PIECE_FILE, write_config
from bert_jax.text.unicode_tables import character_set, combining_class, decomposed_character, lower, lower_character

BEGINS_WORD = "▁"
ALBERT_PIECES = {"pad": "<pad>", "unk": "<unk>", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


class SentencePieceTokenizer(Tokenizer):
    """Ids equal to the sentencepiece library's after ALBERT's preprocessing; a word starts at ▁.

    `model`: the bytes of a `spiece.model`; `cased`: leave capitals alone; `keep_accents`: no NFKD, nothing stripped;
    `special_pieces`: as `ALBERT_PIECES`; `source` names the model in errors. Errors: `BertJaxError` when the bytes are
    no model, or one without the special pieces.
    """

    kind = "sentencepiece"

    def __init__(
        self,
        model: bytes,
        cased: bool,
        keep_accents: bool = False,
        special_pieces: dict[str, str] | None = None,
        source: object = "the model",
    ):
        self._arguments = (model, cased, keep_accents, special_pieces, str(source))
        self._model = model
        self._names = dict(special_pieces or ALBERT_PIECES)
        processor = _processor(model, source)
        special = _special_ids(processor, self._names, source)
        plain = _with_plain_specials(model, processor, special)
        self._processor = processor if plain is model else _processor(plain, source)
        self.pad_id, self.unk_id, self.cls_id = special["pad"], special["unk"], special["cls"]
        self.sep_id, self.mask_id = special["sep"], special["mask"]
        self.vocab_size = processor.vocab_size()
        self.cased, self.keep_accents = cased, keep_accents
        self._preprocessor = Preprocessor(not cased, keep_accents)
        self._entries = [processor.id_to_piece(number) for number in range(self.vocab_size)]
        self._starts = np.array([entry.startswith(BEGINS_WORD) for entry in self._entries])
        # Ids after which the digit-and-comma rule has to be looked at; an unknown piece may be any characters.
        self._look_again = frozenset(
            {self.unk_id, *(number for number, entry in enumerate(self._entries) if _ends_in_number_comma(entry))}
        )
        self.fingerprint = digest(
            {
                "kind": self.kind,
                "model": hashlib.sha256(model).hexdigest(),
                "lower": not cased,
                "keep_accents": keep_accents,
                "special_ids": special,
            }
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments

    def ids(self, text: str) -> list[int]:
        return self._ids_of([text])[0]

    def bulk_ids(self, texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        found = self._ids_of(list(texts))
        counts = np.fromiter(map(len, found), np.int64, len(found))
        flat = (number for ids in found for number in ids)
        return np.fromiter(flat, np.int32, int(counts.sum())), counts

    def _ids_of(self, texts: Sequence[str]) -> list[list[int]]:
        prepared = list(map(self._preprocessor, texts))
        found: list[list[int]] = self._processor.encode(prepared, out_type=int, num_threads=1)
        for index, ids in enumerate(found):
            if not self._look_again.isdisjoint(ids):
                found[index] = [number for number, _, _ in self._aligned_pieces(prepared[index])]
        return found

    def _aligned_pieces(self, prepared: str) -> list[tuple[int, int, int]]:
        """(id, first, past last character in `prepared`) of each piece, the digit-and-comma rule applied."""
        result: list[tuple[int, int, int]] = []
        for piece, number, begin, end in self._located(prepared):
            if _ends_in_number_comma(piece):
                result += self._cut_before_comma(piece, begin, end)
            else:
                result.append((number, begin, end))
        return result

    def _located(self, prepared: str) -> list[tuple[str, int, int, int]]:
        """(piece as written in the text, id, first, past last character) as the library gives them."""
        proto: Any = importlib.import_module("sentencepiece.sentencepiece_pb2")
        encoded = self._processor.encode(prepared, out_type="serialized_proto")
        found = proto.SentencePieceText.FromString(encoded).pieces
        character = [0]  # byte of the text → character; the library counts bytes
        for index, char in enumerate(prepared, 1):
            character += [index] * len(char.encode())
        return [(piece.piece, piece.id, character[piece.begin], character[piece.end]) for piece in found]

    def _cut_before_comma(self, piece: str, begin: int, end: int) -> list[tuple[int, int, int]]:
        number = piece[:-1].replace(BEGINS_WORD, "")
        parts = [(part, first, last) for part, _, first, last in self._located(number)]
        if not piece.startswith(BEGINS_WORD) and parts and parts[0][0].startswith(BEGINS_WORD):
            first, *others = parts
            parts = others if first[0] == BEGINS_WORD else [(first[0][1:], first[1], first[2]), *others]
        comma = max(begin, end - 1)
        shift = comma - len(number)  # the digits end where the comma begins; a leading ▁ has no character of its own

        def place(character: int) -> int:
            return min(max(begin, character + shift), comma)

        found = [(self._processor.piece_to_id(part), place(first), place(last)) for part, first, last in parts]
        return [*found, (self._processor.piece_to_id(piece[-1]), comma, end)]

    def word_starts(self, ids: np.ndarray) -> np.ndarray:
        return self._starts[ids]

    def encode_with_offsets(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        places = self._preprocessor.aligned(text)
        found = self._aligned_pieces("".join(char for char, _, _ in places))
        offsets = np.zeros((len(found), 2), np.int32)
        for index, (_, first, last) in enumerate(found):
            while first < last - 1 and places[first][0] == " ":  # a piece's blank is not part of its word
                first += 1
            if first < last:
                offsets[index] = places[first][1], max(end for _, _, end in places[first:last])
            else:  # a piece of no characters, as the ▁ before an unknown word
                edge = places[first][1] if first < len(places) else len(text)
                offsets[index] = edge, edge
        return np.array([number for number, _, _ in found], np.int32), np.maximum.accumulate(offsets, axis=0)

    def pieces(self, ids: Iterable[int]) -> list[str]:
        return [self._entries[self.check_id(number)] for number in ids]

    def id_of(self, piece: str) -> int | None:
        number = int(self._processor.piece_to_id(piece))
        return number if self._entries[number] == piece else None

    def decode(self, ids: Iterable[int]) -> str:
        left_out = {self.pad_id, self.cls_id, self.sep_id}
        text = ""
        for piece in self.pieces(number for number in ids if number not in left_out):
            special = piece in (self._names["unk"], self._names["mask"])
            text += f" {piece}" if special else piece.replace(BEGINS_WORD, " ")
        return text.strip()

    def save(self, directory: str | os.PathLike[str]) -> None:
        folder = Path(directory)
        with atomic_writer(folder / SENTENCE_PIECE_FILE) as file:
            file.write(self._model)
        write_config(
            folder,
            "AlbertTokenizer",
            self._names,
            do_lower_case=not self.cased,
            keep_accents=self.keep_accents,
            remove_space=True,
        )


class Preprocessor:
    """`preprocessor(text) -> str`: what ALBERT does to a text before SentencePiece sees it, under Unicode 15.0."""

    def __init__(self, lower: bool, keep_accents: bool):
        self._lower = lower
        self._images = _Images(keep_accents)

    def __call__(self, text: str) -> str:
        text = " ".join(text.split()).replace("``", '"').replace("''", '"')
        if not text.isascii():
            text = text.translate(self._images)
        return lower(text) if self._lower else text

    def aligned(self, text: str) -> list[tuple[str, int, int]]:
        """The characters of the result, each with the first and past-last place in `text` that it came from."""
        whitespace = character_set("whitespace")
        places: list[tuple[str, int, int]] = []
        for place, char in enumerate(text):
            if char not in whitespace:
                places.append((char, place, place + 1))
            elif places and places[-1][0] != " ":
                places.append((" ", place, place + 1))
        if places and places[-1][0] == " ":
            places.pop()
        for quote in ("`", "'"):
            places = _with_quotes(places, quote)
        places = [(part, start, end) for char, start, end in places for part in self._images[ord(char)]]
        if not self._lower:
            return places
        flat = "".join(char for char, _, _ in places)
        return [
            (part, start, end) for index, (_, start, end) in enumerate(places) for part in lower_character(flat, index)
        ]


def _with_quotes(places: list[tuple[str, int, int]], quote: str) -> list[tuple[str, int, int]]:
    """Each two `quote`s in a row as one straight quotation mark."""
    result: list[tuple[str, int, int]] = []
    index = 0
    while index < len(places):
        char, start, end = places[index]
        double = char == quote and index + 1 < len(places) and places[index + 1][0] == quote
        result.append(('"', start, places[index + 1][2]) if double else (char, start, end))
        index += 2 if double else 1
    return result


class _Images(dict[int, str]):
    """Code point → NFKD without combining characters; since all of those go, their order does not matter.

    Half of a surrogate pair, which no UTF-8 can hold, becomes U+FFFD; with `keep_accents` nothing else changes.
    """

    def __init__(self, keep_accents: bool):
        super().__init__()
        self._keep_accents = keep_accents

    def __missing__(self, code: int) -> str:
        if 0xD800 <= code <= 0xDFFF:
            image = "\ufffd"
        elif self._keep_accents:
            image = chr(code)
        else:
            parts = decomposed_character(chr(code), compatible=True)
            image = "".join(part for part in parts if not combining_class(part))
        self[code] = image
        return image


def _ends_in_number_comma(piece: str) -> bool:
    return len(piece) > 1 and piece[-1] == "," and piece[-2] in character_set("digit")


def _processor(model: bytes, source: object) -> Any:
    import sentencepiece  # heavy, and only this kind of tokenizer needs it

    try:
        return sentencepiece.SentencePieceProcessor(model_proto=model)
    except (RuntimeError, ValueError, TypeError) as error:
        raise BertJaxError(f"{source} is no SentencePiece model: restore the file or make it anew") from error


def _special_ids(processor: Any, names: dict[str, str], source: object) -> dict[str, int]:
    ids = {name: int(processor.piece_to_id(piece)) for name, piece in names.items()}
    missing = [piece for name, piece in names.items() if processor.id_to_piece(ids[name]) != piece]
    if missing:
        raise BertJaxError(
            f"{source} has no {' and no '.join(missing)}: BERT needs {' '.join(names.values())} in a SentencePiece "
            "model; train one with `bert-jax vocab --kind sentencepiece`, or with --pad_id and --control_symbols"
        )
    return ids


def _with_plain_specials(model: bytes, processor: Any, special: dict[str, int]) -> bytes:
    """The model, such that special pieces typed in a text are plain characters to it; itself where they are already.

    A user-defined symbol is matched in text, a control symbol never is: the one is turned into the other.
    """
    matched = [
        number
        for name, number in special.items()
        if name not in ("pad", "unk") and number in processor.encode(processor.id_to_piece(number), out_type=int)
    ]
    if not matched:
        return model
    proto: Any = importlib.import_module("sentencepiece.sentencepiece_model_pb2")
    parsed = proto.ModelProto.FromString(model)
    for number in matched:
        parsed.pieces[number].type = proto.ModelProto.SentencePiece.CONTROL
    return bytes(parsed.SerializeToString())


def read_model(path: Path) -> bytes:
    """The bytes of a model file. Errors: `BertJaxError` when it cannot be read or is empty."""
    with clear_errors("read", path):
        model = path.read_bytes()
    if not model:
        raise BertJaxError(f"{path} is empty: restore the file or make it anew")
    return model
