"""The shipped configurations say what they should: published sizes, schedules and phases."""

from __future__ import annotations

import pytest

from bert_jax.config_files import load_config, shipped_configs
from bert_jax.finetune_config import FinetuneConfig
from bert_jax.tasks.table import TASKS
from bert_jax.train.schedule import make_schedule


def test_bert_base_wiki_is_the_published_recipe() -> None:
    config = load_config("bert_base_wiki")
    assert config.total_steps == 1_000_000
    assert [(phase.length, phase.batch, phase.steps) for phase in config.phases] == [
        (128, 256, 900_000),
        (512, 256, 100_000),
    ]
    rate = make_schedule(config)
    assert float(rate(5_000)) == pytest.approx(5e-5, rel=1e-5)
    assert float(rate(500_000)) == pytest.approx(5e-5, rel=1e-5)


def test_bert_large_lamb_restarts_its_schedule_in_the_second_phase() -> None:
    config = load_config("bert_large_lamb")
    assert config.total_steps == 7038 + 1563
    rate = make_schedule(config)
    first, second = int(0.2843 * 7038), int(0.128 * 1563)
    assert float(rate(first)) == pytest.approx(6e-3 * (1 - first / 7038) ** 0.5, rel=1e-3)
    assert float(rate(7038 + second)) == pytest.approx(4e-3 * (1 - second / 1563) ** 0.5, rel=1e-3)
    assert float(rate(7038)) < 1e-4


@pytest.mark.parametrize("name", [name for name in shipped_configs() if name.startswith("finetune_")])
def test_fine_tuning_configurations_name_a_task_and_where_its_examples_are(name: str) -> None:
    config = load_config(name, FinetuneConfig)
    assert config.task.name in TASKS
    assert config.data.train


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
    config = load_config(name, FinetuneConfig)
    assert (config.task.name, config.task.length) == (task, length)
    assert (config.finetune.batch, config.finetune.epochs) == (batch, epochs)
    assert config.optimizer.learning_rate == rate and config.optimizer.warmup == 0.1
    assert config.task.document_context == (name == "finetune_conll")


@pytest.mark.parametrize(
    ("name", "vocabulary"), [("bert_base_wiki", 30522), ("bert_base_chinese", 21128), ("bert_large_lamb", 30522)]
)
def test_vocabularies(name: str, vocabulary: int) -> None:
    assert load_config(name).model.vocab_size == vocabulary
