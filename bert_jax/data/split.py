"""The splits of a token store: counts, the arrays of each shard, and flat views over all shards (see `store.py`)."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bert_jax.data.memory import map_files
from bert_jax.data.shard import ARRAYS, COUNTS, HEADER_BYTES, array_dtype, array_size
from bert_jax.data.watch import Identity, Watch, Watched


class OpenedStore(Protocol):
    """What is needed of a store: its folder, its manifest, and what its files were when it was opened."""

    path: Path
    manifest: dict[str, Any]
    seen: dict[str, Identity]

    @property
    def vocab_size(self) -> int: ...


class ShardSplit:
    """One split of one shard; the arrays are memory-mapped at first use (see `shard.py` for what they hold)."""

    def __init__(self, split: Split, index: int):
        self._split, self._index = split, index
        record = split.store.manifest["shards"][index]
        self.name: str = record["name"]
        self.documents, self.sentences, self.tokens_count = (int(record[split.name][count]) for count in COUNTS)

    def _array(self, array: str) -> np.ndarray:
        memory, bases = self._split.map(array)
        counts = dict(zip(COUNTS, (self.documents, self.sentences, self.tokens_count), strict=True))
        base = int(bases[self._index])
        return memory[base : base + array_size(array, counts)]

    @property
    def tokens(self) -> np.ndarray:
        """uint16 or uint32 (tokens,): ids."""
        return self._array("tokens")

    @property
    def sentence_ends(self) -> np.ndarray:
        """int64 (sentences,): how many tokens of this shard end with each sentence."""
        return self._array("sentence_ends")

    @property
    def document_ends(self) -> np.ndarray:
        """int64 (documents,): how many sentences of this shard end with each document."""
        return self._array("document_ends")

    @property
    def word_starts(self) -> np.ndarray:
        """uint8 (ceil(tokens / 8),): bits, least significant first."""
        return self._array("word_starts")


class Split:
    """`train` or `eval` of a store: counts, per-shard arrays, and flat views for gathers over all shards."""

    def __init__(self, store: OpenedStore, name: str):
        self.store, self.name = store, name
        records = store.manifest["shards"]
        counts = {count: np.array([record[name][count] for record in records], np.int64) for count in COUNTS}
        self.document_offsets, self.sentence_offsets, self.token_offsets = (
            np.concatenate([[0], np.cumsum(counts[count])]).astype(np.int64) for count in COUNTS
        )
        self.documents, self.sentences, self.tokens = (int(counts[count].sum()) for count in COUNTS)
        self._maps: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.shards = [ShardSplit(self, index) for index in range(len(records))]
        self._watch = self._watched()

    def look(self) -> None:
        """Compare a few files with what was opened, in turn (see `watch`); the feed does with every chunk.

        Errors: `BertJaxError` naming a file that was altered.
        """
        self._watch.look()

    def look_at_all(self) -> None:
        """The same for all files at once: what was made of them since the store was opened is right."""
        self._watch.look_at_all()

    def _watched(self) -> Watch:
        files: list[Watched] = []
        names = []
        for index, record in enumerate(self.store.manifest["shards"]):
            for array in ARRAYS:
                name, entry = self._file(record, array)
                mapped = functools.partial(self._mapped, array, index, int(entry["bytes"]))
                files.append(Watched(self.store.path / name, entry["sha256"], mapped))
                names.append(name)
        return Watch(files, [self.store.seen[name] for name in names])

    def _file(self, record: dict[str, Any], array: str) -> tuple[str, dict[str, Any]]:
        """The path in the store, and the manifest's entry, of an array of one shard."""
        return f"shards/{record['name']}/{self.name}.{array}.npy", record["files"][f"{self.name}.{array}.npy"]

    def _mapped(self, array: str, index: int, size: int) -> np.ndarray | None:
        """The bytes of one file as they are mapped, None before they are."""
        if array not in self._maps:
            return None
        memory, bases = self._maps[array]
        first = int(bases[index]) * memory.itemsize - HEADER_BYTES
        return memory.view(np.uint8)[first : first + size]

    def map(self, array: str) -> tuple[np.ndarray, np.ndarray]:
        """One array over all shards, mapped at first use: flat memory, and where each shard's element 0 lies in it."""
        if array not in self._maps:
            self._maps[array] = self._map(array)
        return self._maps[array]

    def _map(self, array: str) -> tuple[np.ndarray, np.ndarray]:
        files = []
        for record in self.store.manifest["shards"]:
            name, entry = self._file(record, array)
            files.append((self.store.path / name, int(entry["bytes"])))
        return map_files(files, array_dtype(array, self.store.vocab_size), HEADER_BYTES)

    @property
    def token_memory(self) -> np.ndarray:
        """uint16 or uint32, one-dimensional: all shards' tokens, at `token_addresses`."""
        return self.map("tokens")[0]

    @property
    def word_start_memory(self) -> np.ndarray:
        """uint8, one-dimensional: all shards' word-start bits, at `word_start_addresses`."""
        return self.map("word_starts")[0]

    def token_addresses(self, tokens: np.ndarray) -> np.ndarray:
        """int64: index into `token_memory` of split-wide token numbers (any shape)."""
        return self._addresses(tokens, self.map("tokens")[1])

    def word_start_addresses(self, tokens: np.ndarray) -> np.ndarray:
        """int64: bit number in `word_start_memory` of split-wide token numbers (any shape)."""
        return self._addresses(tokens, self.map("word_starts")[1] * 8)

    def _addresses(self, tokens: np.ndarray, bases: np.ndarray) -> np.ndarray:
        shift = bases - self.token_offsets[:-1]
        if len(shift) == 1:
            return tokens + shift[0]
        return tokens + shift[np.searchsorted(self.token_offsets[1:], tokens, side="right")]
