"""Damaged data through the commands that a user calls: named, never trained on, and what is set aside stays so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_data_records_index import flipped, places_of
from test_data_watch import altered, write_beside_and_rename, write_in_place
from test_pretraining import TINY, config, run, text  # noqa: F401 - fixtures

import bert_jax
from bert_jax import BertJaxError, Config, Data, cli
from bert_jax.data import watch
from bert_jax.files import read_json
from bert_jax.train.run import open_run

CONFIG = "from bert_jax import Config\n\nconfig = Config()\n"


class Records:
    """A file of google's, to be damaged, and the command line that trains on it."""

    def __init__(self, data_dir: Path, folder: Path):
        golden = data_dir / "golden" / "pretraining_data" / "sample_text_uncased.tfrecord"
        flags = read_json(golden.with_name("sample_text_uncased.config.json"))
        self.official = golden.read_bytes()
        self.places = places_of(self.official)
        self.path = folder / "part-0.tfrecord"
        self.folder = folder
        (folder / "tokenizer").mkdir()
        shutil.copy(data_dir / "vocab" / "bert_base_uncased.txt", folder / "tokenizer" / "vocab.txt")
        (folder / "config.py").write_text(CONFIG)
        length, predictions = str(flags["max_seq_length"]), str(flags["max_predictions_per_seq"])
        self.settings = [*TINY, "--data.records", str(self.path), "--data.tokenizer", str(folder / "tokenizer")]
        self.settings += ["--model.max-position-embeddings", length, "--train.length", length]
        self.settings += ["--train.predictions", predictions, "--train.steps", "4"]

    def pretrain(self, *more: str) -> int:
        command = ["pretrain", str(self.folder / "config.py"), "--run", str(self.folder / "run")]
        return cli.main([*command, *self.settings, *more])


@pytest.fixture
def records(data_dir: Path, tmp_path: Path) -> Records:
    return Records(data_dir, tmp_path)


@pytest.mark.ci
def test_a_damaged_record_stops_or_is_set_aside_for_good(
    records: Records, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    seventh = records.places[7].begin
    records.path.write_bytes(flipped(records.official, seventh))
    assert records.pretrain() == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert f"{records.path} is damaged: record 7 at byte {seventh} has a length that does not match its check" in line
    assert not (records.folder / "run").exists()

    allowed = ("--data.max-bad-records", "2")
    assert records.pretrain(*allowed) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["bad_records"] == 1
    begun = open_run(records.folder / "run")
    (place,) = begun.facts["set_aside"]
    assert (place["name"], place["record"], place["byte"]) == ("part-0.tfrecord", 7, seventh)
    history = [json.loads(line) for line in begun.history.read_text().splitlines()]
    assert [line["records"] for line in history if line["event"] == "set_aside"] == [[place]]
    lines = [json.loads(line) for line in begun.metrics.read_text().splitlines()]
    assert {line["bad_records"] for line in lines if "loss" in line} == {1}

    # Going on: with the same set though the file was mended, and whatever the limit says.
    longer = ("--train.steps", "5", "--change")
    records.path.write_bytes(records.official)
    assert records.pretrain(*longer) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["bad_records"] == 1
    records.path.write_bytes(flipped(records.official, records.places[9].begin + 99))
    assert records.pretrain(*longer, *allowed) == 1
    assert "part-0.tfrecord was damaged since the run began: record 9 at byte" in capsys.readouterr().err
    records.path.write_bytes(records.official[: records.places[-1].begin])
    assert records.pretrain(*longer, *allowed) == 1
    assert "part-0.tfrecord is not the file that the run began with, whose record 7" in capsys.readouterr().err


@pytest.mark.ci
def test_more_damage_than_allowed_stops_and_stores_have_none_to_allow(
    records: Records,
    run: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = records.official
    for record in (3, 5, 8):
        data = flipped(data, records.places[record].begin + 60)
    records.path.write_bytes(data)
    assert records.pretrain("--data.max-bad-records", "2") == 1
    assert "record 8 at byte" in (line := capsys.readouterr().err.splitlines()[-1]) and "max_bad_records 2" in line
    assert records.pretrain("--data.max-bad-records", "-1") == 2
    assert "max_bad_records is -1: expected at least 0" in capsys.readouterr().err
    store = next((run / "data").glob("store-*"))
    with pytest.raises(BertJaxError, match="data.max_bad_records is for data.records"):
        bert_jax.pretrain(
            Config(data=Data(store=(str(store),), max_bad_records=1)), run=str(records.folder / "r"), overrides=TINY
        )


# --- a store under a running training ---------------------------------------------------------------------------------


@pytest.fixture
def store(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    monkeypatch.setattr(watch, "_ROUND_SECONDS", 0.0)
    monkeypatch.setattr("bert_jax.data.drivers._PREFETCH_TOKENS", 1)
    monkeypatch.setattr("bert_jax.data.drivers._CHUNK_TOKENS", {"thread": 1, "tf": 1})
    return Path(shutil.copytree(next((run / "data").glob("store-*")), tmp_path / "store"))


def pretrain_on(store: Path, change: Any, folder: Path) -> dict[str, Any]:
    """Train for long enough, with the store changed by `change(path of its tokens)` at step 2."""
    tokens = store / "shards" / "00000" / "train.tokens.npy"

    def at_step_2(line: dict[str, Any]) -> None:
        if line["step"] == 2 and "loss" in line:
            change(tokens, altered(tokens.read_bytes()))

    settings = [*TINY, "--train.steps", "20", "--evaluate.every", "20"]
    data = Data(store=(str(store),))
    return bert_jax.pretrain(Config(data=data), run=str(folder), overrides=settings, on_metrics=at_step_2)


def test_a_store_altered_under_a_running_training_stops_it(store: Path, tmp_path: Path) -> None:
    with pytest.raises(
        BertJaxError, match=r"store/shards/00000/train.tokens.npy was altered while its store is in use"
    ):
        pretrain_on(store, write_in_place, tmp_path / "run")
    before = sorted((tmp_path / "run" / "checkpoints").iterdir())
    with pytest.raises(BertJaxError, match=r"train.tokens.npy was altered: its checksum is not the manifest's"):
        pretrain_on(store, write_in_place, tmp_path / "run")
    assert sorted((tmp_path / "run" / "checkpoints").iterdir()) == before


@pytest.mark.ci
def test_a_store_replaced_under_a_running_training_does_not_change_it(store: Path, tmp_path: Path) -> None:
    def losses(folder: Path) -> list[float]:
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [line["loss"] for line in lines if "loss" in line]

    whole = tmp_path / "whole"
    pretrain_on(store, lambda path, data: None, whole)
    assert pretrain_on(store, write_beside_and_rename, tmp_path / "run")["step"] == 20
    assert losses(tmp_path / "run") == losses(whole)
    with pytest.raises(BertJaxError, match=r"train.tokens.npy was altered: its checksum is not the manifest's"):
        pretrain_on(store, write_in_place, tmp_path / "run")
