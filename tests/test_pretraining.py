"""The whole life through the functions and commands a user calls: text → vocabulary → store → run → answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import bert_jax
from bert_jax import BertJaxError, Config, Data, cli
from bert_jax.config_files import to_dict
from bert_jax.files import read_json

TINY = [
    *("--model.hidden-size", "16", "--model.num-hidden-layers", "1", "--model.num-attention-heads", "2"),
    *("--model.intermediate-size", "32", "--model.max-position-embeddings", "32", "--model.vocab-size", "None"),
    *("--train.length", "32", "--train.batch", "8", "--train.predictions", "5", "--train.steps", "6"),
    *("--checkpoint.every", "2", "--log.every", "1", "--evaluate.sequences", "16", "--evaluate.every", "3"),
    *("--log.no-tensorboard", "--data.driver", "thread"),
]
SUBJECTS = ("The river", "A small boat", "The old bridge", "Our teacher", "The engine", "This letter", "A quiet street")
VERBS = ("crosses", "follows", "carries", "reaches", "leaves", "opens", "repeats")
OBJECTS = ("the town", "a field of grass", "the northern gate", "an answer", "the morning train", "many stones")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty documents of five sentences each."""
    path = tmp_path_factory.mktemp("text") / "corpus.txt"
    documents = []
    for document in range(60):
        lines = []
        for line in range(5):
            number = document * 31 + line * 7
            subject, verb = SUBJECTS[number % 7], VERBS[(number // 7 + document) % 7]
            lines.append(f"{subject} {verb} {OBJECTS[(number // 3) % 6]}.")
        documents.append("\n".join(lines))
    path.write_text("\n\n".join(documents))
    return path


@pytest.fixture(scope="module")
def config(text: Path) -> Config:
    return Config(data=Data(sources=(str(text),), vocab_size=120, eval_fraction=0.2))


@pytest.fixture(scope="module")
def run(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of six steps."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    result = bert_jax.pretrain(config, run=str(path), overrides=TINY)
    assert (result["step"], result["total_steps"], result["stopped"]) == (6, 6, False)
    return path


def test_the_run_holds_what_it_should(run: Path) -> None:
    described = read_json(run / "run.json")
    assert described["config"]["model"]["vocab_size"] == 120
    assert set(described["fingerprints"]) == {"tokenizer", "store"}
    assert (run / "tokenizer" / "vocab.txt").is_file()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert sorted({line["step"] for line in lines}) == [1, 2, 3, 4, 5, 6]
    evaluated = [line["step"] for line in lines if "eval_mlm_loss" in line]
    assert evaluated == [3, 6]
    wanted = {"loss", "mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy", "learning_rate", "grad_norm", "mfu"}
    assert wanted <= set(lines[0])


def test_started_again_it_is_finished(run: Path, config: Config) -> None:
    before = (run / "metrics.jsonl").read_bytes()
    assert bert_jax.pretrain(config, run=str(run), overrides=TINY)["step"] == 6
    assert (run / "metrics.jsonl").read_bytes() == before


def test_another_identity_is_refused_by_name(run: Path, config: Config) -> None:
    with pytest.raises(BertJaxError, match=r"train\.seed is 0 there and 1 here.*another --run"):
        bert_jax.pretrain(config, run=str(run), overrides=[*TINY, "--train.seed", "1"])
    with pytest.raises(BertJaxError, match=r"train\.steps is 6 there and 8 here.*--change"):
        bert_jax.pretrain(config, run=str(run), overrides=[*TINY, "--train.steps", "8"])


def test_evaluate_and_predict_work_where_the_run_was_moved(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(run, moved)
    scores = bert_jax.evaluate(str(moved), sequences=16)
    assert scores["step"] == 6
    assert scores["sequences"] == 16
    assert 0 < scores["chance_mlm_accuracy"] < 1
    again = bert_jax.evaluate(str(moved), store=str(next((run / "data").glob("store-*"))), sequences=16)
    assert again["mlm_loss"] == scores["mlm_loss"]
    answer = bert_jax.load(moved).fill_mask("The river [MASK] the town.", top_k=3)
    assert len(answer["masks"][0]["candidates"]) == 3
    follows = bert_jax.load(f"{moved}@4").next_sentence(("The river opens.", "A small boat leaves."))
    assert 0 <= follows["probability"] <= 1


def test_the_command_line_says_the_same(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(run), "--sequences", "16"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["schema"] == 1
    assert cli.main(["predict", "fill-mask", str(run), "The [MASK].", "A [MASK] boat.", "--top-k", "2"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["text"] for answer in answers] == ["The [MASK].", "A [MASK] boat."]
    assert cli.main(["show", str(run), "--step", "5", "--count", "2", "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--data.sources"], "names none: name exactly one of data.store"),
        (["--train.whole-words", "--data.vocab-kind", "words", "--train.steps", "None"], "exactly one of train.steps"),
        (["--model.vocab-size", "64"], "vocab_size is 64 and the tokenizer has 120 entries"),
        (["--train.length", "64"], "sequences of 64 tokens: the model has 32 positions"),
        (["--model.num-attention-heads", "3"], "num_attention_heads 3 does not divide hidden_size 16"),
        (["--train.batch", "12"], "12"),
        (["--mesh.data", "3"], "mesh.data 3.* does not fit 8 devices"),
        (["--data.store", "nowhere"], "data.store and data.sources"),
    ],
)
def test_bad_settings_are_one_clear_line(
    config: Config, run: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    where = ["--data.cache", str(run / "data")]  # the vocabulary and store are there already
    with pytest.raises(BertJaxError, match=message):
        bert_jax.pretrain(config, run=str(tmp_path / "run"), overrides=[*TINY, *where, *overrides])
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_google_records_train_as_they_are(data_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow", reason="the record reader is TensorFlow's")
    tokenizer = tmp_path / "uncased"
    tokenizer.mkdir()
    shutil.copy(data_dir / "vocab" / "bert_base_uncased.txt", tokenizer / "vocab.txt")
    records = data_dir / "golden" / "pretraining_data" / "sample_text_uncased.tfrecord"
    flags = read_json(records.with_name("sample_text_uncased.config.json"))
    config = Config(data=Data(records=(str(records),), tokenizer=str(tokenizer)))
    length, predictions = flags["max_seq_length"], flags["max_predictions_per_seq"]
    settings = [*TINY, "--model.max-position-embeddings", str(length), "--train.length", str(length)]
    settings += ["--train.predictions", str(predictions), "--train.steps", "3"]
    result = bert_jax.pretrain(config, run=str(tmp_path / "run"), overrides=settings)
    assert result["step"] == 3
    with pytest.raises(BertJaxError, match=f"set --train.length {length}"):
        bert_jax.pretrain(config, run=str(tmp_path / "other"), overrides=[*settings, "--train.length", "32"])


def test_a_mixture_and_named_evaluation_stores(run: Path, tmp_path: Path) -> None:
    store = str(next((run / "data").glob("store-*")))
    config = Config(data=Data(store=(f"{store}=0.7", f"{store}=0.3")))
    settings = [*TINY, "--train.steps", "2", "--evaluate.stores", f"again={store}"]
    bert_jax.pretrain(config, run=str(tmp_path / "run"), overrides=settings)
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert any(key.startswith("eval_") and "again" in key for key in last), last
    assert to_dict(config)["data"]["store"] == [f"{store}=0.7", f"{store}=0.3"]


def test_init_starts_from_the_parameters_of_another_run(run: Path, tmp_path: Path) -> None:
    store = str(next((run / "data").glob("store-*")))
    config = Config(data=Data(store=(store,)))
    seen: list[dict[str, Any]] = []
    bert_jax.pretrain(config, run=str(tmp_path / "run"), init=str(run), overrides=TINY, on_metrics=seen.append)
    fresh: list[dict[str, Any]] = []
    bert_jax.pretrain(config, run=str(tmp_path / "fresh"), overrides=TINY, on_metrics=fresh.append)
    assert seen[0]["loss"] < fresh[0]["loss"]
    assert read_json(tmp_path / "run" / "run.json")["initialized_from"] == str(run)
