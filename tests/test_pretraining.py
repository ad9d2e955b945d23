"""The whole life through the functions and commands a user calls: text → vocabulary → store → run → answers."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import jax
import pytest

import bert_jax
from bert_jax import BertConfig, BertJaxError, Config, Data, Phase, cli
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
        (["--data.store", "nowhere"], "nowhere is not a token store: it has no manifest.json"),
        (["--data.store", "nowhere", "--data.sources", "text"], "data.store and data.sources"),
        (["--optimizer.warmup", "6"], "warmup 6 is 6 of 6 steps"),
        (["--train.packing", "0"], "packing is 0: expected at least 1"),
        (["--train.packing", "4", "--train.row-predictions", "2"], "row_predictions is 2, and packed rows of .* give"),
        (["--log.every", "0"], "log.every is 0: expected at least 1"),
        (["--checkpoint.every", "0"], "checkpoint.every is 0: expected at least 1"),
        (["--evaluate.sequences", "0"], "evaluate.sequences is 0: expected at least 1"),
        (["--evaluate.every", "0"], "evaluate.every is 0: expected at least 1"),
        (["--evaluate.batch", "12"], "evaluate.batch is 12: expected a multiple of 8"),
        (["--train.steps", "None", "--train.minutes", "0.001"], "train.minutes 0.001 is too short"),
    ],
)
def test_bad_settings_are_one_clear_line(
    config: Config, run: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    where = ["--data.cache", str(run / "data")]  # the vocabulary and store are there already
    with pytest.raises(BertJaxError, match=message):
        bert_jax.pretrain(config, run=str(tmp_path / "run"), overrides=[*TINY, *where, *overrides])
    assert not (tmp_path / "run").exists()


def test_a_phase_that_cannot_be_is_refused_before_the_first_begins(config: Config, run: Path, tmp_path: Path) -> None:
    later = (Phase(length=64, batch=8, steps=2, predictions=3),)
    longer = dataclasses.replace(config, train=dataclasses.replace(config.train, later_phases=later))
    where = ["--data.cache", str(run / "data")]
    with pytest.raises(BertJaxError, match="phase 1 has sequences of 64 tokens: the model has 32 positions"):
        bert_jax.pretrain(longer, run=str(tmp_path / "run"), overrides=[*TINY, *where])
    assert not (tmp_path / "run").exists()


def _altered(store: Path, split: str) -> None:
    file = next(store.rglob(f"{split}.tokens.npy"))
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(bytes(data))


def test_an_altered_store_is_not_trained_on(run: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(next((run / "data").glob("store-*")), store)
    config = Config(data=Data(store=(str(store),)))
    _altered(store, "train")
    with pytest.raises(BertJaxError, match=r"train.tokens.npy was altered: its checksum"):
        bert_jax.pretrain(config, run=str(tmp_path / "run"), overrides=TINY)
    assert not (tmp_path / "run" / "run.json").exists()
    with pytest.raises(BertJaxError, match="was altered"):
        bert_jax.info(str(store), verify=True)
    assert bert_jax.info(str(next((run / "data").glob("store-*"))), verify=True)["kind"] == "store"


@pytest.mark.parametrize("split", ["train", "eval"])
def test_an_altered_store_is_not_scored_on(run: Path, tmp_path: Path, split: str) -> None:
    store = tmp_path / "store"
    shutil.copytree(next((run / "data").glob("store-*")), store)
    _altered(store, split)
    with pytest.raises(BertJaxError, match=rf"{split}.tokens.npy was altered: its checksum"):
        bert_jax.evaluate(str(run), store=str(store), split=split, length=32, batch=8)
    other = "eval" if split == "train" else "train"  # what is not read is not waited for
    assert bert_jax.evaluate(str(run), store=str(store), split=other, length=32, batch=8, sequences=8)["sequences"] == 8


def test_an_altered_store_is_not_evaluated_while_training(config: Config, run: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(next((run / "data").glob("store-*")), store)
    _altered(store, "eval")
    where = ["--data.cache", str(run / "data"), "--evaluate.stores", f"again={store}"]
    with pytest.raises(BertJaxError, match=r"store/shards/00000/eval.tokens.npy was altered: its checksum"):
        bert_jax.pretrain(config, run=str(tmp_path / "run"), overrides=[*TINY, *where])
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_with_its_own_store_by_any_name(run: Path, config: Config, text: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    store = str(next((moved / "data").glob("store-*")))
    own = Config(data=Data(store=(store,)))
    assert bert_jax.pretrain(own, run=str(moved), overrides=TINY)["step"] == 6


def test_a_run_goes_on_without_its_text_but_not_with_another(
    run: Path, config: Config, text: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)

    def with_sources(path: str) -> Config:
        return dataclasses.replace(config, data=dataclasses.replace(config.data, sources=(path,)))

    with caplog.at_level("WARNING", "bert_jax"):
        assert bert_jax.pretrain(with_sources("no/longer/there.txt"), run=str(moved), overrides=TINY)["step"] == 6
    assert "source no/longer/there.txt: no such file" in caplog.text
    assert read_json(moved / "run.json")["config"]["data"]["sources"] == [str(text)]
    other = tmp_path / "corpus.txt"
    other.write_text(text.read_text().replace("river", "lake"))
    with pytest.raises(BertJaxError, match=r"corpus.txt is not the text that the run's store .* was made from"):
        bert_jax.pretrain(with_sources(str(other)), run=str(moved), overrides=TINY)
    other.write_text(text.read_text())
    assert bert_jax.pretrain(with_sources(str(other)), run=str(moved), overrides=TINY)["step"] == 6


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_in_one_process_interrupted_resumed_and_asked(config: Config, run: Path, tmp_path: Path) -> None:
    """Devices in use before, a signal in the middle, the same call again: as in a notebook."""
    assert len(jax.devices()) == 8
    where = [*TINY, "--data.cache", str(run / "data")]

    def interrupt(line: dict[str, Any]) -> None:
        if line["step"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    stopped = bert_jax.pretrain(config, run=str(tmp_path / "run"), overrides=where, on_metrics=interrupt)
    assert stopped["stopped"]
    assert 2 <= stopped["step"] < 6
    assert bert_jax.pretrain(config, run=str(tmp_path / "run"), overrides=where)["step"] == 6
    assert losses(tmp_path / "run") == losses(run)
    assert bert_jax.load(tmp_path / "run").fill_mask("The [MASK].")["masks"]


def test_another_init_than_the_runs_is_refused(run: Path, tmp_path: Path) -> None:
    config = Config(data=Data(store=(str(next((run / "data").glob("store-*"))),)))
    begun = tmp_path / "begun"
    bert_jax.pretrain(config, run=str(begun), init=str(run), overrides=TINY)
    assert bert_jax.pretrain(config, run=str(begun), init=str(run), overrides=TINY)["step"] == 6
    with pytest.raises(BertJaxError, match=r"was begun from .*, not from --init elsewhere"):
        bert_jax.pretrain(config, run=str(begun), init="elsewhere", overrides=TINY)
    with pytest.raises(BertJaxError, match=r"was begun from fresh parameters, not from --init"):
        bert_jax.pretrain(config, run=str(run), init=str(begun), overrides=TINY)


def test_killed_before_its_first_save_a_run_begins_from_its_model_again(run: Path, tmp_path: Path) -> None:
    config = Config(data=Data(store=(str(next((run / "data").glob("store-*"))),)))
    begun, seen = tmp_path / "begun", []

    def die(line: dict[str, Any]) -> None:
        seen.append(line["loss"])
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        bert_jax.pretrain(config, run=str(begun), init=str(run), overrides=TINY, on_metrics=die)
    assert not list((begun / "checkpoints").glob("[0-9]*"))
    bert_jax.pretrain(config, run=str(begun), overrides=TINY)
    fresh = tmp_path / "fresh"
    bert_jax.pretrain(config, run=str(fresh), overrides=[*TINY, "--train.steps", "2", "--evaluate.every", "2"])
    assert losses(begun)[-6] == seen[0]
    assert losses(fresh)[0] != seen[0]


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
    for more, message in (
        (["--train.whole-words"], "train.whole_words cannot be set for data.records"),
        (["--train.masked-share", "0.2"], "train.masked_share cannot be set for data.records"),
        (["--train.packing", "3"], "train.packing: data.records hold one example per row"),
        (["--train.objective", "mlm+sop"], "data.records hold next-sentence pairs"),
    ):
        with pytest.raises(BertJaxError, match=message):
            bert_jax.pretrain(config, run=str(tmp_path / "other"), overrides=[*settings, *more])
    assert not (tmp_path / "other").exists()


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


def test_a_published_encoder_goes_on_learning_on_own_text(text: Path, tmp_path: Path) -> None:
    """Of another shape than the CONFIG's, without heads: shape and tokenizer are its own, the heads are drawn."""
    from checkpoints import arrays, parameters, write_hugging_face

    write_hugging_face(tmp_path / "model", arrays(parameters(()), "torch"), "BertModel", hidden_act="gelu")
    config = Config(data=Data(sources=(str(text),), vocab_size=120, eval_fraction=0.2))
    settings = [setting for setting in TINY if setting != "None"]
    settings = settings[settings.index("--train.length") :]
    where = {"run": str(tmp_path / "run"), "init": str(tmp_path / "model")}
    assert bert_jax.pretrain(config, overrides=[*settings, "--train.steps", "2"], **where)["step"] == 2
    model = bert_jax.load(tmp_path / "run")
    assert (model.config.hidden_size, model.config.hidden_act, model.config.max_position_embeddings) == (
        16,
        "gelu_exact",
        64,
    )
    assert model.tokenizer.fingerprint == bert_jax.load(tmp_path / "model").tokenizer.fingerprint
    assert model.heads == ("masked_lm", "next_sentence")
    shutil.rmtree(tmp_path / "model")  # what was taken from it is in the run
    resumed = bert_jax.pretrain(config, overrides=[*settings, "--train.steps", "4"], change=True, **where)
    assert resumed["step"] == 4
    with pytest.raises(BertJaxError, match=r"model.hidden_size is 24, and the model to start from has 16"):
        bert_jax.pretrain(config, overrides=[*settings, "--model.hidden-size", "24"], **where)


