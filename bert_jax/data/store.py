"""Token stores: what `prepare` writes once and every length, epoch and objective reads.

    STORE/manifest.json                      written last: without it there is no store
    STORE/tokenizer/…                        the tokenizer directory it was made with
    STORE/shards/00000/train.tokens.npy …    four arrays per split and shard, see `shard.py`

A store holds no masks, no pairs and no length. `manifest.json` holds `format`, `version`, `fingerprint`, the counts of
both splits and of every shard, size and SHA-256 of every file, the tokenizer's fingerprint, kind and vocabulary size,
where word starts come from, the sources and settings, and the summary that `prepare` printed.

    store = load_store("wiki")              # reads the manifest, checks that every file is there with its size
    train = store.split("train")            # Split: .documents .sentences .tokens, and the arrays:
    train.shards[0].tokens                  # (tokens,) of one shard, memory-mapped; sentence_ends, document_ends,
                                            # word_starts (packed bits) likewise, offsets counted within the shard
    train.token_offsets                     # int64 (shards + 1,): tokens of the split before each shard;
                                            # document_offsets and sentence_offsets likewise

A *split-wide* token number counts through all shards of a split in order. For gathers over many shards at once:

    at = train.token_addresses(tokens)      # any shape, int64: where split-wide tokens lie in token_memory
    ids = train.token_memory[at]            # one flat array over all shards, memory-mapped, nothing copied
    bit = train.word_start_addresses(tokens)
    starts = train.word_start_memory[bit >> 3] >> (bit & 7) & 1

A sentence or document never crosses a shard, so the address of its first token plus i is that of its token i: look up
one address per segment, not per token.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax.console import log
from bert_jax.data.manifest import REMEDY, StoreTokenizer, check_manifest, file_entries, make_manifest
from bert_jax.data.shard import SPLITS, ShardWriter, hashes_of, is_eval
from bert_jax.data.split import ShardSplit, Split
from bert_jax.data.watch import Identity, identity_of
from bert_jax.errors import BertJaxError
from bert_jax.files import clear_errors, digest, make_directory, read_json, sha256, write_json

__all__ = ["ShardSplit", "Split", "Store", "load_store", "partial_path", "verify_once", "write_store"]

# --- reading ----------------------------------------------------------------------------------------------------------

_WORTH_A_LINE = 1 << 30  # bytes that take a while to read


class Store:
    """A token store on disk; see the module's description. Make one with `load_store`."""

    def __init__(self, path: Path, manifest: dict[str, Any], seen: dict[str, Identity]):
        self.path, self.manifest, self.seen = path, manifest, seen
        self._splits = {name: Split(self, name) for name in SPLITS}

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 over what the store holds; the same wherever it lies and however it was made."""
        return str(self.manifest["fingerprint"])

    @property
    def tokenizer_fingerprint(self) -> str:
        """Fingerprint of the tokenizer whose ids these are."""
        return str(self.manifest["tokenizer"]["fingerprint"])

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer directory inside the store."""
        return self.path / "tokenizer"

    @property
    def vocab_size(self) -> int:
        """Every id is below it."""
        return int(self.manifest["tokenizer"]["vocab_size"])

    @property
    def word_starts(self) -> str:
        """Where word starts come from: `pieces`, `segmenter:NAME VERSION` or `none`."""
        return str(self.manifest["word_starts"])

    @property
    def has_word_starts(self) -> bool:
        """Whether the word-start bits mean words; if not (`none`), whole-word masking must be refused."""
        return self.word_starts != "none"

    @property
    def segmenter(self) -> str | None:
        """Name and version of the segmenter that word starts come from, if one was used."""
        return self.word_starts.partition(":")[2] or None

    def split(self, name: str) -> Split:
        """The split `train` or `eval`; it may hold no documents."""
        if name not in self._splits:
            raise BertJaxError(f"{self.path} has no split {name!r}: expected one of {', '.join(SPLITS)}")
        return self._splits[name]

    def verify(self, split: str | None = None) -> None:
        """Read every file (of one split alone: its files and the tokenizer's) and compare its checksum.

        Errors: `BertJaxError` naming the first that differs.
        """
        entries = file_entries(self.manifest, split)
        size = sum(entry["bytes"] for entry in entries.values())
        if size > _WORTH_A_LINE:
            log(f"comparing the checksums of {self.path} ({size / 1e9:.1f} GB)")
        for name, entry in entries.items():
            if sha256(self.path / name) != entry["sha256"]:
                raise BertJaxError(f"{self.path / name} was altered: its checksum is not the manifest's; {REMEDY}")


