"""Devices, what they compute, and whether a model or a configuration fits them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import pytest
from small_models import small_run

from bert_jax.errors import BertJaxError
from bert_jax.files import read_json, write_json
from bert_jax.scale import doctor_devices
from bert_jax.scale.doctor_devices import devices, exchange, step, subject


def test_the_devices_are_named() -> None:
    (found,) = devices()
    assert found.status == "good" and found.found.startswith("8 × cpu (cpu); computes in float32"), found


def test_an_accelerator_that_jax_does_not_see_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(doctor_devices, "_GPU_DEVICES", (f"{tmp_path}/nvidia[0-9]*",))
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    (found,) = devices()
    assert found.status == "failing" and f"yet an NVIDIA GPU ({tmp_path}/nvidia0) is here" in found.found
    assert found.fix == 'pip install "bert-jax[cuda]"'
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # wanted so
    (found,) = devices()
    assert found.status == "note" and "unset JAX_PLATFORMS" in found.fix


def test_devices_that_do_not_start_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[Any]:
        raise RuntimeError("Unable to initialize backend 'tpu':\n  the TPU is already in use by process 7")

    monkeypatch.setattr(jax, "devices", broken)
    (found,) = devices()
    assert found.status == "failing" and "already in use by process 7" in found.found


def test_all_devices_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = exchange()
    assert found.status == "good" and found.found.startswith("8 devices add up 4 × 262,144 bytes at ")
    assert not list(exchange(jax.devices()[:1]))  # nobody to exchange with


def test_a_wrong_sum_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax.lax, "psum", lambda part, axis: jax.lax.pmax(part, axis))
    (found,) = exchange()
    assert found.status == "failing" and "8 devices add up to other than 28" in found.found


@pytest.mark.ci  # compiles a step on eight devices
def test_a_step_is_run() -> None:
    ran, matrices = step()
    assert ran.status == "good" and "a step of BERT-tiny on all devices: compiled in" in ran.found
    assert matrices.status == "good" and "no peak is published for cpu" in matrices.found


def test_what_stops_a_step_is_said_and_a_slow_device_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: Any) -> dict[str, Any]:
        raise RuntimeError("RESOURCE_EXHAUSTED: out\nof memory")

    monkeypatch.setattr(doctor_devices, "bench_train", broken)
    (found,) = step()
    assert found.status == "failing" and "ends with RuntimeError: RESOURCE_EXHAUSTED: out of memory" in found.found
    figures = {"compile_seconds": 1.0, "step_seconds_median": 0.1, "matrix_flops_per_second": 1e12, "dtype": "bfloat16"}
    monkeypatch.setattr(doctor_devices, "bench_train", lambda **_: figures)
    monkeypatch.setattr(doctor_devices, "peak_flops", lambda kind, count: 4e12)
    assert [finding.status for finding in step()] == ["good", "note"]
    monkeypatch.setattr(doctor_devices, "peak_flops", lambda kind, count: 1.5e12)
    assert [finding.found for finding in step()][1] == "1.00 TFLOP/s of bfloat16 matrices: 67% of its peak"


def test_a_models_vocabulary_and_casing(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", {1: None}).path
    vocabulary, casing = subject(str(run), None)
    assert (vocabulary.status, casing.status) == ("good", "good")
    assert vocabulary.found == "29 entries for a table of 29" and casing.found.startswith("uncased")
    settings = run / "tokenizer" / "tokenizer_config.json"
    write_json(settings, read_json(settings) | {"do_lower_case": False})
    found = list(subject(str(run), None))[-1]
    assert found.status == "failing" and "capitals" in found.found + found.fix


def test_lower_cased_text_for_entries_with_capitals_is_noted(tmp_path: Path) -> None:
    class Tokenizer:
        kind, cased, vocab_size = "wordpiece", False, 4

        def pieces(self, ids: range) -> list[str]:
            return ["[PAD]", "Paris", "the", "Rome"]

    _, casing = doctor_devices._vocabulary(Tokenizer(), 5)  # type: ignore[arg-type]
    assert casing.status == "note" and "2 entries with capitals are never met" in casing.found
    (found,) = doctor_devices._vocabulary(Tokenizer(), 3)  # type: ignore[arg-type]
    assert found.status == "failing" and "4 entries, and the table has 3 rows" in found.found


def test_a_configuration_that_fits_and_how_long_it_takes_to_stop() -> None:
    mesh, stop = subject("bert_base_wiki", 100e6)
    assert mesh.found == "the configuration fits these devices as data 8, fsdp 1, tensor 1"
    assert stop.status == "good" and "at most 23 s: 10 s, and 1.32 GB at 100 MB/s" in stop.found
    *_, stop = subject("bert_base_wiki", 20e6)
    assert stop.status == "note" and "30 s" in stop.fix
    (mesh,) = subject("finetune_sst2", None)
    assert mesh.status == "good"


def test_a_configuration_that_does_not_fit_fails(tmp_path: Path) -> None:
    config = tmp_path / "odd.py"
    config.write_text(
        "from bert_jax import BertConfig, Config, Data, Mesh, Train\n"
        "config = Config(model=BertConfig.preset('tiny'), data=Data(sources=('stdlib',)), mesh=Mesh(3, 1, 1), "
        "train=Train(steps=1))\n"
    )
    (found,) = subject(str(config), None)
    assert found.status == "failing" and "does not fit 8 devices" in found.found
    (found,) = subject(str(tmp_path / "nothing"), None)
    assert found.status == "failing" and "nothing" in found.found
    with pytest.raises(BertJaxError):  # the same that the finding says
        doctor_devices.open_model(str(tmp_path / "nothing"))
