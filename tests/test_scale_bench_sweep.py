"""A sweep measures every combination, draws those that ran, and refuses what cannot be varied."""

from __future__ import annotations

from pathlib import Path

import pytest

from bert_jax.errors import UsageError
from bert_jax.scale import bench_sweep


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would have been measured; the row says how many were before it, every third has failed."""
    calls: list[list[str]] = []

    def measure(arguments: list[str], environment: object = None) -> dict[str, object]:
        calls.append(list(arguments))
        if len(calls) % 3 == 0:
            return {"bench": arguments[0], "error": "RESOURCE_EXHAUSTED: 3 GB"}
        return {"bench": arguments[0], "real_tokens_per_second": 100.0 * len(calls), "mfu": None}

    monkeypatch.setattr(bench_sweep, "measure_apart", measure)
    return calls


def test_a_sweep_is_every_combination(asked: list[list[str]], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = bench_sweep.bench_sweep(config="mini", vary=["batch=8,16", "attention=einsum,xla"], out=f"{tmp_path}/s.png")
    assert [row["point"] for row in found["rows"]] == [
        {"batch": batch, "attention": engine} for batch in ("8", "16") for engine in ("einsum", "xla")
    ]
    assert asked[1][:2] == ["train", "mini"]
    assert asked[1][-4:] == ["--batch", "8", "--attention", "xla"]
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    figure = bench_sweep.draw(found["rows"], ["batch", "attention"])
    drawn = {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].lines}
    assert drawn == {"attention=einsum": [100.0], "attention=xla": [200.0, 400.0]}  # the third failed


@pytest.mark.parametrize("vary", [["batch"], ["batch="], ["bach=1,2"], []])
def test_what_cannot_be_varied_is_refused(asked: list[list[str]], vary: list[str]) -> None:
    with pytest.raises(UsageError, match=r"--vary .*: expected NAME=VALUE|nothing to vary"):
        bench_sweep.bench_sweep(vary=vary)
    assert asked == []
