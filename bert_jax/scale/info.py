"""`info`: what a MODEL, a CONFIG or a token store is, without loading its arrays."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from bert_jax.bert_config import BertConfig
from bert_jax.config import Config
from bert_jax.config_files import bound_names, find_config, load_config, similar_config, to_dict
from bert_jax.data.store import load_store
from bert_jax.errors import UsageError
from bert_jax.finetune_config import FinetuneConfig
from bert_jax.formats.model import heads_of_objective, open_model, run_provenance
from bert_jax.model.bert import PRETRAINING_HEADS, abstract_parameters, make_model
from bert_jax.text.tokenizer import Tokenizer, load_tokenizer
from bert_jax.train.best import best_models
from bert_jax.train.run import Run, is_run, open_run
from bert_jax.train.saved_steps import step_directories

_ENCODER_PARTS = ("embeddings", "encoder", "pooler")


def info(what: str | os.PathLike[str], verify: bool = False) -> dict[str, Any]:
    """Describe a MODEL, a CONFIG (path or shipped name) or a token store, as JSON values.

    A model or configuration: `parameters` by part (`encoder_total` is embeddings, layers and pooler, without heads),
    `model` (its BertConfig), `heads`, `vocabulary`, `step`, `provenance`, of a fine-tuned one `task`; of a fine-tuning
    configuration its sections. A store: its counts, tokenizer and
    fingerprint; `verify` compares the checksums of its files. Errors: `BertJaxError` when it is none of these, or when
    a file was altered.
    """
    text = os.fspath(what)
    path = Path(text)
    if path.is_dir() and (path / "manifest.json").is_file():
        if verify:
            load_store(path).verify()
        return store_info(path)
    if verify:
        raise UsageError(f"--verify is for a token store, and {text} is none: leave it out")
    if path.suffix == ".py" or (not path.exists() and similar_config(text)):
        return config_info(text)
    return model_info(text)


def store_info(path: Path) -> dict[str, Any]:
    """Counts, splits, tokenizer and fingerprint of a token store."""
    store = load_store(path)
    splits = {}
    for name in ("train", "eval"):
        split = store.split(name)
        splits[name] = {"documents": split.documents, "sentences": split.sentences, "tokens": split.tokens}
    return {
        "kind": "store",
        "path": str(path),
        "fingerprint": store.fingerprint,
        **splits,
        "bytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        "vocabulary": vocabulary_info(load_tokenizer(store.tokenizer_path)),
        "word_starts": store.word_starts,
        "summary": store.manifest.get("summary"),
    }


def config_info(name_or_path: str) -> dict[str, Any]:
    """A CONFIG: the model it describes, and what it would train on for how long."""
    path = find_config(name_or_path)
    if isinstance(bound_names(path).get("config"), FinetuneConfig):
        return {
            "kind": "config",
            "path": str(path),
            "command": "finetune",
            **to_dict(load_config(path, FinetuneConfig)),
        }
    config = load_config(path)
    known = config.train.steps is not None
    return {
        "kind": "config",
        "path": str(path),
        "command": "pretrain",
        **shape_info(_with_config_vocabulary(config), heads_of_objective(config.train.objective)),
        "vocabulary": None,
        "phases": [dataclasses.asdict(phase) for phase in config.phases] if known else None,
        "total_steps": config.total_steps if known else None,
        "minutes": config.train.minutes,
        "data": {"store": list(config.data.store), "sources": list(config.data.sources)},
        "optimizer": config.optimizer.name,
    }


def _with_config_vocabulary(config: Config) -> BertConfig:
    """The model with the vocabulary size that its data section asks for, where the model leaves it open."""
    if config.model.vocab_size is None and config.data.vocab_size is not None:
        return config.model.with_vocab_size(config.data.vocab_size)
    return config.model


def model_info(spec: str) -> dict[str, Any]:
    """A MODEL: its parameters by part, tokenizer, step and origin; for a run all the steps it has saved too."""
    if is_run(Path(spec)) and _is_begun(run := open_run(Path(spec))):
        return begun_info(run)
    model = open_model(spec)
    described = {
        "kind": model.kind,
        "path": str(model.path),
        **shape_info(model.config, model.heads, model.classes, model.pooler),
        "vocabulary": vocabulary_info(model.tokenizer),
        "labels": model.labels,
        "step": model.step,
        "provenance": model.provenance,
    }
    if model.kind == "run":
        run = open_run(model.path)
        described["steps_saved"] = list(step_directories(run.checkpoints))
        described["total_steps"] = run.config.total_steps
    if model.task is not None:
        described["task"] = dataclasses.asdict(model.task)
    if model.pooling is not None:
        described["pooling"] = dataclasses.asdict(model.pooling)
    if model.report is not None:
        described["arrays"] = model.report.to_dict()
    return described


def _is_begun(run: Run) -> bool:
    return isinstance(run.config, FinetuneConfig) and not best_models(run.path / "models")


def begun_info(run: Run) -> dict[str, Any]:
    """A fine-tuning run before its first evaluation, which keeps its first model: what it will be, and how far it is.

    As `model_info`, with `step` null, and `steps_saved` by group where its members are trained in several.
    """
    task, head = run.facts["task"], run.facts["head"]
    heads = () if head["name"] is None else (head["name"],)
    groups = sorted(path for path in (run.path / "groups").glob("*") if is_run(path))
    saved: Any = {path.name: list(step_directories(open_run(path).checkpoints)) for path in groups}
    return {
        "kind": "run",
        "path": str(run.path),
        **shape_info(BertConfig.from_dict(run.facts["model"]), heads, head["classes"], head["pooler"]),
        "vocabulary": vocabulary_info(load_tokenizer(run.tokenizer)),
        "labels": task["labels"] or None,
        "step": None,
        "provenance": run_provenance(run),
        "steps_saved": saved or list(step_directories(run.checkpoints)),
        "total_steps": run.config.total_steps,
        "members": run.facts["members"],
        "task": {name: task[name] for name in ("name", "form", "labels", "options")},
        "note": "no model yet: one is kept at the first evaluation on the dev set",
    }


def shape_info(config: BertConfig, heads: tuple[str, ...], classes: int = 2, pooler: bool = True) -> dict[str, Any]:
    """`model`, `heads` and `parameters` of a configuration; parameters are null while the vocabulary size is open."""
    counted = None if config.vocab_size is None else count_parameters(config, heads, classes, pooler)
    known = {name: value for name, value in config.to_dict().items() if name not in config.extra}
    return {"model": known, "unknown_keys": dict(config.extra), "heads": list(heads), "parameters": counted}


def count_parameters(
    config: BertConfig, heads: tuple[str, ...] = PRETRAINING_HEADS, classes: int = 2, pooler: bool = True
) -> dict[str, int]:
    """Number of parameters by part, of the encoder (published: 109,482,240 for base) and in total.

    The decoder of the masked_lm head is the word embeddings, counted once, there.
    """
    model = make_model(config, heads=heads, classes=classes, pooler=pooler)
    parts = {name: _size(tree) for name, tree in abstract_parameters(model).items()}
    encoder = sum(parts[name] for name in _ENCODER_PARTS if name in parts)
    return {**parts, "encoder_total": encoder, "total": sum(parts.values())}


def _size(tree: Mapping[str, Any]) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def vocabulary_info(tokenizer: Tokenizer) -> dict[str, Any]:
    """Kind, size, casing and fingerprint of a tokenizer."""
    return {
        "kind": tokenizer.kind,
        "size": tokenizer.vocab_size,
        "cased": tokenizer.cased,
        "fingerprint": tokenizer.fingerprint,
    }
