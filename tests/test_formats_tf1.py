"""TensorFlow 1 checkpoints: published values reproduced, everybody's spellings understood, broken ones named."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from checkpoints import arrays, equal, parameters, write_tf1

from bert_jax.errors import BertJaxError
from bert_jax.files import write_json
from bert_jax.formats.model import load_model, open_model
from bert_jax.infer.loaded import Bert
from bert_jax.scale.info import model_info

pytest.importorskip("tensorflow")


def outputs_and_golden(
    data_dir: Path, name: str, **changes: str
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What our model says of the inputs of `name`'s golden file, and what the official code said."""
    source = load_model(data_dir / name)
    bert = Bert(dataclasses.replace(source, config=dataclasses.replace(source.config, **changes)), attention="einsum")
    golden = dict(np.load(data_dir / name / "golden_official_modeling.npz"))
    batch = {key: golden[key] for key in ("input_ids", "input_mask", "segment_ids", "masked_lm_positions")}
    found = bert.apply(batch, hidden_states=True)
    ours = {
        "embedding_output": found["hidden_states"][0],
        **{f"layer_{n}": state for n, state in enumerate(found["hidden_states"]) if n},
        "pooled": found["pooled_output"],
        "mlm_logits": found["masked_lm_logits"].reshape(-1, bert.config.known_vocab_size),
        "nsp_logits": found["next_sentence_logits"],
    }
    return {name: np.asarray(value) for name, value in ours.items()}, golden


@pytest.mark.parametrize("name", ["tf1_sharp", "tf1_tiny"])
def test_the_official_values(data_dir: Path, name: str) -> None:
    ours, golden = outputs_and_golden(data_dir, name)
    real = golden["input_mask"].astype(bool)
    for key, value in ours.items():
        expected = golden[key]
        if value.ndim == 3:  # nobody reads what stands at padding
            value, expected = value[real], expected[real]
        if key == "mlm_logits":  # up to 9.6: in float32 the official values themselves are 5.6e-6 off
            expected = exact_mlm_logits(data_dir / name, golden).reshape(expected.shape)
            assert np.abs(value - golden[key]).max() < 1e-5
        np.testing.assert_allclose(value, expected, rtol=0, atol=5e-6, err_msg=key)


def exact_mlm_logits(folder: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The same model in numpy and float64, written down from the paper: (B, M, V)."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), load_model(folder).params)

    def norm(x: np.ndarray, p: dict) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12) * p["scale"] + p["bias"]

    def gelu(x: np.ndarray) -> np.ndarray:
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    ids, embeddings = inputs["input_ids"], params["embeddings"]
    x = embeddings["word_embeddings"][ids] + embeddings["position_embeddings"][: ids.shape[1]]
    x = norm(x + embeddings["token_type_embeddings"][inputs["segment_ids"]], embeddings["layer_norm"])
    hidden = np.where(inputs["input_mask"][:, None, None], 0, -1e9)
    for layer in params["encoder"].values():
        own, feed = layer["attention"], layer["feed_forward"]
        q, k, v = (
            np.einsum("btd,dnh->btnh", x, own[part]["kernel"]) + own[part]["bias"] for part in ("query", "key", "value")
        )
        scores = np.exp(np.einsum("btnh,bsnh->bnts", q, k) / np.sqrt(q.shape[-1]) + hidden)
        mixed = np.einsum("bnts,bsnh->btnh", scores / scores.sum(-1, keepdims=True), v)
        mixed = np.einsum("btnh,nhd->btd", mixed, own["output"]["kernel"]) + own["output"]["bias"]
        x = norm(x + mixed, own["layer_norm"])
        inner = gelu(x @ feed["intermediate"]["kernel"] + feed["intermediate"]["bias"])
        x = norm(x + inner @ feed["output"]["kernel"] + feed["output"]["bias"], feed["layer_norm"])
    head = params["masked_lm"]
    chosen = np.take_along_axis(x, inputs["masked_lm_positions"][..., None].astype(int), 1)
    chosen = norm(gelu(chosen @ head["transform"]["kernel"] + head["transform"]["bias"]), head["layer_norm"])
    return chosen @ embeddings["word_embeddings"].T + head["bias"]


def test_the_values_tell_the_two_gelus_apart(data_dir: Path) -> None:
    ours, golden = outputs_and_golden(data_dir, "tf1_sharp", hidden_act="gelu_exact")
    assert np.abs(ours["mlm_logits"] - golden["mlm_logits"]).max() > 1e-4