def test_positions_grow_when_asked(text: Path, tmp_path: Path) -> None:
    from checkpoints import arrays, parameters, write_hugging_face

    write_hugging_face(tmp_path / "model", arrays(parameters(), "torch"))
    config = Config(data=Data(sources=(str(text),), eval_fraction=0.2))
    settings = [*TINY[TINY.index("--train.length") :], "--train.steps", "2", "--train.length", "80"]
    where = {"run": str(tmp_path / "run"), "init": str(tmp_path / "model")}
    with pytest.raises(BertJaxError, match="80"):
        bert_jax.pretrain(config, overrides=settings, **where)
    bert_jax.pretrain(config, overrides=[*settings, "--model.max-position-embeddings", "96"], **where)
    assert bert_jax.load(tmp_path / "run").config.max_position_embeddings == 96


def test_a_lost_tokenizer_is_put_back_and_another_one_is_refused(
    run: Path, config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    shutil.rmtree(moved / "tokenizer")
    assert bert_jax.pretrain(config, run=str(moved), overrides=TINY)["step"] == 6
    assert any("moved/tokenizer was missing: the run's tokenizer is put back" in line for line in caplog.messages)
    assert bert_jax.load(str(moved)).tokenizer.fingerprint == bert_jax.load(str(run)).tokenizer.fingerprint

    vocabulary = moved / "tokenizer" / "vocab.txt"
    pieces = vocabulary.read_text(encoding="utf-8")
    vocabulary.write_text(pieces.replace("\nb\n", "\nzz\n"), encoding="utf-8")
    with pytest.raises(BertJaxError, match=r"moved/tokenizer is another tokenizer .*: remove .*tokenizer, and"):
        bert_jax.pretrain(config, run=str(moved), overrides=TINY)
    vocabulary.unlink()
    with pytest.raises(BertJaxError, match=r"moved/tokenizer.*; remove .*tokenizer, and the run's own is put back"):
        bert_jax.pretrain(config, run=str(moved), overrides=TINY)
    shutil.rmtree(moved / "tokenizer")
    bert_jax.pretrain(config, run=str(moved), overrides=TINY)
    assert vocabulary.read_text(encoding="utf-8") == pieces


def test_a_refused_start_leaves_only_what_the_next_one_finds_again(
    run: Path, config: Config, text: Path, tmp_path: Path
) -> None:
    store = str(next((run / "data").glob("store-*")))
    wrong = [*TINY, "--mesh.data", "3"]
    with pytest.raises(BertJaxError, match=r"mesh\.data 3"):
        bert_jax.pretrain(Config(data=Data(store=(store,))), run=str(tmp_path / "a"), overrides=wrong)
    several = Config(data=Data(store=(store,)))  # found after plans were made
    batch = [*TINY, "--evaluate.batch", "3"]
    with pytest.raises(BertJaxError, match="evaluate.batch is 3"):
        bert_jax.pretrain(several, run=str(tmp_path / "b"), overrides=batch)
    nothing = Config(data=Data(sources=(str(tmp_path / "none.txt"),), vocab_size=120))
    with pytest.raises(BertJaxError, match="no such file"):
        bert_jax.pretrain(nothing, run=str(tmp_path / "c"), overrides=TINY)
    (tmp_path / "mine").mkdir()
    with pytest.raises(BertJaxError, match="evaluate.batch is 3"):
        bert_jax.pretrain(several, run=str(tmp_path / "mine"), overrides=batch)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]

    with pytest.raises(BertJaxError, match="evaluate.batch is 3"):
        bert_jax.pretrain(config, run=str(tmp_path / "d"), overrides=batch)
    made = sorted(path.name.partition("-")[0] for path in (tmp_path / "d" / "data").iterdir())
    assert made == [".lock", "store", "tokenizer"]
    all_held_out = dataclasses.replace(config, data=dataclasses.replace(config.data, eval_fraction=0.9999))
    with pytest.raises(BertJaxError, match="fell into the held-out part"):
        bert_jax.pretrain(all_held_out, run=str(tmp_path / "d"), overrides=TINY)
    assert sorted(path.name.partition("-")[0] for path in (tmp_path / "d" / "data").iterdir()) == made


def test_what_is_typed_beside_init_counts_also_where_the_config_says_the_same(tmp_path: Path) -> None:
    """A model of 64 positions and width 16."""
    from small_models import small_bert

    from bert_jax.pretraining import _as_begun

    start = small_bert().source
    config = Config(model=BertConfig(max_position_embeddings=96, hidden_size=24), data=Data(store=("store",)))
    assert _as_begun(config, [], None, start, tmp_path).model.max_position_embeddings == 64
    longer = _as_begun(config, ["--model.max-position-embeddings", "96"], None, start, tmp_path)
    assert longer.model.max_position_embeddings == 96
    with pytest.raises(BertJaxError, match="hidden_size is 24, and the model to start from has 16"):
        _as_begun(config, ["--model.hidden_size=24"], None, start, tmp_path)
    with pytest.raises(BertJaxError, match="--data.vocab-size is for a new vocabulary"):
        _as_begun(config, ["--data.vocab-size", "2000"], None, start, tmp_path)
