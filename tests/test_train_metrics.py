"""metrics.jsonl and the event files: each step once, exact counts, no fetch per step."""

from __future__ import annotations

import json
import math
import sys
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from bert_jax.train.metrics import Counters, Meter, MetricsWriter, Row, read_metrics, truncate


def _metrics(loss: float = 1.0, **more: float) -> dict[str, jax.Array]:
    values = {
        "loss": loss,
        "mlm_loss": loss * 0.75,
        "nsp_loss": loss * 0.25,
        "mlm_correct": 3,
        "mlm_count": 10,
        "nsp_correct": 1,
        "nsp_count": 4,
        "sequences": 4,
        "real_tokens": 30,
        "real_tokens_squared": 250.0,
        "tokens": 40,
        "learning_rate": 0.1,
        "grad_norm": 2.0,
        "param_norm": 5.0,
        "nonfinite": 0,
        **more,
    }
    return {name: jnp.asarray(value) for name, value in values.items()}


def test_a_line_holds_the_means_of_its_interval_and_exact_counts() -> None:
    meter = Meter(Counters(), flops=lambda sums: sums["real_tokens"] * 100, peak_flops=1e9)
    meter.add(0, _metrics(2.0), timed=False)
    meter.add(1, _metrics(4.0, learning_rate=0.2))
    line = meter.line(2)
    names = (
        "step time elapsed_seconds loss mlm_loss mlm_accuracy nsp_loss nsp_accuracy learning_rate grad_norm param_norm "
        "sequences_seen real_tokens_seen sequences_per_second real_tokens_per_second padding_share mfu"
    )
    assert not set(names.split()) - set(line)
    assert (line["step"], line["loss"], line["mlm_loss"], line["nsp_loss"]) == (2, 3.0, 2.25, 0.75)
    assert (line["mlm_accuracy"], line["nsp_accuracy"]) == (0.3, 0.25)
    assert (line["sequences_seen"], line["real_tokens_seen"], line["padding_share"]) == (8, 60, 0.25)
    assert line["learning_rate"] == pytest.approx(0.2)
    ratio = line["real_tokens_per_second"] / line["sequences_per_second"]
    assert ratio == pytest.approx(30 / 4)  # of the timed step alone
    assert line["mfu"] == pytest.approx(line["real_tokens_per_second"] * 100 / 1e9)
    json.dumps(line, allow_nan=False)


def test_unknown_is_null() -> None:
    meter = Meter(Counters())
    meter.add(0, _metrics(nsp_count=0, nsp_correct=0), timed=False)
    line = meter.line(1)
    assert line["mfu"] is None
    assert line["sequences_per_second"] is None
    assert line["nsp_accuracy"] is None


def test_sums_do_not_depend_on_when_they_are_fetched_or_saved() -> None:
    losses = [0.1, 0.7, 1.3, 0.9, 2.2]
    whole, parts = Meter(Counters()), Meter(Counters())
    for step, loss in enumerate(losses):
        whole.add(step, _metrics(loss))
        parts.add(step, _metrics(loss))
        parts.fetch()
        parts = Meter(Counters.from_dict(json.loads(json.dumps(parts.counters.to_dict()))))
    a, b = whole.line(5), parts.line(5)
    for name in ("loss", "mlm_loss", "mlm_accuracy", "grad_norm", "sequences_seen", "padding_share"):
        assert a[name] == b[name]


def test_nothing_is_fetched_before_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []
    device_get = jax.device_get
    monkeypatch.setattr("bert_jax.train.metrics.jax.device_get", lambda x: fetched.append(len(x)) or device_get(x))
    meter = Meter(Counters())
    for step in range(20):
        meter.add(step, _metrics())
    assert fetched == []
    meter.line(20)
    assert fetched == [20]


def test_skipped_updates_are_counted_and_kept_out_of_the_means() -> None:
    meter = Meter(Counters())
    for step, bad in enumerate([0, 1, 1, 0, 1]):
        meter.add(step, _metrics(math.nan if bad else 2.0, nonfinite=bad, grad_norm=math.inf if bad else 1.0))
    line = meter.line(5)
    assert (line["loss"], line["grad_norm"], line["skipped"]) == (2.0, 1.0, 3)
    assert line["sequences_seen"] == 20
    assert meter.take_longest_row() == Row(2, 1, 2)
    assert meter.take_longest_row() is None
    meter.add(5, _metrics(math.nan, nonfinite=1))
    meter.fetch()
    assert meter.take_longest_row() == Row(2, 4, 5)  # a row may span intervals
    assert meter.line(6)["loss"] is None


def _lines(path: Path) -> list[int]:
    return [line["step"] for line in read_metrics(path)]


def test_lines_after_the_restored_step_go_and_torn_ones_too(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 4}\n{"step": 8}\n{"step": 8, "eval_mlm_loss": 1}\n{"step": 12}\n{"step": 1')
    truncate(path, 8)
    assert path.read_text() == '{"step": 4}\n{"step": 8}\n{"step": 8, "eval_mlm_loss": 1}\n'
    before = path.stat().st_mtime_ns
    truncate(path, 9)
    assert path.stat().st_mtime_ns == before
    truncate(path, 0)
    assert _lines(path) == []
    truncate(tmp_path / "missing", 3)


def test_a_disk_that_is_full_costs_lines_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(path, None, 0)
    writer.write({"step": 1})

    def full(*arguments: Any, **options: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", full)
        writer.write({"step": 2})
        writer.write({"step": 3})
    writer.write({"step": 4})
    writer.close()
    assert _lines(path) == [1, 4]
    assert [line for line in caplog.messages if "No space left" in line] == caplog.messages
    assert len(caplog.messages) == 1


def test_tensorboard_reads_the_event_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra `dev`")
    monkeypatch.setitem(sys.modules, "tensorboard.compat.notf", types.ModuleType("notf"))  # its own reader, not TF's
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "tensorboard"
    writer = MetricsWriter(tmp_path / "metrics.jsonl", folder, 0)
    for step in (4, 8, 12):
        writer.write({"step": step, "time": 0.0, "loss": step / 4, "mfu": None})
    writer.close()
    writer = MetricsWriter(tmp_path / "metrics.jsonl", folder, 8)  # killed; resumes at 8
    writer.write({"step": 12, "time": 0.0, "loss": 30.0, "eval_mlm_loss": 7.0})
    writer.close()
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [(item.step, item.value) for item in events.Scalars("train/loss")] == [(4, 1.0), (8, 2.0), (12, 30.0)]
    assert [(item.step, item.value) for item in events.Scalars("eval/mlm_loss")] == [(12, 7.0)]
    assert "train/mfu" not in events.Tags()["scalars"]
    assert _lines(tmp_path / "metrics.jsonl") == [4, 8, 12]
    writer = MetricsWriter(tmp_path / "metrics.jsonl", folder, 0)  # nothing was saved: from the beginning again
    writer.write({"step": 4, "time": 0.0, "loss": 99.0})
    writer.close()
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [(item.step, item.value) for item in events.Scalars("train/loss")] == [(4, 99.0)]