def load_store(path: str | Path) -> Store:
    """Open a token store: checks its manifest, and that every file is there and has its size (contents: `verify()`).

    Errors: `BertJaxError` naming what is missing, truncated, or of another format or version.
    """
    root = Path(path)
    if not (root / "manifest.json").is_file():
        partial = " (an unfinished one lies beside it: run prepare again)" if partial_path(root).is_dir() else ""
        raise BertJaxError(f"{root} is not a token store: it has no manifest.json{partial}; make one with prepare")
    manifest = read_json(root / "manifest.json")
    check_manifest(root / "manifest.json", manifest)
    seen: dict[str, Identity] = {}
    for name, entry in file_entries(manifest).items():
        file = root / name
        with clear_errors("read", file):
            if not file.is_file():
                raise BertJaxError(f"{file} is missing; {REMEDY}")
            seen[name] = identity_of(file.stat())
        found = seen[name].size
        if found != entry["bytes"]:
            state = "truncated" if found < entry["bytes"] else "of another store"
            raise BertJaxError(f"{file} is {state}: {found:,} bytes, expected {entry['bytes']:,}; {REMEDY}")
    return Store(root, manifest, seen)


def verify_once(store: Store, cache: Path, split: str | None = None) -> None:
    """`store.verify(split)`, unless the very files (by size and times) were found whole before; noted under `cache`.

    The time of the last change counts too, which nobody can set: a file altered under its old date is read again.
    """
    files = {name: store.seen[name][1:] for name in file_entries(store.manifest, split)}
    state = digest([store.fingerprint, files])
    note = cache / f"verified-{digest([str(store.path.resolve()), split])[:16]}.json"
    with contextlib.suppress(BertJaxError):  # a note that cannot be read is none
        if read_json(note) == {"state": state}:
            return
    store.verify(split)
    with contextlib.suppress(BertJaxError):  # where nothing can be written they are read again the next time
        write_json(note, {"state": state})


def partial_path(out: Path) -> Path:
    """Where an unfinished store for `out` grows, beside it."""
    return out.with_name(f".{out.name}.partial")


# --- writing ----------------------------------------------------------------------------------------------------------


def write_store(
    path: str | Path,
    documents: Iterable[Sequence[str | np.ndarray]],
    tokenizer: StoreTokenizer,
    *,
    eval_fraction: float = 0.0,
    shards: int = 1,
    word_starts: str = "pieces",
) -> Store:
    """Write documents held in memory as a store and load it; `prepare` is for text that does not fit.

    A document is a list of sentences: text, or integer ids (every id then begins a word). They go to the `shards` in
    turn. Errors: `BertJaxError` when `path` is not empty or the disk refuses.
    """

    def build(root: Path) -> None:
        tokenizer.save(root / "tokenizer")
        directories = [root / "shards" / f"{index:05d}" for index in range(shards)]
        for directory in directories:
            directory.mkdir(parents=True)
        writers = [ShardWriter(directory, tokenizer.vocab_size) for directory in directories]
        for number, document in enumerate(documents):
            _add_document(writers[number % shards], document, tokenizer, eval_fraction)
        records = [{"name": writer.directory.name, **writer.finish()} for writer in writers]
        manifest = make_manifest(tokenizer, root / "tokenizer", records, word_starts=word_starts)
        write_json(root / "manifest.json", manifest)

    with clear_errors("write", path):
        make_directory(path, build)
    return load_store(path)


def _add_document(
    writer: ShardWriter, document: Sequence[str | np.ndarray], tokenizer: StoreTokenizer, eval_fraction: float
) -> None:
    sentences = []
    for sentence in document:
        if isinstance(sentence, str):
            ids, starts = tokenizer.ids_and_word_starts(sentence)
        else:
            ids, starts = np.asarray(sentence, np.int64), np.ones(len(sentence), bool)
        if len(ids):
            sentences.append((ids, starts))
    if sentences:
        data = "\n".join(s if isinstance(s, str) else " ".join(map(str, s)) for s in document).encode()
        ids, starts = (np.concatenate(part) for part in zip(*sentences, strict=True))
        lengths = [len(sentence[0]) for sentence in sentences]
        split = SPLITS[int(is_eval(hashes_of([data]), eval_fraction)[0])]
        writer.add(split, ids, lengths, starts)
