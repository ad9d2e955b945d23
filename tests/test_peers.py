"""The peers' script: medians over rounds, ratios, and rows for peers that cannot run."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bert_jax.bert_config import BertConfig
from bert_jax.model.flops import training_flops
from bert_jax.scale.bench_train import full_rows

PEERS = Path(__file__).parent / "peers"
sys.path.append(str(PEERS))  # where they find each other, as when they are run


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"peers_{name}", PEERS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


peers, contract, finetune = load("peers"), load("contract"), load("finetune")
tasks = load("finetune_tasks")


@pytest.mark.parametrize("model", ["tiny", "mini", "base"])
def test_flops_and_shapes_are_counted_as_ours(model: str) -> None:
    preset = BertConfig.preset(model)
    layers, width, heads, feed_forward = contract.MODELS[model]
    assert (preset.num_hidden_layers, preset.hidden_size) == (layers, width)
    assert (preset.num_attention_heads, preset.intermediate_size) == (heads, feed_forward)
    rows = full_rows({"tokens": 128.0}, 128, 20)
    assert contract.train_flops(model, 128, 20) == training_flops(preset, rows)


def test_medians_over_rounds() -> None:
    rounds = [{"step_seconds_median": value, "model": "mini", "batch": 8} for value in (3.0, 1.0, 2.0)]
    merged = peers.median_record([*rounds, {"error": "killed"}])
    assert merged == {
        "step_seconds_median": 2.0,
        "model": "mini",
        "batch": 8,
        "rounds": 3,
        "step_seconds_median_of_rounds": [1.0, 2.0, 3.0],
    }
    speeds = [{"step_seconds_median": None, "megabytes_per_second_cold": value} for value in (1.0, 3.0, 4.0)]
    assert peers.median_record(speeds)["megabytes_per_second_cold"] == 3.0
    assert peers.median_record(speeds)["megabytes_per_second_cold_of_rounds"] == [1.0, 3.0, 4.0]
    assert peers.median_record([{"error": "no torch"}] * 2) == {"error": "no torch"}


def test_ratios_are_ours_over_theirs() -> None:
    rows = [
        {"workload": "w", "peer": "ours", "sequences_per_second": 30.0},
        {"workload": "w", "peer": "other", "sequences_per_second": 20.0},
        {"workload": "w", "peer": "broken", "error": "exit 1"},
    ]
    peers.add_ratios(rows)
    assert rows[1]["ours_over_this_sequences_per_second"] == 1.5
    assert "ours_over_this_sequences_per_second" not in rows[2]


def test_a_peer_that_fails_is_a_row() -> None:
    good = "import sys; print('noise', file=sys.stderr); print('{\"step_seconds_median\": 1.5}')"
    assert peers.run([sys.executable, "-c", good]) == {"step_seconds_median": 1.5}
    found = peers.run([sys.executable, "-c", "raise ImportError('no torch here')"])
    assert found == {"error": "exit 1: ImportError: no torch here"}


def test_sentences_are_drawn_evenly_one_per_line(tmp_path: Path) -> None:
    text = "<doc id=1>\nIt rained.  The cat sat. It ran!\n\nWas it 3.5 m? Yes.\n</doc>\n"
    (tmp_path / "text.txt").write_text(text)
    peers.write_sentences(tmp_path, 100, tmp_path / "out")
    assert (tmp_path / "out").read_text().splitlines()[:5] == [
        "It rained.",
        "The cat sat.",
        "It ran!",
        "Was it 3.5 m?",
        "Yes.",
    ]
    peers.write_sentences(tmp_path / "text.txt", 2, tmp_path / "out")
    assert (tmp_path / "out").read_text().splitlines() == ["It rained.", "It ran!"]


def test_a_batch_masks_distinct_inner_places() -> None:
    batch = contract.random_batch(4, 32, 5)
    places = batch["masked_lm_positions"]
    assert places.shape == (4, 5)
    assert (places > 0).all()
    assert (places < 31).all()
    assert all(len(set(row)) == 5 for row in places.tolist())


def test_means_are_compared_in_standard_errors_of_the_difference() -> None:
    row = finetune.compare([0.1, 0.2, 0.3], [0.5, 0.6, 0.7])  # deviations 0.1: the error is 0.1 times the root of 2/3
    assert row["difference"] == pytest.approx(-0.4)
    assert row["difference_in_standard_errors"] == pytest.approx(-0.4 / (0.1 * (2 / 3) ** 0.5))
    assert not row["within"]
    assert finetune.compare([0.1, 0.2, 0.3], [0.2, 0.3, 0.4])["within"]
    for theirs in ([0.0, 0.0], [0.1, 0.1]):  # no seed differs from another: no error to measure by
        assert finetune.compare([0.0, 0.0], theirs)["within"] is None
    text = finetune.table([{"task": "cola", "score": "matthews", **row, "baseline": 0.5, "baseline_is": "always 'a'"}])
    assert "10.0 20.0 30.0 | 20.00 | 10.00 | -4.90, NOT within 3 |" in text
    assert text.endswith("| cola, matthews | always 'a' | | 50.00 | | |")
    alone = finetune.summary([0.25, 0.75], "ours") | {"above_baseline": False}
    text = finetune.table([{"task": "semeval", "score": "macro_f1", **alone}])
    assert text.endswith("| ours | 25.0 75.0 | 50.00 | 35.36 | NOT above the baseline with every seed |")


def test_lines_are_drawn_once_and_for_all_in_their_order(tmp_path: Path) -> None:
    lines = [f"{index}\tsentence" for index in range(50)]
    (tmp_path / "all.tsv").write_text("\n".join(["label\ttext", *lines]) + "\n")
    found = [tasks.draw_lines(tmp_path / "all.tsv", True, 10, tmp_path / name) for name in ("a", "b")]
    assert found[0].read_text() == found[1].read_text()
    header, *drawn = found[0].read_text().splitlines()
    assert header == "label\ttext" and len(drawn) == 10 and drawn == sorted(drawn, key=lines.index)
    assert tasks.draw_lines(tmp_path / "all.tsv", True, None, tmp_path / "c") == tmp_path / "all.tsv"
    without = tasks.draw_lines(tmp_path / "all.tsv", False, 51, tmp_path / "d")
    assert without.read_text() == (tmp_path / "all.tsv").read_text()
