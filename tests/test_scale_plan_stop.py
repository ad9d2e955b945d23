"""scale.plan_stop: a run that is asked to stop beside the time a spot machine has."""

from __future__ import annotations

import pytest

from bert_jax import BertConfig, Config, Train
from bert_jax.config_files import load_config
from bert_jax.scale.plan import plan
from bert_jax.scale.plan_stop import stop_figures, stop_report

LARGE = BertConfig(
    vocab_size=30522, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
)


def test_three_times_the_parameters_at_the_assumed_rate() -> None:
    """BERT-base: 110,106,428 parameters with its heads, twelve bytes each."""
    config = Config(model=BertConfig(vocab_size=30522), train=Train(steps=1))
    found = stop_figures(config, {"data": 16, "fsdp": 1, "tensor": 1})
    assert found["save_bytes_per_host"] == 12 * 110_106_428
    assert found["stop_seconds_bound"] == pytest.approx(10 + 13.2, abs=0.1)
    assert "saved in at most 23 s (10 s, and 13.2 s for 1.32 GB" in stop_report(found)
    assert stop_report(found).endswith("a spot machine has 30 s")


def test_a_large_model_on_one_slow_disk_is_warned_about_and_shared_ones_are_faster() -> None:
    config = Config(model=LARGE, train=Train(steps=1))
    alone = stop_figures(config, {"data": 32, "fsdp": 1, "tensor": 1})
    assert alone["stop_seconds_bound"] > 30
    assert "more than the 30 s of a spot machine" in stop_report(alone)
    shared = stop_figures(config, {"data": 1, "fsdp": 32, "tensor": 1})
    assert shared["save_bytes_per_host"] == pytest.approx(alone["save_bytes_per_host"] / 4, rel=0.05)


def test_the_plan_says_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "bert_jax")
    found = plan(load_config("bert_base_wiki"), "h200:8")
    assert found["stop_seconds_bound"] == pytest.approx(10 + found["save_bytes_per_host"] / found["save_rate_assumed"])
    assert any(line.startswith("stopped by a signal: saved in at most") for line in caplog.messages)


def test_the_plan_follows_a_ceiling_on_the_rows_of_a_chip() -> None:
    config = load_config("bert_base_wiki")
    plain = plan(config, "h200:1")["phases"][0]
    cut = plan(config, "h200:1", overrides=["--train.sequences-per-chip", "8"])["phases"][0]
    assert (plain["accumulation"], cut["accumulation"]) == (1, plain["batch"] // 8)
    assert cut["hbm_bytes"] < plain["hbm_bytes"]