def test_slots_and_step_of_a_real_training(data_dir: Path) -> None:
    model = open_model(data_dir / "tf1_tiny")
    assert (model.step, model.heads) == (20, ("masked_lm", "next_sentence"))
    assert model.report is not None
    assert not model.report.initialised and not model.report.renamed
    assert set(model.report.ignored.values()) == {"state of an optimizer"}
    assert model.config.hidden_act == "gelu_tanh"


def test_heads_that_are_there_or_not(tmp_path: Path) -> None:
    for heads in ((), ("masked_lm",), ("next_sentence",)):
        params = parameters(heads)
        folder = write_tf1(tmp_path / ("-".join(heads) or "none"), arrays(params, "google"))
        loaded = load_model(folder)
        assert loaded.heads == heads
        assert equal(loaded.params, params)


@pytest.mark.parametrize(("head", "classes"), [("classification", 3), ("question_answering", 2)])
def test_fine_tuned_by_googles_scripts(tmp_path: Path, head: str, classes: int) -> None:
    params = parameters((head,), classes)
    variables = arrays(params, "google")
    assert ("output_weights" if head == "classification" else "cls/squad/output_weights") in variables
    slots = {f"{name}/adam_m": value for name, value in variables.items()}
    step = {"global_step": np.array(7, np.int64)}
    loaded = load_model(write_tf1(tmp_path / "model", {**variables, **slots, **step}, "model.ckpt-7"))
    assert (loaded.heads, loaded.classes, loaded.step) == ((head,), classes, 7)
    assert equal(loaded.params, params)


def test_both_spellings_of_layer_norm(tmp_path: Path) -> None:
    params = parameters()
    variables = arrays(params, "google")
    norms = [name for name in variables if "LayerNorm" in name]
    keras = {name.replace("LayerNorm/", f"layer_normalization_{n}/"): variables[name] for n, name in enumerate(norms)}
    others = {name: value for name, value in variables.items() if name not in norms}
    loaded = load_model(write_tf1(tmp_path / "model", {**keras, **others}))
    assert equal(loaded.params, params)
    assert loaded.report is not None and len(loaded.report.renamed) == len(norms)


@pytest.mark.parametrize("scope", ["tower/bert/", "encoder_of_ours/"])
def test_other_peoples_scopes_are_reported(tmp_path: Path, scope: str) -> None:
    params = parameters()
    above = scope.removesuffix("bert/") if scope.endswith("bert/") else ""
    variables = {
        name.replace("bert/", scope, 1) if name.startswith("bert/") else above + name: value
        for name, value in arrays(params, "google").items()
    }
    loaded = load_model(write_tf1(tmp_path / "model", {**variables, f"{scope}adapter": np.zeros(3, np.float32)}))
    assert equal(loaded.params, params)
    assert loaded.report is not None
    assert loaded.report.renamed[f"{scope}embeddings/word_embeddings"] == "bert/embeddings/word_embeddings"
    assert loaded.report.ignored == {f"{scope}adapter": "not a parameter of this model"}
    assert any("renamed" in line for line in loaded.report.lines())


