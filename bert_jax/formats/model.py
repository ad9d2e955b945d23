"""MODEL, the argument of every command that reads one: what it is, found by content, and how it is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from bert_jax.bert_config import BertConfig
from bert_jax.errors import BertJaxError
from bert_jax.files import clear_errors, read_json
from bert_jax.text.tokenizer import Tokenizer, load_tokenizer
from bert_jax.train.checkpoint import restore_params
from bert_jax.train.run import Run, is_run, open_run

HEADS = ("masked_lm", "next_sentence")
HUB_PREFIX = "hf:"

# Names from the time before organisations, as they are still typed, and where each lives today.
_HUB_ORGANISATIONS = (
    ("bert-", "google-bert"),
    ("all-minilm", "sentence-transformers"),
    ("all-mpnet", "sentence-transformers"),
    ("paraphrase-", "sentence-transformers"),
    ("chinese-", "hfl"),
)


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, wherever it came from.

    `params` is the nested dict of float32 arrays of the heads named in `heads`; `step` is None where the source does
    not record one; `provenance` says in plain JSON values where the model came from.
    """

    config: BertConfig
    params: dict[str, Any]
    tokenizer: Tokenizer
    kind: str
    path: Path
    step: int | None
    heads: tuple[str, ...]
    provenance: dict[str, Any] = field(default_factory=dict)


class Spec(NamedTuple):
    """A MODEL as written: where it lies, and the step or revision behind the last `@` (None without one)."""

    path: str
    revision: str | None


class Kind(NamedTuple):
    """One row of the table of model kinds: its name, how it is recognised by content, how it is loaded."""

    name: str
    title: str
    matches: Callable[[Path], bool]
    load: Callable[[Path, str | None, bool | None], LoadedModel] | None


def load_model(spec: str | os.PathLike[str], *, cased: bool | None = None) -> LoadedModel:
    """Load a MODEL: a run directory (`RUN`, `RUN@1000`, `RUN@best`).

    `cased` overrides what the source says of its casing. Errors: `BertJaxError` when nothing is there, when it is no
    model or looks like several, or when its kind cannot be read by this version.
    """
    kind, path, revision = find_model(spec)
    if kind.load is None:
        raise BertJaxError(
            f"{path} is {kind.title}, which this version of bert_jax cannot read: give a run directory "
            "(made by bert-jax pretrain)"
        )
    return kind.load(path, revision, cased)


def find_model(spec: str | os.PathLike[str]) -> tuple[Kind, Path, str | None]:
    """What a MODEL is, where, and its step or revision. Errors: `BertJaxError` as in `load_model`."""
    text = os.fspath(spec)
    if text.startswith(HUB_PREFIX):
        return _HUB, Path(text), None
    path, revision = parse_spec(text)
    if not _exists(Path(path)):
        raise BertJaxError(f"no model {text!r}: there is no such path{_hub_hint(path)}")
    found = [kind for kind in KINDS if kind.matches(Path(path))]
    if not found:
        raise BertJaxError(f"{path} is no model{_what_it_is(Path(path))}: expected a run directory (it holds run.json)")
    if len(found) > 1:
        titles = " and ".join(kind.title for kind in found)
        raise BertJaxError(f"{path} looks like {titles} at once: give a path that is one of them")
    return found[0], Path(path), revision


def parse_spec(text: str) -> Spec:
    """`RUN@1000` → path and revision; a path that exists as written is taken whole, its `@` included."""
    path, separator, revision = text.rpartition("@")
    if not separator or not path or "/" in revision or _exists(Path(text)):
        return Spec(text, None)
    return Spec(path, revision)


def _exists(path: Path) -> bool:
    with clear_errors("read", path):
        return path.exists() or _index_of(path).exists()


def _index_of(path: Path) -> Path:
    """The index file of a TF1 checkpoint given by its prefix."""
    return path.with_name(f"{path.name}.index")


def _hub_hint(path: str) -> str:
    """How a name that is no path is spelt on the Hugging Face hub."""
    parts = path.split("/")
    if path.startswith((".", "/", "~")) or len(parts) > 2 or not all(parts):
        return ""
    if len(parts) == 2:
        return f"; on the Hugging Face hub it would be {HUB_PREFIX}{path}"
    for prefix, organisation in _HUB_ORGANISATIONS:
        if path.lower().startswith(prefix):
            return f"; on the Hugging Face hub it would be {HUB_PREFIX}{organisation}/{path}"
    return f"; on the Hugging Face hub it would be {HUB_PREFIX}ORG/{path}"


def _what_it_is(path: Path) -> str:
    """Of a path that is no model, what it is instead, to say so."""
    if (path / "manifest.json").is_file():
        return " but a token store"
    if (path / "vocab.txt").is_file() or (path / "spiece.model").is_file():
        return " but a tokenizer directory"
    if (path / "pytorch_model.bin").is_file():
        return " but holds pytorch_model.bin, a pickle, which is never read"
    if path.is_dir() and not any(path.iterdir()):
        return " but an empty directory"
    return ""


def _is_hugging_face(path: Path) -> bool:
    config = path / "config.json"
    if not config.is_file():
        return False
    values = read_json(config)
    return isinstance(values, dict) and "model_type" in values


def _is_tf1(path: Path) -> bool:
    return any(path.glob("*.ckpt.index")) if path.is_dir() else _index_of(path).is_file()


def _is_tf1_zip(path: Path) -> bool:
    return path.is_file() and path.suffix == ".zip"


def _load_run(path: Path, revision: str | None, cased: bool | None) -> LoadedModel:
    if revision is not None and revision != "best" and not revision.isdecimal():
        raise BertJaxError(f"{path}@{revision}: expected a step number or 'best' behind the @")
    run = open_run(path)
    tokenizer = load_tokenizer(run.tokenizer, cased)
    config = run.config.model.with_vocab_size(tokenizer.vocab_size)
    params, step = restore_params(path, int(revision) if revision and revision != "best" else revision)
    return LoadedModel(config, params, tokenizer, "run", path, step, heads_of(params), run_provenance(run))


def heads_of(params: Mapping[str, Any]) -> tuple[str, ...]:
    """The heads whose parameters are there."""
    return tuple(head for head in HEADS if head in params)


def run_provenance(run: Run) -> dict[str, Any]:
    """Where a run came from, in JSON values: when it was made, from what, on which data."""
    return {"created": run.created, "initialized_from": run.initialized_from, "fingerprints": run.fingerprints}


KINDS = (
    Kind("run", "a run directory", is_run, _load_run),
    Kind("hugging_face", "a Hugging Face model directory", _is_hugging_face, None),
    Kind("tf1", "a TensorFlow 1 checkpoint", _is_tf1, None),
    Kind("tf1_zip", "a zip of a TensorFlow 1 checkpoint", _is_tf1_zip, None),
)
_HUB = Kind("hub", "a model of the Hugging Face hub", lambda path: False, None)
