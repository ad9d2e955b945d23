"""`convert`: any MODEL as a directory that others read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bert_jax.console import log, warn
from bert_jax.errors import BertJaxError, UsageError
from bert_jax.files import make_directory, require_absent, require_writable
from bert_jax.formats.adopt import Report
from bert_jax.formats.hugging_face import CLASSES, save_tokenizer, write_model_directory
from bert_jax.formats.model import LoadedModel, load_model, pads
from bert_jax.formats.stablehlo import write_stablehlo


def convert(model: str, out: str, to: str, cased: bool | None = None) -> dict[str, Any]:
    """Write MODEL to the directory `out`, whole or not at all; returns what was read and written.

    Errors: `BertJaxError` when `out` holds something already, or the format cannot say what the model is.
    """
    if to not in FORMATS:
        raise UsageError(f"--to {to}: expected one of {', '.join(FORMATS)}")
    require_absent(out)
    require_writable(out)
    loaded = load_model(model, cased=cased, partial=True)
    if loaded.report is not None:
        for line in loaded.report.lines():
            log(f"read: {line}")
    written: dict[str, Any] = {}
    make_directory(out, lambda folder: written.update(FORMATS[to](loaded, folder)))
    read = None if loaded.report is None else loaded.report.to_dict()
    return {"model": model, "out": out, "to": to, "kind": loaded.kind, "step": loaded.step, "read": read, **written}


def require_class(loaded: LoadedModel, instead: str) -> None:
    """Errors: `BertJaxError` for a head that no class of transformers has; `instead` is what to do."""
    unknown = [head for head in loaded.heads if not any(head in heads for heads in CLASSES.values())]
    if unknown:
        raise BertJaxError(
            f"{loaded.path} has the head {', '.join(unknown)}, which no class of transformers has: {instead}"
        )


def write_hugging_face(loaded: LoadedModel, folder: Path) -> tuple[str, Report]:
    """Write the whole directory, tokenizer included; the class that reads it, and what became of each array."""
    config = loaded.config
    if loaded.task is not None and loaded.task.form in _PROBLEMS:
        config = dataclasses.replace(config, extra={**config.extra, "problem_type": _PROBLEMS[loaded.task.form]})
    written = write_model_directory(
        folder, config, loaded.params, loaded.heads, labels=loaded.labels, pooling=loaded.pooling
    )
    save_tokenizer(folder, loaded.tokenizer, config.max_position_embeddings)
    return written


def _to_hugging_face(loaded: LoadedModel, folder: Path) -> dict[str, Any]:
    require_class(loaded, "convert it with --to stablehlo")
    name, report = write_hugging_face(_without_padding(loaded), folder)
    activation = loaded.config.to_dict("huggingface")["hidden_act"]
    for line in report.lines():
        log(f"written: {line}")
    log(f"written: {name}, its activation {loaded.config.hidden_act} as {activation!r}")
    return {"class": name, "activation": activation, "written": report.to_dict()}


def _to_stablehlo(loaded: LoadedModel, folder: Path) -> dict[str, Any]:
    signature = write_stablehlo(folder, loaded.config, loaded.params, loaded.heads, loaded.classes)
    loaded.tokenizer.save(folder / "tokenizer")
    return signature


def _without_padding(loaded: LoadedModel) -> LoadedModel:
    """The model without the rows that only round its vocabulary up; many more rows than that are left to its owner."""
    entries, rows = loaded.tokenizer.vocab_size, loaded.config.known_vocab_size
    if entries == rows:
        return loaded
    if not pads(entries, rows):
        warn(f"{loaded.path} has {rows} embeddings for a vocabulary of {entries} entries: all are written")
        return loaded
    log(f"written: {entries} of {rows} embeddings, the others only pad the vocabulary")
    embeddings = {**loaded.params["embeddings"]}
    embeddings["word_embeddings"] = embeddings["word_embeddings"][:entries]
    params = {**loaded.params, "embeddings": embeddings}
    if "masked_lm" in params:
        params["masked_lm"] = {**params["masked_lm"], "bias": params["masked_lm"]["bias"][:entries]}
    config = dataclasses.replace(loaded.config, vocab_size=entries)
    return dataclasses.replace(loaded, config=config, params=params)


_PROBLEMS = {
    "classification": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}
"""What transformers calls the forms that share its class for whole texts."""

FORMATS: dict[str, Callable[[LoadedModel, Path], dict[str, Any]]] = {
    "hf": _to_hugging_face,
    "stablehlo": _to_stablehlo,
}
