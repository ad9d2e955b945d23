"""bert_jax: BERT on JAX, from raw text to a pre-trained, fine-tuned, served encoder.

Every command of `bert-jax` is a function here, loaded when first used, so that importing the package is fast and
touches no device: `pretrain`, `finetune`, `evaluate`, `predict`, `load`, `vocab`, `prepare`, `tokenize`, `show`,
`info`, `convert`, `plan`, `bench`, `doctor`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bert_jax.bert_config import BertConfig
    from bert_jax.commands import (
        bench,
        convert,
        doctor,
        evaluate,
        finetune,
        info,
        load,
        plan,
        predict,
        prepare,
        pretrain,
        show,
        tokenize,
        vocab,
    )
    from bert_jax.config import Checkpoint, Config, Data, Evaluate, Log, Mesh, Optimizer, Phase, Train
    from bert_jax.errors import BertJaxError
    from bert_jax.finetune_config import Finetune, FinetuneConfig, Scoring, TaskData, TaskOptions
    from bert_jax.tasks.task import Task

__version__ = "0.1.0"

_WHERE = {
    "bert_config": ("BertConfig",),
    "commands": (
        "bench",
        "convert",
        "doctor",
        "evaluate",
        "finetune",
        "info",
        "load",
        "plan",
        "predict",
        "prepare",
        "pretrain",
        "show",
        "tokenize",
        "vocab",
    ),
    "config": ("Checkpoint", "Config", "Data", "Evaluate", "Log", "Mesh", "Optimizer", "Phase", "Train"),
    "errors": ("BertJaxError",),
    "finetune_config": ("Finetune", "FinetuneConfig", "Scoring", "TaskData", "TaskOptions"),
    "tasks.task": ("Task",),
}

__all__ = [
    "BertConfig",
    "BertJaxError",
    "Checkpoint",
    "Config",
    "Data",
    "Evaluate",
    "Finetune",
    "FinetuneConfig",
    "Log",
    "Mesh",
    "Optimizer",
    "Phase",
    "Scoring",
    "Task",
    "TaskData",
    "TaskOptions",
    "Train",
    "__version__",
    "bench",
    "convert",
    "doctor",
    "evaluate",
    "finetune",
    "info",
    "load",
    "plan",
    "predict",
    "prepare",
    "pretrain",
    "show",
    "tokenize",
    "vocab",
]


def __getattr__(name: str) -> Any:
    for module, names in _WHERE.items():
        if name in names:
            return getattr(importlib.import_module(f"bert_jax.{module}"), name)
    raise AttributeError(f"module 'bert_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
