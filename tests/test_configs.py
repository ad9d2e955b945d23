"""The shipped configurations say what they should: published sizes, schedules and phases."""

from __future__ import annotations

import pytest

from bert_jax.config_files import load_config
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


@pytest.mark.parametrize(
    ("name", "vocabulary"), [("bert_base_wiki", 30522), ("bert_base_chinese", 21128), ("bert_large_lamb", 30522)]
)
def test_vocabularies(name: str, vocabulary: int) -> None:
    assert load_config(name).model.vocab_size == vocabulary
