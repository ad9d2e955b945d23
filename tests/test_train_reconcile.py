"""What may differ when a run is started again, by the kind of the field."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from tiny_training import FINGERPRINTS, TinyTokenizer, open_or_create, tiny_config, two_phases

from bert_jax.config import Config
from bert_jax.errors import BertJaxError
from bert_jax.train.reconcile import reconcile
from bert_jax.train.run import Run, create_run, open_run

NUMERICS = {"dtype": "float32"}


def _with(config: Config, path: str, value: Any) -> Config:
    section, name = path.split(".")
    return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **{name: value})})


def _at(run: Run, step: int) -> Run:
    (run.checkpoints / str(step)).mkdir(parents=True)
    return run


def _history(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "history.jsonl").read_text().splitlines()][1:]


def test_free_fields_change_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = open_or_create(tmp_path, tiny_config())
    new = _with(_with(tiny_config(), "log.every", 3), "mesh.fsdp", 2)
    with caplog.at_level(logging.INFO, "bert_jax"):
        reconcile(run, new, FINGERPRINTS, NUMERICS)
    assert open_run(tmp_path).config == new
    assert _history(tmp_path) == []
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("model.hidden_size", 16, "model.hidden_size is 8 there and 16 here"),
        ("train.seed", 5, "train.seed is 0 there and 5 here"),
        ("train.batch", 16, "train.batch is 8 there and 16 here"),
        ("train.packing", 4, "train.packing is 1 there and 4 here"),
        ("train.objective", "mlm+nsp", r"train.objective is mlm there and mlm\+nsp here"),
        ("optimizer.name", "lamb", "optimizer.name is bert_adam there and lamb here"),
    ],
)
def test_identity_fields_are_another_run(tmp_path: Path, path: str, value: Any, said: str) -> None:
    run = open_or_create(tmp_path, tiny_config())
    before = (tmp_path / "run.json").read_text()
    with pytest.raises(BertJaxError, match=rf"is another run: {said}; give another --run \(with --init "):
        reconcile(run, _with(tiny_config(), path, value), FINGERPRINTS, NUMERICS, allow_change=True)
    assert (tmp_path / "run.json").read_text() == before


def test_another_store_or_tokenizer_is_another_run(tmp_path: Path) -> None:
    run = open_or_create(tmp_path, tiny_config())
    for name in ("store", "tokenizer"):
        with pytest.raises(BertJaxError, match=rf"fingerprint of {name} is {FINGERPRINTS[name][:12]} there and cccccc"):
            reconcile(run, tiny_config(), {**FINGERPRINTS, name: "c" * 64}, NUMERICS)
    with pytest.raises(BertJaxError, match="fingerprint of more is absent there"):
        reconcile(run, tiny_config(), {**FINGERPRINTS, "more": "c" * 64}, NUMERICS)


def test_schedule_fields_need_change_and_are_recorded(tmp_path: Path) -> None:
    run = _at(open_or_create(tmp_path, tiny_config()), 10)
    new = _with(_with(tiny_config(), "optimizer.learning_rate", 0.5), "train.steps", 40)
    with pytest.raises(
        BertJaxError,
        match=r"at step 10: train.steps is 24 there and 40 here, optimizer.learning_rate is 0.001 there .* --change",
    ):
        reconcile(run, new, FINGERPRINTS, NUMERICS)
    assert open_run(tmp_path).config == tiny_config()
    reconcile(run, new, FINGERPRINTS, NUMERICS, allow_change=True)
    assert open_run(tmp_path).config == new
    seen = [(line["event"], line["step"], line["field"], line["old"], line["new"]) for line in _history(tmp_path)]
    assert seen == [("schedule", 10, "train.steps", 24, 40), ("schedule", 10, "optimizer.learning_rate", 0.001, 0.5)]


def test_steps_behind_the_run_are_refused(tmp_path: Path) -> None:
    run = _at(open_or_create(tmp_path, tiny_config()), 10)
    with pytest.raises(BertJaxError, match="stands at step 10: phase 0 cannot end at 9"):
        reconcile(run, _with(tiny_config(), "train.steps", 9), FINGERPRINTS, NUMERICS, allow_change=True)
    reconcile(run, _with(tiny_config(), "train.steps", 10), FINGERPRINTS, NUMERICS, allow_change=True)


def test_numerics_pass_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = open_or_create(tmp_path, tiny_config())
    new = _with(tiny_config(), "train.attention", "xla")
    reconcile(run, new, FINGERPRINTS, {"dtype": "bfloat16"})
    (warning,) = caplog.messages
    assert "train.attention is auto there and xla here" in warning
    assert "dtype is float32 there and bfloat16 here" in warning
    assert [line["event"] for line in _history(tmp_path)] == ["numerics", "numerics"]
    reconcile(open_run(tmp_path), new, FINGERPRINTS, {"dtype": "bfloat16"})
    assert len(caplog.messages) == 1


def _later(config: Config, **changes: Any) -> Config:
    (phase,) = config.train.later_phases
    return _with(config, "train.later_phases", (dataclasses.replace(phase, **changes),))


def test_phases_ahead_are_schedule_phases_begun_are_identity(tmp_path: Path) -> None:
    run = _at(open_or_create(tmp_path, two_phases()), 12)  # the second phase begins at 12: it is still ahead
    with pytest.raises(BertJaxError, match="train.later_phases.0.batch is 8 there and 16 here; give --change"):
        reconcile(run, _later(two_phases(), batch=16), FINGERPRINTS, NUMERICS)
    reconcile(run, _later(two_phases(), batch=16), FINGERPRINTS, NUMERICS, allow_change=True)
    _at(run, 15)
    with pytest.raises(BertJaxError, match="is another run: train.later_phases.0.batch is 16 there and 8 here"):
        reconcile(run, two_phases(), FINGERPRINTS, NUMERICS, allow_change=True)
    with pytest.raises(BertJaxError, match="is another run: train.later_phases.0 is Phase"):
        reconcile(run, _with(two_phases(), "train.later_phases", ()), FINGERPRINTS, NUMERICS, allow_change=True)
    longer = _later(two_phases(), batch=16, steps=20)
    with pytest.raises(BertJaxError, match="ended at step 12, before step 15: its steps cannot become 13"):
        reconcile(run, _with(longer, "train.steps", 13), FINGERPRINTS, NUMERICS, allow_change=True)
    assert reconcile(run, longer, FINGERPRINTS, NUMERICS, allow_change=True).config.total_steps == 32


def test_the_room_of_packed_rows_is_numerics_once_their_phase_has_begun(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A row that needs more predictions than it has places for may turn up in any epoch: then more can be given."""
    run = _at(open_or_create(tmp_path, two_phases()), 12)
    with pytest.raises(BertJaxError, match="row_predictions is absent there and 9 here; give --change"):
        reconcile(run, _later(two_phases(), row_predictions=9), FINGERPRINTS, NUMERICS)
    _at(run, 15)
    reconcile(run, _later(two_phases(), row_predictions=9), FINGERPRINTS, NUMERICS)
    reconcile(run, _with(run.pretraining, "train.row_predictions", 5), FINGERPRINTS, NUMERICS)
    assert [line["field"] for line in _history(tmp_path)] == [
        "train.later_phases.0.row_predictions",
        "train.row_predictions",
    ]
    assert "goes on with other numerics" in caplog.text
    with pytest.raises(BertJaxError, match="is another run: train.later_phases.0.packing is 1 there and 2 here"):
        reconcile(run, _later(run.pretraining, packing=2), FINGERPRINTS, NUMERICS, allow_change=True)


