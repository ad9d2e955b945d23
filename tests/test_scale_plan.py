"""Plans: by formula in full, compiled once for a tiny model; `ci` compiles every shipped configuration."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from small_models import small_config

import bert_jax
from bert_jax import cli
from bert_jax.config import Config, Mesh, Phase, Train
from bert_jax.config_files import load_config, shipped_configs
from bert_jax.errors import BertJaxError, UsageError
from bert_jax.scale import plan, plan_compile
from bert_jax.scale.bench_record import versions
from bert_jax.scale.plan import named_topology
from bert_jax.scale.plan_compile import Compiler
from bert_jax.scale.topologies import GIB, parse_topology

RECORD = Path(__file__).parent / "golden" / "plans.json"
SHIPPED = [name for name in shipped_configs() if not name.startswith("finetune_")]
KEYS = {
    *("fits", "hbm_bytes", "hbm_bytes_by_kind", "hbm_limit_bytes", "flops_per_step", "collective_bytes", "bound"),
    *("step_seconds_bound", "mfu_bound", "max_batch_per_chip", "days_bound", "cost_bound", "compile_seconds"),
    *("versions", "phases", "compiled", "topology", "chips"),
}


def needs_libtpu() -> None:
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed (extra plan): nothing can be compiled for a TPU")


def base(**train: Any) -> Config:
    config = load_config("bert_base_wiki")
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **train))


def test_gpus_are_planned_by_formula() -> None:
    found = bert_jax.plan("bert_base_wiki", topology="h200:8", price=3.0)
    assert found.keys() >= KEYS
    assert (found["compiled"], found["fits"], found["chips"], found["compile_seconds"]) == (False, True, 8, 0)
    first, second = found["phases"]
    assert (first["length"], second["length"], first["batch_per_chip"]) == (128, 512, 32)
    # BERT-base as published: 110.1 million parameters, in float32, with two moments
    assert first["hbm_bytes_by_kind"]["parameters"] == pytest.approx(4 * 110.1e6, rel=1e-3)
    assert first["hbm_bytes_by_kind"]["optimizer"] == 2 * first["hbm_bytes_by_kind"]["parameters"]
    assert first["hbm_bytes"] == sum(first["hbm_bytes_by_kind"].values())
    assert found["hbm_bytes"] == second["hbm_bytes"] > first["hbm_bytes"]
    # 6 operations per token for each parameter of the layers, and a little for attention and head
    assert first["flops_per_step"] == pytest.approx(6 * 85e6 * 128 * 256, rel=0.1)
    assert first["collective_bytes"] == {"all-reduce": {"data": pytest.approx(2 * 4 * 110.1e6 * 7 / 8, rel=1e-3)}}
    hours = (900_000 * first["step_seconds_bound"] + 100_000 * second["step_seconds_bound"]) / 3600
    assert found["days_bound"] == pytest.approx(hours / 24)
    assert found["cost_bound"] == pytest.approx(hours * 8 * 3.0)


def test_several_topologies_end_with_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "bert_base_wiki", "--topology", "h200:4,h200:8"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert [one["chips"] for one in found["plans"]] == [4, 8] and found["fits"]
    table = err.splitlines()[-5:]
    titles = ("topology", "phase", "chips", "sequences per chip", "sent per chip", "GiB", "at least", "bound by")
    assert re.split("  +", table[0]) == list(titles)
    assert [line.split()[:4] for line in table[1:]] == [
        ["h200:4", "0", "4", "64"],
        ["h200:4", "1", "4", "64"],
        ["h200:8", "0", "8", "32"],
        ["h200:8", "1", "8", "32"],
    ]
    with pytest.raises(UsageError, match="no chip 'h299'"):
        bert_jax.plan("bert_base_wiki", topology="h200:4,h299:8")


def test_bounds_follow_the_rates() -> None:
    one = bert_jax.plan(base(later_phases=()), topology="h200:1")["phases"][0]
    assert one["collective_bytes"] == {}
    assert one["bound_seconds"]["matrix"] == pytest.approx(one["flops_per_step"] / 989e12)
    assert one["step_seconds_bound"] == max(one["bound_seconds"].values())
    full = bert_jax.plan(base(later_phases=(), remat="full"), topology="h200:1")["phases"][0]
    assert full["bound_seconds"]["matrix"] == pytest.approx(4 / 3 * one["bound_seconds"]["matrix"])
    assert full["hbm_bytes"] < one["hbm_bytes"] and full["mfu_bound"] <= 0.75


def test_fsdp_shares_the_state() -> None:
    whole = bert_jax.plan(base(later_phases=()), topology="h100:8")["phases"][0]
    config = dataclasses.replace(base(later_phases=()), mesh=Mesh(data=1, fsdp=8))
    shared = bert_jax.plan(config, topology="h100:8")["phases"][0]
    kinds = (shared["hbm_bytes_by_kind"], whole["hbm_bytes_by_kind"])
    assert kinds[0]["parameters"] == pytest.approx(kinds[1]["parameters"] / 8, rel=0.01)
    assert set(shared["collective_bytes"]) == {"all-gather", "reduce-scatter"}


@pytest.mark.parametrize(
    ("scanned", "quick", "traffic", "source"),
    [
        (False, True, 9e9, "the compiler's count, as if nothing stayed on the chip"),
        (False, False, 2.0 * (3e8 + 5e8), "the count without --quick is too high"),
        (True, True, 2.0 * (3e8 + 5e8), "a scan's layers are not counted one by one"),
    ],
)
def test_the_compilers_count_is_taken_where_it_counts(scanned: bool, quick: bool, traffic: float, source: str) -> None:
    made = {"scanned": scanned, "quick": quick, "bytes_accessed": 9e9, "temporaries": 5e8, "hbm_bytes": 9e8}
    found, why = plan._traffic(made, int(1e8))
    assert found == traffic and source in why


def test_what_does_not_fit_says_what_to_change() -> None:
    config = base(batch=8 * 4096, later_phases=())
    found = bert_jax.plan(config, topology="l4:8")
    assert not found["fits"]
    notes = "\n".join(found["phases"][0]["notes"])
    over = (found["hbm_bytes"] - found["hbm_limit_bytes"]) / GIB
    assert f"{over:.2f} GiB too much" in notes
    for change in ("--train.remat full", "--train.accumulation", "sequences per chip instead of 4096"):
        assert change in notes
    fewer = found["max_batch_per_chip"]
    assert 0 < fewer < 4096
    assert bert_jax.plan(base(batch=8 * fewer, later_phases=()), topology="l4:8")["fits"]
    accumulated = next(note for note in found["phases"][0]["notes"] if note.startswith("--train.accumulation"))
    parts = int(accumulated.split()[1])
    assert bert_jax.plan(base(batch=8 * 4096, later_phases=(), accumulation=parts), topology="l4:8")["fits"]


def test_what_the_configuration_forbids_is_said() -> None:
    notes = "\n".join(bert_jax.plan(base(later_phases=(), predictions=40), topology="h200:8")["phases"][0]["notes"])
    assert "attention_probs_dropout_prob 0.1 allows the einsum engine alone" in notes
    assert "predictions 40: sequences of 128 never have more than 19" in notes
    few = bert_jax.plan(base(batch=8, later_phases=()), topology="h200:8")["phases"][0]
    assert few["bound"] != "matrix"
    assert any("1 sequences per chip: bound by" in note and "by the matrix units" in note for note in few["notes"])


def test_the_command_prints_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "bert_base_wiki", "--topology", "a100:4", "--train.batch", "64", "--max-batch"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["schema"], found["phases"][0]["batch"]) == (1, 64)
    assert found["phases"][0]["max_batch_per_chip"] % 8 == 0
    assert "phase 1: 256 × 512" in err and "the whole run" in err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["bert_base_wiki", "--topology", "v9:4"], 2, "no chip 'v9' is known"),
        (["bert_base_wiki", "--topology", "h200:8", "--price", "-1"], 2, "--price -1.0: expected at least 0"),
        (["bert_base_wiki", "--topology", "h200:8", "--train.batchh", "1"], 2, "train.batch"),
        (["bert_base_wiki", "--topology", "h200:8", "--train.batch", "7"], 1, "multiple of 8"),
        (["bert_base_wiki", "--topology", "h200:8", "--mesh.fsdp", "3"], 1, "does not fit 8 devices"),
        (["bert_base_wiki", "--topology", "h200:8", "--train.length", "1024"], 1, "512 positions"),
        (["finetune_sst2", "--topology", "h200:8"], 1, "for finetune"),
    ],
)
def test_mistakes(arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", *arguments]) == code
    out, err = capsys.readouterr()
    assert said in err and "Traceback" not in err and not out


def test_without_the_compiler_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_compile.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BertJaxError, match=r"pip install 'bert-jax\[plan\]'"):
        bert_jax.plan("bert_base_wiki")


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_configuration_names_a_topology(name: str) -> None:
    assert parse_topology(named_topology(name)).chip.kind == "tpu"


def test_no_topology_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text("from bert_jax import Config\nconfig = Config()\n")
    with pytest.raises(UsageError, match="give --topology"):
        bert_jax.plan(str(path))


def tiny(**train: Any) -> Config:
    return Config(
        model=small_config(), train=Train(**{"length": 16, "batch": 8, "predictions": 3, "steps": 10} | train)
    )


def test_what_does_not_divide_is_said_before_anything_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    needs_libtpu()
    monkeypatch.setattr(plan, "Compiler", None)
    config = tiny(later_phases=(Phase(length=16, batch=6, steps=1, predictions=3),))
    with pytest.raises(BertJaxError, match="batch of phase 1 is 6: expected a multiple of 4"):
        bert_jax.plan(config, topology="v5e:2x2", quick=True)
    with pytest.raises(BertJaxError, match="phase 0 has sequences of 128 tokens: the model has 64 positions"):
        bert_jax.plan(tiny(length=128), topology="v5e:2x2", quick=True)


@pytest.mark.ci  # two steps of one layer, each by a compiler of its own
def test_tiny_steps_compile_and_hold_the_kernel_that_was_promised() -> None:
    needs_libtpu()
    long, short = 256, 64  # at heads of 64: from 4 · 64 on the kernel
    model = dataclasses.replace(
        small_config(),
        hidden_size=128,
        num_attention_heads=2,
        num_hidden_layers=1,
        max_position_embeddings=long,
        attention_probs_dropout_prob=0.0,
    )
    phase = Phase(length=long, batch=8, steps=1, predictions=3, packing=2)
    config = Config(model=model, train=dataclasses.replace(tiny(length=short).train, later_phases=(phase,)))
    found = bert_jax.plan(config, topology="v5e:2x2", quick=True)
    assert found["compiled"] and found["fits"] and found["compile_seconds"] > 0
    first, second = found["phases"]
    for one in (first, second):
        assert (one["dtype"], one["mesh"]) == ("bfloat16", {"data": 4, "fsdp": 1, "tensor": 1})
        assert set(one["collective_bytes"]["all-reduce"]) == {"data"}
        assert one["hbm_bytes_by_kind"]["program"] > 0
    assert (first["attention_engine"], first["kernels"]) == ("einsum", 0)
    assert (second["attention_engine"], second["kernels"]) == ("splash", 2)  # forward and backward
    assert "256 tokens on a TPU" in second["attention_reason"]


@pytest.mark.ci
def test_a_shape_the_compiler_aborts_for_is_one_line() -> None:
    needs_libtpu()
    with pytest.raises(BertJaxError, match="v5e:16x32"):
        bert_jax.plan(tiny(batch=512), topology="v5e:16x32", quick=True)


class SparingCompiler(Compiler):
    """Compiles what is not on record, and of each configuration always the phase that takes most memory.

    The record is by program: the very same one, given to the same version of the compiler, has the same figures.
    """

    def __init__(self, *arguments: Any, known: dict[str, Any], made: dict[str, Any]) -> None:
        super().__init__(*arguments)
        self.known, self.made = known, made

    def compile(
        self, phase: int, batch: int, changes: Mapping[str, Any] | None = None, quick: bool = False
    ) -> dict[str, Any]:
        assert quick and not changes
        program = f"{self.digest(phase, batch)}, libtpu {versions()['libtpu']}"
        known = self.known.get(str(phase))
        if known is not None and known["program"] != program:
            known = None
        most = max((one["figures"]["hbm_bytes"] for one in self.known.values()), default=0)
        if known is not None and known["figures"]["hbm_bytes"] < most:
            found = known["figures"] | {"compile_seconds": 0.0}
        else:
            found = super().compile(phase, batch, quick=True)
        steady = {name: value for name, value in found.items() if not name.startswith("compile_")}
        assert known is None or steady["hbm_bytes"] == pytest.approx(known["figures"]["hbm_bytes"], rel=1e-3)
        self.made[str(phase)] = {"program": program, "figures": steady}
        return found


@pytest.mark.ci  # half a minute each, a minute where a program is not on record: at the compiler's least effort
@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_configuration_fits_its_topology(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a change to the step all phases are compiled; BERT_JAX_REFRESH=1 records them, and then this is quick."""
    needs_libtpu()
    refresh = bool(os.environ.get("BERT_JAX_REFRESH"))
    record = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
    made: dict[str, Any] = {}
    known = {} if refresh else record.get(name, {})
    monkeypatch.setattr(plan, "Compiler", partial(SparingCompiler, known=known, made=made))
    found = bert_jax.plan(name, quick=True)
    assert found["fits"], found["phases"]
    for phase in found["phases"]:
        assert phase["hbm_bytes"] < phase["hbm_limit_bytes"]
        kinds = set(phase["collective_bytes"])
        assert not found["chips"] > 1 or "all-reduce" in kinds
        assert "all-gather" not in kinds, "parameters are gathered under pure data parallelism"
    assert made.keys() == {str(phase["phase"]) for phase in found["phases"]}
    if refresh:
        RECORD.write_text(json.dumps(record | {name: made}, indent=1, sort_keys=True) + "\n")
