"""MODEL, the argument of every command that reads one: what it is, found by content, and how it is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from bert_jax.bert_config import BertConfig
from bert_jax.console import warn
from bert_jax.errors import BertJaxError
from bert_jax.files import clear_errors
from bert_jax.finetune_config import FinetuneConfig
from bert_jax.formats import file_names, hub, hugging_face, tf1
from bert_jax.formats.adopt import UNTIED, Adopted, Place, Report, as_read
from bert_jax.formats.finetuned import TaskFacts, model_facts
from bert_jax.formats.pooling import MODULES_FILE, Pooling, read_pooling
from bert_jax.model.bert import CLASSIFIERS
from bert_jax.model.parameters import require_sizes
from bert_jax.text.tokenizer import Tokenizer, load_tokenizer
from bert_jax.train.checkpoint import restore_params
from bert_jax.train.run import RUN_FILE, Run, is_run, open_run
from bert_jax.train.saved_steps import best_step, step_directories

HEADS = ("masked_lm", *CLASSIFIERS)


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What is known of a model beside its arrays, wherever it lies.

    `step` is None where the source does not record one, or nothing was saved yet; `provenance` says in plain JSON
    values where the model came from; `report` what became of each array of a published checkpoint.
    """

    config: BertConfig
    tokenizer: Tokenizer
    kind: str
    path: Path
    step: int | None
    heads: tuple[str, ...]
    classes: int = 2
    pooler: bool = True
    labels: tuple[str, ...] | None = None
    pooling: Pooling | None = None
    task: TaskFacts | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    report: Report | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    """Heads that are there and cannot be kept, and why."""


@dataclass(frozen=True, kw_only=True)
class OpenedModel(ModelFacts):
    """A model whose arrays are not read yet: `read` gives its parameters and their step.

    `read(partial=True)`: without a head that cannot be kept, instead of an error. `read(place=…)`: each array of a
    published checkpoint goes through `place` as soon as it is read; those of a run are on the default device anyway.
    """

    read: Callable[..., tuple[dict[str, Any], int | None]]


@dataclass(frozen=True, kw_only=True)
class LoadedModel(ModelFacts):
    """A model in memory: `params` is the nested dict of float32 arrays of the encoder and the heads in `heads`."""

    params: dict[str, Any] = field(repr=False)


class Spec(NamedTuple):
    """A MODEL as written: where it lies, and the step or revision behind the last `@` (None without one)."""

    path: str
    revision: str | None


class Kind(NamedTuple):
    """One row of the table of model kinds: its name, how it is recognised by content, how it is opened."""

    name: str
    title: str
    matches: Callable[[Path], bool]
    open: Callable[[Path, str | None, bool | None], OpenedModel]


def load_model(
    spec: str | os.PathLike[str], *, cased: bool | None = None, partial: bool = False, place: Place = as_read
) -> LoadedModel:
    """Load a MODEL: a run (`RUN`, `RUN@1000`, `RUN@best`), a Hugging Face or sentence-transformers directory,
    `hf:ORG/NAME[@revision]`, a TensorFlow 1 checkpoint or a zip of one.

    `cased` overrides what the source says of its casing. `partial`: a masked_lm head that cannot be kept, since its
    decoder is not the word embeddings, is left out with a warning. `place`: see `OpenedModel`. Errors: `BertJaxError`
    when nothing is there, when it is no model or looks like several, when its arrays do not fit its configuration, or
    for such a head.
    """
    opened = open_model(spec, cased=cased)
    if opened.report is not None and (left := opened.report.left_out()):
        warn(f"{opened.path}: {left} are left out: no parameters of the model that its configuration describes")
    facts = dict(vars(opened))
    params, step = facts.pop("read")(partial=partial, place=place)
    if opened.kind == "run":  # published ones are compared before they are read
        require_sizes(params, opened.config, f"{opened.path}/{RUN_FILE}")
    lost = {head: UNTIED for head in opened.heads if head not in params}
    if lost:
        warn(f"{opened.path}: {UNTIED}; the rest is used")
    heads = tuple(head for head in opened.heads if head in params)
    return LoadedModel(**{**facts, "step": step, "params": params, "heads": heads, "left_out": lost})