def test_of_several_the_one_that_tensorflow_names_the_prefix_and_the_index(tmp_path: Path) -> None:
    old, new = parameters(seed=1), parameters(seed=2)
    folder = tmp_path / "model"
    write_tf1(folder, arrays(new, "google"), "model.ckpt-10")
    write_tf1(folder, arrays(old, "google"), "model.ckpt-9")
    with pytest.raises(
        BertJaxError, match=r"2 checkpoints \(model.ckpt-10, model.ckpt-9\) and no file checkpoint says"
    ):
        load_model(folder)
    (folder / "checkpoint").write_text(
        'model_checkpoint_path: "/elsewhere/model.ckpt-10"\nall_model_checkpoint_paths: "x"'
    )
    assert equal(load_model(folder).params, new)
    (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-9"\n')
    assert equal(load_model(folder).params, old)
    (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-8"\n')
    with pytest.raises(BertJaxError, match="its file checkpoint names 'model.ckpt-8': give one, as "):
        load_model(folder)
    assert equal(load_model(folder / "model.ckpt-9").params, old)
    assert equal(load_model(folder / "model.ckpt-9.index").params, old)


@pytest.mark.parametrize(
    ("archive", "inner", "cased"),
    [
        ("cased_L-1.zip", "", True),
        ("uncased_L-1.zip", "", False),
        ("model.zip", "cased_L-1/", True),
        ("cased_L-1.zip", "model/", True),
    ],
)
def test_a_zip_with_and_without_a_folder(tmp_path: Path, archive: str, inner: str, cased: bool) -> None:
    params = parameters()
    folder = write_tf1(tmp_path / "made", arrays(params, "google"))
    (folder / "tokenizer_config.json").unlink()
    with zipfile.ZipFile(tmp_path / archive, "w") as file:
        for item in folder.iterdir():
            file.write(item, f"{inner}{item.name}")
            file.writestr(f"__MACOSX/{inner}._{item.name}", b"x")
    opened = open_model(tmp_path / archive)
    shutil.rmtree(folder)
    assert (opened.kind, opened.tokenizer.cased) == ("tf1_zip", cased)
    assert equal(opened.read()[0], params)
    assert open_model(tmp_path / archive, cased=not cased).tokenizer.cased is not cased


def test_a_zip_keeps_every_file_of_the_tokenizer(tmp_path: Path) -> None:
    folder = write_tf1(tmp_path / "made", arrays(parameters(), "google"))
    lines = (folder / "vocab.txt").read_text().splitlines()
    (folder / "vocab.txt").write_text("\n".join(lines[:-1]) + "\n")
    write_json(folder / "added_tokens.json", {lines[-1]: len(lines) - 1})
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as file:
        for item in folder.iterdir():
            file.write(item, item.name)
    here, zipped = open_model(folder), open_model(tmp_path / "model.zip")
    assert zipped.tokenizer.vocab_size == len(lines)
    assert zipped.tokenizer.fingerprint == here.tokenizer.fingerprint


def test_whatever_is_said_of_a_zip_names_the_zip(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "bert_jax")
    folder = write_tf1(tmp_path / "made", arrays(parameters(), "google") | {"odd": np.zeros(1, np.float32)})
    (folder / "tokenizer_config.json").unlink()
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as file:
        for item in folder.iterdir():
            file.write(item, f"inner/{item.name}")
    described = model_info(str(path))
    load_model(path)
    assert described["path"] == str(path) and "odd" in described["arrays"]["ignored"]
    assert f"{path} is taken as uncased" in caplog.text
    with zipfile.ZipFile(path, "w") as file:
        for item in folder.iterdir():
            file.write(item, f"inner/{item.name}") if item.name != "vocab.txt" else None
    with pytest.raises(BertJaxError, match=f"^{path} is no tokenizer"):
        load_model(path)
    assert "bert_jax_zip_" not in caplog.text + str(described)


def test_broken_checkpoints(tmp_path: Path) -> None:
    whole = write_tf1(tmp_path / "whole", arrays(parameters(), "google"))
    data = next(whole.glob("*.data-*")).name

    def broken(name: str, change) -> str:  # type: ignore[no-untyped-def]
        folder = shutil.copytree(whole, tmp_path / name)
        change(folder)
        with pytest.raises(BertJaxError) as caught:
            load_model(folder)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "fetch the whole checkpoint" in broken("a", lambda folder: (folder / data).unlink())
    index = "bert_model.ckpt.index"
    assert "cannot be read as a TensorFlow checkpoint" in broken("b", lambda f: (f / index).write_bytes(b"x" * 99))
    assert "no bert_config.json beside" in broken("c", lambda f: (f / "bert_config.json").unlink())
    assert "bert_config.json is not JSON" in broken("d", lambda f: (f / "bert_config.json").write_text("{"))
    assert "is no tokenizer" in broken("e", lambda f: (f / "vocab.txt").unlink())
    assert "cannot be read" in broken("f", lambda f: (f / data).write_bytes((f / data).read_bytes()[:400]))


def test_broken_zips(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 no")
    with pytest.raises(BertJaxError, match="a.zip cannot be unpacked .*: fetch it again"):
        load_model(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as file:
        file.writestr("readme.txt", "nothing")
    with pytest.raises(BertJaxError, match="b.zip holds 0 TensorFlow checkpoints"):
        load_model(tmp_path / "b.zip")
    write_tf1(tmp_path / "object", {"layer_with_weights-0/embeddings": np.zeros((2, 2), np.float32)})
    with pytest.raises(BertJaxError, match="holds no BERT: none of its 1 arrays .*is embeddings/word_embeddings"):
        load_model(tmp_path / "object")
