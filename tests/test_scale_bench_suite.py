"""The suite is six named workloads, each in its own process; what fails is a row."""

from __future__ import annotations

import pytest

from bert_jax.errors import UsageError
from bert_jax.scale import bench_suite
from bert_jax.scale.bench_suite import SUITE


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would have been measured; the row says how many were before it, every third has failed."""
    calls: list[list[str]] = []

    def measure(arguments: list[str], environment: object = None) -> dict[str, object]:
        calls.append(list(arguments))
        if len(calls) % 3 == 0:
            return {"bench": arguments[0], "error": "RESOURCE_EXHAUSTED: 3 GB"}
        return {"bench": arguments[0], "real_tokens_per_second": 100.0 * len(calls), "mfu": None}

    monkeypatch.setattr(bench_suite, "measure_apart", measure)
    monkeypatch.setattr(bench_suite, "_platform", lambda: "cpu")
    return calls


def test_the_suite_runs_all_six_and_goes_on_after_a_failure(asked: list[list[str]]) -> None:
    found = bench_suite.bench_suite()
    assert [row["name"] for row in found["rows"]] == list(SUITE)
    assert list(SUITE) == ["base_128", "base_512_packed", "large_512_packed", "embed_1x32", "embed_256", "prepare"]
    assert [row.get("error") is not None for row in found["rows"]] == [False, False, True] * 2
    assert asked[0][:2] == ["train", "base"]
    assert asked[0][asked[0].index("--batch") + 1] == "8"
    assert found["suite"] == bench_suite.VERSION


def test_an_accelerator_gets_larger_batches(asked: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_suite, "_platform", lambda: "tpu")
    bench_suite.bench_suite(only=["base_128"])
    assert asked == [[*SUITE["base_128"].arguments, "--batch", "256"]]


def test_a_workload_of_another_name_is_refused(asked: list[list[str]]) -> None:
    with pytest.raises(UsageError, match="no workload base: expected some of base_128, base_512_packed"):
        bench_suite.bench_suite(only=["base"])
    assert asked == []