def open_model(spec: str | os.PathLike[str], *, cased: bool | None = None) -> OpenedModel:
    """As `load_model`, the arrays left where they are."""
    if os.fspath(spec).startswith(hub.PREFIX):
        return _open_hub(os.fspath(spec), cased)
    kind, path, revision = find_model(spec)
    return kind.open(path, revision, cased)


def find_model(spec: str | os.PathLike[str]) -> tuple[Kind, Path, str | None]:
    """What a MODEL that lies here is, where, and its step. Errors: `BertJaxError` as in `load_model`."""
    text = os.fspath(spec)
    path, revision = parse_spec(text)
    if not _exists(Path(path)):
        raise BertJaxError(f"no model {text!r}: there is no such path{hub.hint(path)}")
    found = [kind for kind in KINDS if kind.matches(Path(path))]
    if not found:
        raise BertJaxError(
            f"{path} is no model{_what_it_is(Path(path))}: expected a run directory (run.json), a Hugging Face "
            "directory (config.json) or a TensorFlow 1 checkpoint (bert_model.ckpt.index)"
        )
    if len(found) > 1:
        titles = " and ".join(kind.title for kind in found)
        raise BertJaxError(f"{path} looks like {titles} at once: give a path that is one of them")
    if revision is not None and found[0].name != "run":
        raise BertJaxError(f"{text}: only a run has steps; {path} is {found[0].title}: leave @{revision} out")
    return found[0], Path(path), revision


def parse_spec(text: str) -> Spec:
    """`RUN@1000` → path and revision; a path that exists as written is taken whole, its `@` included."""
    path, separator, revision = text.rpartition("@")
    if not separator or not path or "/" in revision or _exists(Path(text)):
        return Spec(text, None)
    return Spec(path, revision)


def _exists(path: Path) -> bool:
    with clear_errors("read", path):
        return path.exists() or tf1.index_of(path).exists()


def _what_it_is(path: Path) -> str:
    """Of a path that is no model, what it is instead, to say so."""
    if (path / "manifest.json").is_file():
        return " but a token store"
    if (path / file_names.CONFIG_FILE).is_file():
        return f': its {file_names.CONFIG_FILE} names no model_type (add "model_type": "bert" to one of BERT)'
    if (path / "vocab.txt").is_file() or (path / "spiece.model").is_file():
        return " but a tokenizer directory"
    if (path / file_names.PICKLE_FILE).is_file():
        return f" but holds {file_names.PICKLE_FILE}, a pickle, without config.json"
    if path.is_dir() and not any(path.iterdir()):
        return " but an empty directory"
    return ""


def _is_hugging_face(path: Path) -> bool:
    return hugging_face.is_model_directory(path) or (path / MODULES_FILE).is_file()


def _open_run(path: Path, revision: str | None, cased: bool | None) -> OpenedModel:
    run = open_run(path)
    if isinstance(run.config, FinetuneConfig):
        return OpenedModel(**model_facts(run, revision, cased))
    if revision is not None and revision != "best" and not revision.isdecimal():
        raise BertJaxError(f"{path}@{revision}: expected a step number or 'best' behind the @")
    tokenizer = load_tokenizer(run.tokenizer, cased)
    return OpenedModel(
        config=run.pretraining.model.with_vocab_size(tokenizer.vocab_size),
        tokenizer=tokenizer,
        kind="run",
        path=path,
        step=_step_of(run, revision),
        heads=heads_of_objective(run.pretraining.train.objective),
        read=lambda partial=False, place=as_read: restore_params(
            path, int(revision) if revision and revision != "best" else revision
        ),
        provenance=run_provenance(run),
    )


def _step_of(run: Run, revision: str | None) -> int | None:
    """The step meant by `revision`: the newest one without, None when nothing was saved yet."""
    directories = step_directories(run.checkpoints)
    if revision is None:
        return max(directories, default=None)
    step = best_step(directories) if revision == "best" else int(revision)
    if step not in directories:
        known = ", ".join(map(str, directories)) or "none"
        raise BertJaxError(f"{run.path} has no checkpoint {revision}: it has {known}")
    return step


def heads_of_objective(objective: str) -> tuple[str, ...]:
    """The heads that a pre-training objective trains."""
    return HEADS[:1] if objective == "mlm" else HEADS[:2]


