"""One shard of a token store: the arrays it is made of, and the writer that streams documents into them.

A shard is a directory of eight one-dimensional, little-endian `.npy` files, four for each of the splits `train` and
`eval` (a split without documents has empty arrays):

    SPLIT.tokens.npy          uint16 (tokens,), uint32 when the vocabulary is larger than 65,536: ids, no special tokens
    SPLIT.sentence_ends.npy   int64 (sentences,): how many tokens of this shard and split end with each sentence
    SPLIT.document_ends.npy   int64 (documents,): how many sentences of this shard and split end with each document
    SPLIT.word_starts.npy     uint8 (ceil(tokens / 8),): bit t % 8 (least significant first) of byte t // 8 says that a
                              word begins at token t

No sentence and no document is empty, and neither crosses a shard.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from bert_jax.files import clear_errors, sha256

SPLITS = ("train", "eval")
ARRAYS = ("tokens", "sentence_ends", "document_ends", "word_starts")
COUNTS = ("documents", "sentences", "tokens")
HEADER_BYTES = 128  # of every .npy file written here
_FLUSH_TOKENS = 1 << 18


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The smallest of uint16 and uint32 that holds every id of a vocabulary."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


def array_dtype(array: str, vocab_size: int) -> np.dtype[Any]:
    """dtype of one of `ARRAYS`."""
    return {"tokens": token_dtype(vocab_size), "word_starts": np.dtype("u1")}.get(array, np.dtype("<i8"))


def array_size(array: str, counts: dict[str, int]) -> int:
    """Number of elements of one of `ARRAYS`, given a split's counts."""
    return {
        "tokens": counts["tokens"],
        "sentence_ends": counts["sentences"],
        "document_ends": counts["documents"],
        "word_starts": -(-counts["tokens"] // 8),
    }[array]


def hashes_of(texts: Sequence[bytes]) -> np.ndarray:
    """uint64 (texts,): BLAKE2b of each. A document's text is its sentences in UTF-8, joined by line feeds."""
    return np.frombuffer(b"".join([blake2b(text, digest_size=8).digest() for text in texts]), "<u8")


def is_eval(document_hashes: np.ndarray, eval_fraction: float) -> np.ndarray:
    """bool, same shape: which documents are held out, by the hash of their text alone."""
    return document_hashes < np.uint64(int(eval_fraction * 2.0**64))


class NpyStream:
    """A one-dimensional `.npy` file written in pieces: its header is put in place when the size is known."""

    def __init__(self, path: Path, dtype: np.dtype[Any]):
        self.path, self.dtype, self.size = path, dtype, 0
        with clear_errors("write", path):
            self._file = open(path, "wb")  # noqa: SIM115 - closed by close()
            self._file.write(b"\0" * HEADER_BYTES)

    def write(self, values: np.ndarray) -> None:
        """Append a one-dimensional array."""
        with clear_errors("write", self.path):
            self._file.write(np.ascontiguousarray(values, self.dtype).data)
        self.size += len(values)

    def finish(self) -> None:
        """Write the header and close; until then the file cannot be read as an array."""
        header = io.BytesIO()
        fields = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.size,)}
        np.lib.format.write_array_header_1_0(header, fields)
        assert header.tell() == HEADER_BYTES, header.tell()
        with clear_errors("write", self.path):
            self._file.seek(0)
            self._file.write(header.getvalue())
        self.close()

    def close(self) -> None:
        """Close without writing a header."""
        with clear_errors("write", self.path):
            self._file.close()