def test_minutes_given_again_mean_the_calibrated_steps(tmp_path: Path) -> None:
    config = tiny_config()
    timed = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=None, minutes=5.0))
    fixed = _with(config, "train.steps", 321)
    create_run(tmp_path, fixed, TinyTokenizer(), FINGERPRINTS, NUMERICS, calibrated_minutes=5.0)
    assert reconcile(open_run(tmp_path), timed, FINGERPRINTS, NUMERICS).config.train.steps == 321
    with pytest.raises(BertJaxError, match=r"train.minutes is 9.0, .* has 321 steps already"):
        reconcile(open_run(tmp_path), _with(timed, "train.minutes", 9.0), FINGERPRINTS, NUMERICS)


def test_the_same_store_in_other_words_is_the_same_run(tmp_path: Path) -> None:
    made = _with(_with(tiny_config(), "data.sources", ("text",)), "data.vocab_size", 100)
    run = open_or_create(tmp_path, made)
    reconcile(run, _with(made, "data.sources", ("/else/where/text",)), FINGERPRINTS, NUMERICS)
    assert run.config.data.sources == ("text",)
    with pytest.raises(BertJaxError, match="data.vocab_size is 100 there and 200 here"):
        reconcile(run, _with(made, "data.vocab_size", 200), FINGERPRINTS, NUMERICS)
    with pytest.raises(BertJaxError, match=r"data.sources is .* there and .* here.*fingerprint of store"):
        reconcile(run, _with(made, "data.sources", ("other",)), {**FINGERPRINTS, "store": "other"}, NUMERICS)
    reconcile(run, _with(tiny_config(), "data.store", ("data/store-1",)), FINGERPRINTS, NUMERICS)