def run_provenance(run: Run) -> dict[str, Any]:
    """Where a run came from, in JSON values: when it was made, from what, on which data."""
    return {"created": run.created, "initialized_from": run.initialized_from, "fingerprints": run.fingerprints}


def _open_hub(text: str, cased: bool | None) -> OpenedModel:
    folder, provenance = hub.fetch(text)
    return _open_hugging_face(folder, None, cased, Path(text), provenance)


def _open_hugging_face(
    path: Path,
    revision: str | None,
    cased: bool | None,
    name: Path | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> OpenedModel:
    encoder, pooling = read_pooling(path) or (path, None)
    config, adopted, labels = hugging_face.read_model_directory(encoder)
    tokenizer = load_tokenizer(encoder, cased)
    if pooling is not None and pooling.lower_case and tokenizer.cased and cased is None:
        tokenizer = tokenizer.lowered()
    architectures = config.extra.get("architectures")
    made = {"format": "hugging_face", "architectures": architectures, **(provenance or {})}
    return _published(
        name or path,
        "hugging_face",
        config,
        adopted,
        tokenizer,
        made,
        labels=labels,
        pooling=pooling,
    )


def _open_tf1(path: Path, revision: str | None, cased: bool | None) -> OpenedModel:
    config, adopted, folder, step = tf1.read_checkpoint(path)
    return _published(path, "tf1", config, adopted, load_tokenizer(folder, cased), {"format": "tf1"}, step=step)


def _open_tf1_zip(path: Path, revision: str | None, cased: bool | None) -> OpenedModel:
    unpacked = tf1.Unpacked(path)
    with unpacked.called_by_its_zip():
        config, adopted, folder, step = tf1.read_checkpoint(unpacked.folder)
        tokenizer = load_tokenizer(folder, cased)

    def read(partial: bool = False, place: Place = as_read) -> dict[str, Any]:
        with unpacked.called_by_its_zip():  # which lasts as long as this function, and its directory as long as it
            return adopted.read(partial, place)

    kept = adopted._replace(read=read)
    return _published(path, "tf1_zip", config, kept, tokenizer, {"format": "tf1_zip"}, step=step)


def _published(
    path: Path,
    kind: str,
    config: BertConfig,
    adopted: Adopted,
    tokenizer: Tokenizer,
    provenance: Mapping[str, Any],
    step: int | None = None,
    labels: tuple[str, ...] | None = None,
    pooling: Pooling | None = None,
) -> OpenedModel:
    if tokenizer.vocab_size > config.known_vocab_size:
        raise BertJaxError(
            f"{path}: its vocabulary has {tokenizer.vocab_size} entries and its embedding table "
            f"{config.known_vocab_size} rows: they do not belong together"
        )
    if not pads(tokenizer.vocab_size, config.known_vocab_size):
        warn(
            f"{path}: its vocabulary has {tokenizer.vocab_size} entries and its embedding table "
            f"{config.known_vocab_size} rows, more than a table is padded by: is the vocabulary file whole?"
        )
    return OpenedModel(
        config=config,
        tokenizer=tokenizer,
        kind=kind,
        path=path,
        step=step,
        heads=adopted.heads,
        read=lambda partial=False, place=as_read: (adopted.read(partial, place), step),
        classes=adopted.classes,
        pooler=adopted.pooler,
        labels=labels,
        pooling=pooling,
        provenance={**provenance, "step": step},
        report=adopted.report,
    )


_MULTIPLES = (2, 4, 8, 16, 32, 64, 128)


def pads(entries: int, rows: int) -> bool:
    """Whether a table of `rows` is a vocabulary of `entries`, rounded up as tables are for the hardware's sake."""
    return rows == entries or rows in {-(-entries // multiple) * multiple for multiple in _MULTIPLES}


KINDS = (
    Kind("run", "a run directory", is_run, _open_run),
    Kind("hugging_face", "a Hugging Face model directory", _is_hugging_face, _open_hugging_face),
    Kind("tf1", "a TensorFlow 1 checkpoint", tf1.is_checkpoint, _open_tf1),
    Kind("tf1_zip", "a zip of a TensorFlow 1 checkpoint", tf1.is_zip, _open_tf1_zip),
)
