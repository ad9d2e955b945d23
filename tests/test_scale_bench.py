"""Benchmarks answer with the agreed keys, and their figures follow from what was timed."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
from small_models import small_config, small_run, small_tokenizer

from bert_jax.bert_config import BertConfig
from bert_jax.config import Config, Mesh, Train
from bert_jax.errors import BertJaxError, UsageError
from bert_jax.files import to_json
from bert_jax.scale.bench import bench
from bert_jax.scale.bench_record import KEYS, commit, percentiles, record, versions
from bert_jax.scale.bench_tokenize import documents_of, line_batches, text_bytes
from bert_jax.scale.bench_train import bench_config, full_rows, parse_mesh, time_steps

TEXT = "The cat sat on the mat.\nIt was tired.\n\nRain ran on the road.\nThe street was wet.\n\n" * 40


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    small_tokenizer().save(path)
    return path


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT)
    return path


def check_keys(found: dict[str, Any]) -> None:
    assert not set(KEYS) - set(found)
    assert to_json(found)
    assert found["peak_bytes"] > 10**7
    assert found["peak_of"] in ("process", "device")


def test_train() -> None:
    model = dataclasses.replace(small_config(), vocab_size=200, hidden_dropout_prob=0.0)
    config = Config(model=model, train=Train(length=64, batch=64, predictions=10, steps=5))
    found = bench("train", config, batch=16, length=32, steps=3, warmup=2, tokens=20_000)  # type: ignore[arg-type]
    check_keys(found)
    assert (found["batch"], found["length"], found["predictions"], found["steps"]) == (16, 32, 5, 3)
    assert found["sequences_per_second"] == pytest.approx(16 / found["step_seconds_median"])
    assert found["mfu"] is None
    done = found["flops_per_sequence_padded"] * 16 / found["step_seconds_median"]
    assert 0 < found["matrix_share"] == pytest.approx(done / found["matrix_flops_per_second"])
    assert found["attention_engine"] == "einsum"
    assert found["flops_per_sequence"] < found["flops_per_sequence_padded"]
    assert 0 < found["padding_share"] < 1


def test_train_with_packed_rows_counts_the_sequences_in_them() -> None:
    model = dataclasses.replace(small_config(), vocab_size=200, hidden_dropout_prob=0.0)
    train = Train(length=64, batch=64, predictions=10, steps=5, short_share=1.0, row_predictions=3)
    config = Config(model=model, train=train)
    found = bench("train", config, batch=8, packing=4, steps=2, warmup=2, tokens=20_000)  # type: ignore[arg-type]
    assert found["packing"] == 4
    assert 1 < found["sequences_per_row"] <= 4
    assert found["rows_per_second"] == pytest.approx(8 / found["step_seconds_median"])
    assert found["sequences_per_second"] == pytest.approx(found["rows_per_second"] * found["sequences_per_row"])
    assert found["padding_share"] < 0.2
    assert found["flops_per_sequence"] < found["flops_per_sequence_padded"]


def test_a_steps_time_is_from_the_last_ones_end_to_its_own() -> None:
    class Sleeper:
        steps = 0

        def init_state(self) -> int:
            return 0

        def train_step(self, state: int, batch: Any) -> tuple[int, dict[str, Any]]:
            self.steps += 1
            time.sleep(0.5 if state == 0 else 0.02)
            sums = dict.fromkeys(("sequences", "real_tokens", "real_tokens_squared", "tokens", "mlm_count"), 2.0)
            return state + 1, {"loss": jnp.zeros(())} | sums

    program = Sleeper()
    timing = time_steps(program, [{}, {}], warmup=2, steps=4)  # type: ignore[arg-type]
    assert program.steps == 1 + 1 + 4 + 1
    assert timing.first_seconds >= 0.5
    assert len(timing.seconds) == 4
    assert all(0.015 < seconds < 0.4 for seconds in timing.seconds)
    assert timing.sums["real_tokens"] == 2


def test_a_preset_or_a_shipped_configuration_by_name() -> None:
    assert bench_config(None, {}).model == BertConfig.preset("mini")
    base = bench_config("base", {"batch": 8})
    assert (base.model, base.train.batch, base.train.predictions) == (BertConfig.preset("base"), 8, 20)
    assert bench_config("base", {"length": 512}).train.predictions == 77
    assert bench_config("quickstart", {}).model.hidden_size == 128
    with pytest.raises(BertJaxError, match="attention is 'flush'"):
        bench_config("base", {"attention": "flush"})


def test_full_rows_by_hand() -> None:
    sums = {"sequences": 4.0, "real_tokens": 30.0, "real_tokens_squared": 250.0, "tokens": 40.0, "mlm_count": 6.0}
    assert full_rows(sums, length=10, predictions=2) == sums | {
        "real_tokens": 40,
        "real_tokens_squared": 400,
        "mlm_count": 8,
    }


def test_feed() -> None:
    found = bench("feed", length=64, batch=32, driver="thread", repeats=2, tokens=60_000)
    check_keys(found)
    (row, packed), (plan,) = found["rows"], found["plans"]
    assert row["sequences_per_second"] == found["sequences_per_second"] > 0
    assert row["spread"]["repeats"] == 2
    assert 32 * row["sequences_per_second"] < row["real_tokens_per_second"] < 64 * row["sequences_per_second"]
    assert plan["plan_rows"] > 500
    assert (row["packing"], packed["packing"]) == (1, 4)
    assert row["real_token_share"] == found["real_token_share"] < packed["real_token_share"] <= 1
    assert plan["real_token_share_unpacked"] == pytest.approx(row["real_token_share"], abs=0.05)
    assert plan["real_token_share"] == pytest.approx(packed["real_token_share"], abs=0.05)
    assert plan["packed_rows"] < plan["plan_rows"]
    assert plan["packing_seconds_per_million"] > 0
    assert plan["resume_seconds"] > 0


def test_tokenize_and_prepare(text: Path, tokenizer: Path) -> None:
    found = bench("tokenize", source=[str(text)], tokenizer=str(tokenizer), repeats=2)
    check_keys(found)
    assert found["documents"] == 80
    assert found["megabytes"] == pytest.approx((len(TEXT) - 80) / 1e6)
    assert found["megabytes_per_second_warm"] > 0
    prepared = bench("prepare", source=[str(text)], tokenizer=str(tokenizer), workers=1)
    check_keys(prepared)
    assert prepared["tokens"] == found["tokens"]
    assert prepared["megabytes_per_second"] == pytest.approx(prepared["megabytes"] / prepared["seconds"])
    assert prepared["store_fingerprint"]


def test_predict(text: Path, tmp_path: Path) -> None:
    small_run(tmp_path / "run", {1: None})
    found = bench("predict", str(tmp_path / "run"), source=[str(text)], texts=20, requests=3, repeats=2)
    check_keys(found)
    assert (found["texts"], found["requests"], found["devices"]) == (20, 3, 1)
    assert found["real_tokens"] == 5 * sum((9, 6, 8, 7))  # words, full stop, [CLS] and [SEP] of the four sentences
    assert found["speeds"]["repeats"] == 2
    assert 0 < found["seconds_p50"] <= found["seconds_p90"] <= found["seconds_p99"]
    assert found["real_tokens_per_second"] > found["sequences_per_second"]
    assert found["padding_share"] == pytest.approx(
        1 - found["real_tokens"] / (42 * 12)  # one batch, 20 rows of it used
    )
    assert "speeds_unpacked" not in found
    packed = bench("predict", str(tmp_path / "run"), source=[str(text)], texts=60, requests=1, repeats=1, packing=8)
    assert (packed["packing"], packed["texts"]) == (8, 60) and packed["speeds_unpacked"]["repeats"] == 1
    assert packed["padding_share"] == pytest.approx(1 - packed["real_tokens"] / (8 * 64))
    assert packed["padding_share_unpacked"] > 0.5


def test_documents_stop_at_the_megabytes_asked_for(text: Path) -> None:
    some = list(documents_of([str(text)], 0.0005))
    assert 0.0005e6 <= text_bytes(some) < 0.0005e6 + 100
    lines = [line for document in some for line in document]
    assert [line for batch in line_batches(some) for line in batch] == lines


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(
        UsageError, match="no benchmark 'speed': expected one of train, feed, prepare, tokenize, predict"
    ):
        bench("speed")
    with pytest.raises(UsageError, match="bench feed has no option --workers: it has --store"):
        bench("feed", workers=2)
    with pytest.raises(UsageError, match="bench tokenize has no use for 'base': it takes none"):
        bench("tokenize", "base")
    with pytest.raises(UsageError, match="bench train has no use for 'quickstart': it takes one name"):
        bench("train", "base", "quickstart")


def test_record_has_every_key_and_percentiles_are_ordered() -> None:
    found = record("train", mfu=float("nan"))
    assert list(found)[1 : 1 + len(KEYS)] == list(KEYS)
    assert '"mfu":null' in to_json(found).replace(" ", "")
    assert {"python", "jax", "numpy"} <= set(versions())
    assert commit() is None or len(commit() or "") >= 7
    assert percentiles([1.0, 2.0, 3.0]) == {
        "step_seconds_median": 2.0,
        "seconds_p50": 2.0,
        "seconds_p90": pytest.approx(2.8),
        "seconds_p99": pytest.approx(2.98),
    }


def test_a_mesh_is_three_numbers() -> None:
    assert parse_mesh("4x1x2") == Mesh(4, 1, 2)
    for text in ("4x2", "4x0x1", "ax1x1", "-1x1x1"):
        with pytest.raises(UsageError, match=f"--mesh {text}: expected DATAxFSDPxTENSOR"):
            parse_mesh(text)
