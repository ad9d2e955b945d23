"""Training steps compiled for a TPU: what they move through its memory, and the work they do for a real token."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_data_packing import half_empty, share
from tpu_programs import STEPS, arrays_over_pairs, configuration

from bert_jax.data.packing import plan_rows
from bert_jax.scale.bench_record import versions
from bert_jax.scale.plan_compile import Compiler
from bert_jax.scale.topologies import parse_topology

GOLDEN = Path(__file__).parent / "golden" / "hbm_bytes.json"
LAYERS = 2
CUT = ("base_128", "large_512", "large_512_packed")
SLACK = 0.05


def needs_libtpu() -> None:
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed (extra plan): nothing can be compiled for a TPU")


def compiled(*arguments: str) -> dict[str, dict[str, float]]:
    """What `tpu_programs.py` prints."""
    needs_libtpu()
    script = Path(__file__).with_name("tpu_programs.py")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, str(script), "--quick", *arguments]
    return json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout)


@pytest.fixture(scope="module")
def cut() -> dict[str, dict[str, float]]:
    """Steps of two layers, at their full widths."""
    return compiled("--layers", str(LAYERS), *CUT)


def check_hbm_bytes(found: dict[str, dict[str, float]], kind: str, command: str) -> None:
    """Compare with what was recorded under `kind`; written anew, with the compiler's version, by BERT_JAX_REFRESH=1."""
    accessed = {name: int(figures["accessed"]) for name, figures in found.items()}
    recorded = json.loads(GOLDEN.read_text()) if GOLDEN.is_file() else {}
    libtpu = versions()["libtpu"]
    if os.environ.get("BERT_JAX_REFRESH"):
        recorded[kind] = {"libtpu": libtpu, "bytes": accessed}
        GOLDEN.write_text(json.dumps(recorded, indent=2) + "\n")
    if recorded[kind]["libtpu"] != libtpu:
        pytest.skip(f"{GOLDEN.name} is of libtpu {recorded[kind]['libtpu']}, here is {libtpu}, another layout")
    assert recorded[kind]["bytes"].keys() == accessed.keys()
    for name, before in recorded[kind]["bytes"].items():
        change = accessed[name] / before - 1
        what = "more: where memory binds, steps are slower by as much" if change > 0 else "less: record it to hold it"
        assert abs(change) <= SLACK, (
            f"a step of {name} reads and writes {accessed[name] / 1e9:.2f} GB of device memory by XLA's count, "
            f"{before / 1e9:.2f} GB when it was recorded ({change:+.1%}, allowed {SLACK:.0%}). That is {what}. "
            f"If it is intended: BERT_JAX_REFRESH=1 {command}"
        )


@pytest.mark.ci  # three steps of two layers
def test_a_step_moves_no_more_bytes_through_hbm_than_recorded(cut: dict[str, dict[str, float]]) -> None:
    check_hbm_bytes(cut, f"{LAYERS} layers", "python -m pytest -m ci tests/test_scale_plan_compile.py -k hbm")


@pytest.mark.full  # all layers unrolled: half an hour
def test_whole_models_move_no_more_bytes_through_hbm_than_recorded() -> None:
    check_hbm_bytes(compiled(), "all layers", "python -m pytest -m full tests/test_scale_plan_compile.py -k hbm")


@pytest.mark.ci
def test_packed_rows_do_at_most_three_fifths_of_the_work_for_a_real_token(cut: dict[str, dict[str, float]]) -> None:
    """BERT-large at 512, as XLA counts its program; lengths like those of the MLPerf set fill half of a row alone."""
    lengths = half_empty(20_000)
    packing = STEPS["large_512_packed"].train["packing"]
    shares = {
        name: share(lengths, plan_rows(lengths, 512, most, ()), 512) for name, most in (("", 1), ("_packed", packing))
    }
    assert 0.45 < shares[""] < 0.5
    work = {kind: cut[f"large_512{kind}"]["flops"] / real for kind, real in shares.items()}
    assert work["_packed"] <= 0.6 * work[""]
    model = configuration("large_512", LAYERS).model
    assert cut["large_512"]["flops"] > 0.9 * 6 * 8 * 512 * LAYERS * 12 * model.hidden_size**2  # so it does count


@pytest.mark.ci
def test_attention_by_kernels_adds_no_array_over_pairs_of_tokens(cut: dict[str, dict[str, float]]) -> None:
    for name in ("large_512", "large_512_packed"):
        assert (cut[name]["kernels"], cut[name]["over_pairs"]) == (2 * LAYERS, 0)  # forward and backward
    assert cut["base_128"]["kernels"] == 0
    assert cut["base_128"]["over_pairs"] > 0  # by einsum: so the count sees them


def test_arrays_over_pairs_are_those_in_device_memory() -> None:
    text = """
%fused_computation.1 (p: f32[8,16,512]) -> f32[8,16,512,512] {
  %inside = f32[8,16,512,512]{3,2,1,0} broadcast(%p)
}

ENTRY %main (q: f32[8,16,512]) -> (f32[8], f32[512,512]) {
  %q = f32[8,16,512]{2,1,0} parameter(0)
  %one = f32[8,16,512,512]{3,2,1,0:T(8,128)} fusion(%q), kind=kLoop, calls=%fused_computation.1
  %on_the_chip = bf16[2,512,512]{2,1,0:T(8,128)(2,1)S(1)} copy(%one)
  %rows = f32[8,5120,512]{2,1,0} custom-call(%one), metadata={op_name="f32[512,512]"}
  ROOT %two = (f32[8]{0}, f32[512,512]{1,0}) tuple(%q, %one)
}
"""
    assert arrays_over_pairs(text, 512) == 2
    assert arrays_over_pairs(text, 16) == 0


@pytest.mark.ci  # seconds: lowered, not compiled
def test_equal_steps_have_one_digest() -> None:
    needs_libtpu()
    where = parse_topology("v5e:1x1")
    config = configuration("base_128", 1)
    found: list[Any] = []
    for _ in range(2):
        with Compiler(where, config, 30522) as compiler:
            found.append([compiler.digest(0, batch) for batch in (64, 32)])
    assert found[0] == found[1]
    assert found[0][0] != found[0][1]
