"""The manifest of a token store: how it is made from the records of its shards, and how it is checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bert_jax.data.shard import ARRAYS, COUNTS, HEADER_BYTES, SPLITS, array_dtype, array_size
from bert_jax.errors import BertJaxError
from bert_jax.files import digest, is_inside, sha256

FORMAT = "bert_jax token store"
VERSION = 1
REMEDY = "restore it or prepare the store anew"


class StoreTokenizer(Protocol):
    """What a store needs of a tokenizer."""

    kind: str
    vocab_size: int
    cased: bool
    fingerprint: str

    def ids_and_word_starts(self, text: str) -> tuple[np.ndarray, np.ndarray]: ...

    def save(self, directory: Path) -> None: ...


def make_manifest(
    tokenizer: StoreTokenizer,
    tokenizer_directory: Path,
    shards: Sequence[dict[str, Any]],
    *,
    word_starts: str = "pieces",
    settings: Mapping[str, Any] | None = None,
    summary: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The manifest of a store: `shards` are `ShardWriter` records with a `name` each, in order."""
    files = {
        path.relative_to(tokenizer_directory).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(tokenizer_directory.rglob("*"))
        if path.is_file()
    }
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "fingerprint": "",
        **{name: {count: sum(shard[name][count] for shard in shards) for count in COUNTS} for name in SPLITS},
        "word_starts": word_starts,
        "tokenizer": {
            "fingerprint": tokenizer.fingerprint,
            "kind": tokenizer.kind,
            "vocab_size": int(tokenizer.vocab_size),
            "cased": bool(tokenizer.cased),
            "files": files,
        },
        "settings": dict(settings or {}),
        "summary": dict(summary or {}),
        "shards": list(shards),
    }
    manifest["fingerprint"] = content_fingerprint(manifest)
    return manifest


def content_fingerprint(manifest: Mapping[str, Any]) -> str:
    """Hex SHA-256 over what a store holds: its shards, the tokenizer's fingerprint, where word starts come from."""
    tokenizer = {key: manifest["tokenizer"][key] for key in ("fingerprint", "vocab_size")}
    content = {key: manifest[key] for key in ("version", "word_starts", "shards", *SPLITS)}
    return digest({**content, "tokenizer": tokenizer})


def file_entries(manifest: Mapping[str, Any], split: str | None = None) -> dict[str, dict[str, Any]]:
    """`{path inside the store: {"bytes", "sha256"}}` of every file but the manifest; of one split alone with `split`
    (and of the tokenizer)."""
    entries = {f"tokenizer/{name}": entry for name, entry in manifest["tokenizer"]["files"].items()}
    for record in manifest["shards"]:
        for name, entry in record["files"].items():
            if split is None or name.startswith(f"{split}."):
                entries[f"shards/{record['name']}/{name}"] = entry
    return entries


def check_manifest(path: Path, manifest: Any) -> None:
    """Errors: `BertJaxError` unless `manifest`, read from `path`, is whole, of this version, with names inside."""
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BertJaxError(f"{path} is not the manifest of a token store")
    if manifest.get("version") != VERSION:
        raise BertJaxError(f"{path} has version {manifest.get('version')}: expected {VERSION}; prepare the store anew")
    try:
        for record in manifest["shards"]:
            _check_shard(path, record, int(manifest["tokenizer"]["vocab_size"]))
        names = [*manifest["tokenizer"]["files"]]
        for record in manifest["shards"]:
            names += [record["name"], *record["files"]]
        for name in names:
            if not is_inside(name):
                raise BertJaxError(f"{path} names the file {name!r}: expected names inside the store")
        for name, entry in file_entries(manifest).items():
            if type(entry["bytes"]) is not int or not isinstance(entry["sha256"], str):
                raise TypeError(f"size and checksum of {name}")
        whole = content_fingerprint(manifest) == manifest["fingerprint"]
    except BertJaxError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BertJaxError(f"{path} is damaged ({type(error).__name__}: {error}); {REMEDY}") from error
    if not whole:
        raise BertJaxError(f"{path} was altered: it does not match its own fingerprint; {REMEDY}")


def _check_shard(path: Path, record: dict[str, Any], vocab_size: int) -> None:
    for split in SPLITS:
        for array in ARRAYS:
            expected = HEADER_BYTES + array_size(array, record[split]) * array_dtype(array, vocab_size).itemsize
            if record["files"][f"{split}.{array}.npy"]["bytes"] != expected:
                raise BertJaxError(f"{path} is damaged: shard {record['name']}, {split}.{array}.npy; {REMEDY}")