class _SplitWriter:
    """The four streams of one split, with a bounded buffer of documents before them."""

    def __init__(self, directory: Path, split: str, vocab_size: int):
        self._streams: dict[str, NpyStream] = {}
        try:
            for array in ARRAYS:
                self._streams[array] = NpyStream(directory / f"{split}.{array}.npy", array_dtype(array, vocab_size))
        except BaseException:
            self.close()
            raise
        self.counts = dict.fromkeys(COUNTS, 0)
        self._ids: list[np.ndarray] = []
        self._starts: list[np.ndarray] = []
        self._lengths: list[np.ndarray] = []
        self._sentences: list[np.ndarray] = []
        self._bits = np.zeros(0, bool)  # fewer than eight: those that do not fill a byte yet
        self._pending = 0

    def add(self, ids: np.ndarray, lengths: np.ndarray, sentences: np.ndarray, starts: np.ndarray) -> None:
        self._ids.append(ids)
        self._starts.append(starts)
        self._lengths.append(lengths)
        self._sentences.append(sentences)
        self._pending += len(ids)
        if self._pending >= _FLUSH_TOKENS:
            self.flush()

    def flush(self) -> None:
        if not self._ids:
            return
        lengths = np.concatenate(self._lengths).astype(np.int64)
        self._streams["tokens"].write(np.concatenate(self._ids))
        self._streams["sentence_ends"].write(self.counts["tokens"] + np.cumsum(lengths))
        sentences = np.concatenate(self._sentences).astype(np.int64)
        self._streams["document_ends"].write(self.counts["sentences"] + np.cumsum(sentences))
        bits = np.concatenate([self._bits, *self._starts])
        whole = len(bits) // 8 * 8
        self._streams["word_starts"].write(np.packbits(bits[:whole], bitorder="little"))
        self._bits = bits[whole:]
        self.counts["documents"] += len(sentences)
        self.counts["sentences"] += len(lengths)
        self.counts["tokens"] += self._pending
        self._ids, self._starts, self._lengths, self._sentences, self._pending = [], [], [], [], 0

    def finish(self) -> None:
        self.flush()
        self._streams["word_starts"].write(np.packbits(self._bits, bitorder="little"))
        for array, stream in self._streams.items():
            assert stream.size == array_size(array, self.counts), (array, stream.size, self.counts)
            stream.finish()

    def close(self) -> None:
        """All of them, also where a full disk fails one."""
        with contextlib.ExitStack() as stack:
            for stream in self._streams.values():
                stack.callback(stream.close)


class ShardWriter:
    """Writes one shard into an existing directory; `finish()` makes it whole and returns its record.

        with ShardWriter(directory, vocab_size) as shard:
            shard.add("train", ids, sentence_lengths, word_starts)   # one document
            record = shard.finish()

    The record is what a manifest holds of a shard: `{"train": counts, "eval": counts, "files": {name: {"bytes",
    "sha256"}}}`. Memory is bounded by the largest document. Errors: `BertJaxError` when the disk refuses.
    """

    def __init__(self, directory: Path, vocab_size: int):
        self.directory = Path(directory)
        self._splits = {split: _SplitWriter(self.directory, split, vocab_size) for split in SPLITS}

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        with contextlib.ExitStack() as stack:
            for split in self._splits.values():
                stack.callback(split.close)

    def add(
        self,
        split: str,
        ids: np.ndarray,
        sentence_lengths: np.ndarray | Sequence[int],
        word_starts: np.ndarray | None = None,
        document_sentences: np.ndarray | Sequence[int] | None = None,
    ) -> None:
        """Append one document, or several: `ids` (tokens,) integers, `sentence_lengths` (sentences,) in tokens, all
        positive and adding up to the number of ids, `word_starts` (tokens,) bool (all true when not given),
        `document_sentences` (documents,) in sentences (one document when not given)."""
        lengths = np.asarray(sentence_lengths)
        starts = np.ones(len(ids), bool) if word_starts is None else word_starts
        sentences = np.asarray([len(lengths)] if document_sentences is None else document_sentences)
        assert len(lengths), split
        assert lengths.min() > 0, (split, lengths)
        assert sentences.min() > 0, (split, sentences)
        assert lengths.sum() == len(ids) == len(starts), (split, lengths)
        assert sentences.sum() == len(lengths), (split, sentences)
        self._splits[split].add(ids, lengths, sentences, starts)

    def finish(self) -> dict[str, Any]:
        """Complete the files and describe them: counts per split, size and SHA-256 per file."""
        files = {}
        for name, split in self._splits.items():
            split.finish()
            for array in ARRAYS:
                path = self.directory / f"{name}.{array}.npy"
                files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
        return {**{name: split.counts for name, split in self._splits.items()}, "files": files}
