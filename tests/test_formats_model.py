"""A MODEL is recognised by what it holds; whatever cannot be read says in one line what it is."""

from __future__ import annotations

from pathlib import Path

import jax
import pytest
from small_models import small_config, small_parameters, small_run, small_tokenizer
from tiny_training import FINGERPRINTS, TinyTokenizer, tiny_config

from bert_jax.errors import BertJaxError
from bert_jax.files import write_json
from bert_jax.formats.model import find_model, load_model, parse_spec
from bert_jax.train.run import create_run


def make_run(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / "run.json", {})
    return path


def make_hugging_face(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / "config.json", {"model_type": "bert"})
    return path


def make_tf1(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "bert_model.ckpt.index").write_bytes(b"")
    return path


@pytest.mark.parametrize(("make", "name"), [(make_run, "run"), (make_hugging_face, "hugging_face"), (make_tf1, "tf1")])
def test_recognised_by_content(tmp_path: Path, make, name: str) -> None:
    kind, path, revision = find_model(make(tmp_path / "some_name"))
    assert (kind.name, path, revision) == (name, tmp_path / "some_name", None)


def test_tf1_by_its_prefix_and_zip(tmp_path: Path) -> None:
    make_tf1(tmp_path)
    (tmp_path / "uncased.zip").write_bytes(b"")
    assert find_model(tmp_path / "bert_model.ckpt")[0].name == "tf1"
    assert find_model(tmp_path / "uncased.zip")[0].name == "tf1_zip"


def test_config_json_without_model_type_is_no_hugging_face_model(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"hidden_size": 4})
    with pytest.raises(BertJaxError, match="is no model: its config.json names no model_type"):
        find_model(tmp_path)


def test_several_kinds_at_once(tmp_path: Path) -> None:
    make_run(tmp_path)
    make_tf1(tmp_path)
    with pytest.raises(BertJaxError, match="a run directory and a TensorFlow 1 checkpoint at once"):
        load_model(tmp_path)


def test_only_a_run_has_steps(tmp_path: Path) -> None:
    make_tf1(tmp_path / "model")
    with pytest.raises(BertJaxError, match="only a run has steps; .*model is a TensorFlow 1 checkpoint: leave @3 out"):
        load_model(f"{tmp_path}/model@3")


def test_steps_behind_an_at_sign(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    make_run(tmp_path / "odd@name")
    assert find_model(f"{tmp_path}/run@1000")[1:] == (tmp_path / "run", "1000")
    assert find_model(f"{tmp_path}/run@best")[1:] == (tmp_path / "run", "best")
    assert find_model(f"{tmp_path}/odd@name")[1:] == (tmp_path / "odd@name", None)
    assert find_model(f"{tmp_path}/odd@name@7")[1:] == (tmp_path / "odd@name", "7")
    assert parse_spec("user@host/run").revision is None
    with pytest.raises(BertJaxError, match=r"no model '.*absent@3': there is no such path"):
        find_model(f"{tmp_path}/absent@3")


@pytest.mark.parametrize("step", ["first", "", "-1", "1.5"])
def test_a_step_is_a_number_or_best(tmp_path: Path, step: str) -> None:
    create_run(tmp_path / "run", tiny_config(), TinyTokenizer(), FINGERPRINTS, {})
    with pytest.raises(BertJaxError, match="expected a step number or 'best' behind the @"):
        load_model(f"{tmp_path}/run@{step}")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("bert-base-uncased", "hf:google-bert/bert-base-uncased"),
        ("all-MiniLM-L6-v2", "hf:sentence-transformers/all-MiniLM-L6-v2"),
        ("my-model", "hf:ORG/my-model"),
        ("dslim/bert-base-NER", "hf:dslim/bert-base-NER"),
    ],
)
def test_a_bare_name_is_answered_with_the_hubs_spelling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BertJaxError) as caught:
        load_model(name)
    assert str(caught.value).endswith(f"on the Hugging Face hub it would be {hint}")


def test_a_path_that_is_missing_has_no_hub_hint(tmp_path: Path) -> None:
    with pytest.raises(BertJaxError, match="there is no such path$"):
        load_model(tmp_path / "absent")


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    for name, file, text in (
        ("store", "manifest.json", "a token store"),
        ("tokenizer", "vocab.txt", "a tokenizer directory"),
        ("pickle", "pytorch_model.bin", "a pickle, without config.json"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("{}")
        with pytest.raises(BertJaxError, match=text):
            load_model(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BertJaxError, match="an empty directory"):
        load_model(tmp_path / "empty")


def equal_parameters(one: object, other: object) -> bool:
    return jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), one, other))


def test_a_run_loads_at_its_newest_named_and_best_step(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", {3: 2.0, 7: 1.0, 9: 1.5})
    for spec, step in (("run", 9), ("run@3", 3), ("run@best", 7)):
        loaded = load_model(f"{tmp_path}/{spec}")
        assert loaded.step == step
        assert equal_parameters(loaded.params, small_parameters(step))
    assert (loaded.kind, loaded.heads, loaded.config) == ("run", ("masked_lm", "next_sentence"), small_config())
    assert loaded.tokenizer.fingerprint == small_tokenizer().fingerprint
    assert loaded.provenance["fingerprints"] == run.fingerprints
    with pytest.raises(BertJaxError, match="has no checkpoint 4: it has 3, 7, 9"):
        load_model(f"{tmp_path}/run@4")


def test_the_best_step_is_one_of_the_latest_phase(tmp_path: Path) -> None:
    """A loss on sequences of 128 tokens says nothing beside one on 512."""
    small_run(tmp_path / "run", {3: 1.0, 7: 2.5, 9: 2.0, 11: None}, second=5)
    assert load_model(f"{tmp_path}/run@best").step == 9


def test_a_run_of_masked_words_alone_has_one_head(tmp_path: Path) -> None:
    small_run(tmp_path / "run", {1: None}, objective="mlm")
    assert load_model(tmp_path / "run").heads == ("masked_lm",)


def test_a_run_without_a_checkpoint_or_moved_elsewhere(tmp_path: Path) -> None:
    small_run(tmp_path / "empty", {})
    with pytest.raises(BertJaxError, match="has no checkpoint yet"):
        load_model(tmp_path / "empty")
    small_run(tmp_path / "run", {1: None})
    (tmp_path / "run").rename(tmp_path / "moved")
    assert load_model(tmp_path / "moved").step == 1
