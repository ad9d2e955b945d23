"""The shipped recipes of tagging, pointers and relations say what their papers say."""

from __future__ import annotations

import runpy

import pytest

from bert_jax.config_files import find_config
from bert_jax.finetune_config import FinetuneConfig


@pytest.mark.parametrize(
    ("name", "task", "length", "batch", "rate", "epochs"),
    [
        ("finetune_conll", "ner", 256, 32, 5e-5, 3),
        ("finetune_weibo", "ner", 192, 16, 3e-5, 10),
        ("finetune_cluener", "span_tagging", 64, 32, 3e-5, 4),
        ("finetune_cluener_pointers", "spans", 64, 32, 5e-5, 6),
        ("finetune_semeval", "semeval", 128, 16, 2e-5, 5),
    ],
)
def test_recipes(name: str, task: str, length: int, batch: int, rate: float, epochs: int) -> None:
    config = runpy.run_path(str(find_config(name)))["config"]
    assert isinstance(config, FinetuneConfig)
    assert (config.task.name, config.task.length) == (task, length)
    assert (config.finetune.batch, config.finetune.epochs) == (batch, epochs)
    assert config.optimizer.learning_rate == rate and config.optimizer.warmup == 0.1
    assert config.data.train and config.task.document_context == (name == "finetune_conll")
