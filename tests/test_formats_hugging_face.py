"""Hugging Face directories: each way of keeping weights, and one clear line for each that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from checkpoints import arrays, equal, parameters, write_hugging_face
from minilm import minilm_directory
from small_models import small_config, small_tokenizer

from bert_jax.commands import evaluate
from bert_jax.errors import BertJaxError
from bert_jax.files import write_json
from bert_jax.formats.hugging_face import CLASSES, save_tensors
from bert_jax.formats.model import load_model, open_model
from bert_jax.infer.loaded import Bert, load
from bert_jax.model.parameters import flatten, unflatten

WITHOUT_POOLER = ("BertForMaskedLM", "BertForTokenClassification", "BertForQuestionAnswering")
ARCHITECTURES = tuple(CLASSES)


def refused(folder: Path) -> str:
    """The one line that loading `folder` ends with."""
    with pytest.raises(BertJaxError) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_files_written_are_the_librarys_byte_for_byte(tmp_path: Path) -> None:
    """Views are written as what they show; the library would take their memory as it lies."""
    from safetensors.numpy import save

    one = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    arrays = {"b.weight": one, "a": one[0].T, "é": one[:, 1], "c": one[1, :0], "b": one[0, 0]}
    save_tensors(arrays, tmp_path / "model.safetensors")
    expected = save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, {"format": "pt"})
    assert (tmp_path / "model.safetensors").read_bytes() == expected
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o444 == 0o444
    (tmp_path / "file").write_text("")
    with pytest.raises(BertJaxError, match="cannot write .*file/model.safetensors: "):
        save_tensors(arrays, tmp_path / "file" / "model.safetensors")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("prefix", ["bert.", ""])
def test_each_class_with_and_without_prefix(tmp_path: Path, architecture: str, prefix: str) -> None:
    heads = CLASSES[architecture]
    classes = 3 if set(heads) & {"classification", "tagging"} else 2
    params = parameters(heads, classes, architecture not in WITHOUT_POOLER)
    tensors = arrays(params, "torch")
    if not prefix:
        tensors = {name.removeprefix("bert."): value for name, value in tensors.items()}
    ids = {"bert.embeddings.position_ids": np.arange(64)[None]}
    loaded = load_model(write_hugging_face(tmp_path, {**tensors, **ids}, architecture))
    assert (loaded.heads, loaded.classes) == (heads, classes)
    assert loaded.pooler is (architecture not in WITHOUT_POOLER)
    assert equal(loaded.params, params)
    assert loaded.report is not None and loaded.report.taken == len(tensors)
    assert loaded.report.ignored == {"bert.embeddings.position_ids": "a constant"}
    assert not loaded.report.renamed
    assert loaded.config.hidden_act == small_config().hidden_act


def test_labels_of_the_classes(tmp_path: Path) -> None:
    tensors = arrays(parameters(("tagging",), 3, False), "torch")
    named = {"2": "PER", "0": "O", "1": "LOC"}
    folder = write_hugging_face(tmp_path, tensors, "BertForTokenClassification", id2label=named)
    assert load_model(folder).labels == ("O", "LOC", "PER")
    write_hugging_face(tmp_path, tensors, "BertForTokenClassification", id2label={"0": "A", "1": "B"})
    assert "expected a name for each of the 3 classes" in refused(folder)
    write_hugging_face(tmp_path, tensors, "BertForTokenClassification", id2label={"a": "A"})
    assert "id2label is {'a': 'A'}" in refused(folder)


def test_a_decoder_that_is_the_word_embeddings_and_one_that_is_not(tmp_path: Path) -> None:
    params = parameters()
    tensors = arrays(params, "torch")
    words = tensors["bert.embeddings.word_embeddings.weight"]
    tied = {"cls.predictions.decoder.weight": words, "cls.predictions.decoder.bias": tensors["cls.predictions.bias"]}
    loaded = load_model(write_hugging_face(tmp_path / "tied", {**tensors, **tied}))
    assert loaded.report is not None and equal(loaded.params, params)
    assert loaded.report.ignored["cls.predictions.decoder.weight"] == "the word embeddings again"
    only = {name: value for name, value in tensors.items() if name != "cls.predictions.bias"}
    renamed = load_model(write_hugging_face(tmp_path / "old", {**only, **tied}))
    assert equal(renamed.params, params)
    untied = {"cls.predictions.decoder.weight": words + 1}
    folder = write_hugging_face(tmp_path / "untied", {**tensors, **untied})
    assert "is not the word embeddings" in refused(folder) and "remove the decoder cls.predictions" in refused(folder)


def test_an_untied_decoder_costs_the_masked_lm_head_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    params = parameters()
    untied = {"cls.predictions.decoder.weight": params["embeddings"]["word_embeddings"] + 1}
    folder = write_hugging_face(tmp_path / "untied", {**arrays(params, "torch"), **untied})
    bert = load(folder)
    assert caplog.text.count("its decoder is not the word embeddings") == 1
    params.pop("masked_lm")
    assert bert.heads == ("next_sentence",) and equal(bert.source.params, params)
    with pytest.raises(BertJaxError, match="untied cannot fill masks: its decoder is not the word embeddings"):
        bert.fill_mask("the [MASK]")
    for answer in (bert.embed("the cat"), bert.features("the cat")["vectors"], bert.attention("the cat").weights):
        assert np.isfinite(answer).all()
    assert bert.senses("cat", ["the cat", "a cat ran"])["layers"]
    with pytest.raises(BertJaxError, match="its decoder is not the word embeddings"):
        evaluate(str(folder))


def test_a_classifier_whose_kind_is_not_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = arrays(parameters(("classification",), 3), "torch")
    loaded = load_model(write_hugging_face(tmp_path / "a", tensors, architectures=None))
    assert loaded.heads == ("classification",)
    assert "names no architectures: the classifier is taken as one of whole texts" in caplog.text
    tensors = {name: value for name, value in tensors.items() if "pooler" not in name}
    folder = write_hugging_face(tmp_path / "b", tensors, architectures=None)
    assert "has a classifier and no pooler, which a classifier of texts reads: if it labels tokens, its" in refused(
        folder
    )
    write_hugging_face(folder, tensors, "BertForTokenClassification")
    assert load_model(folder).heads == ("tagging",)


@pytest.mark.parametrize(
    ("entries", "rows", "whole"), [(29, 32, True), (29, 128, True), (29, 33, False), (9, 29, False)]
)
def test_a_vocabulary_that_was_cut_is_told(
    tmp_path: Path, entries: int, rows: int, whole: bool, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = arrays(parameters(), "torch")
    for name in ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias"):
        tensors[name] = np.resize(tensors[name], (rows, *tensors[name].shape[1:]))
    folder = write_hugging_face(tmp_path / "model", tensors, vocab_size=rows)
    lines = small_tokenizer().lines
    assert len(lines) == 29
    (folder / "vocab.txt").write_text("".join(f"{line}\n" for line in lines[:entries]))
    load_model(folder)
    told = f"its vocabulary has {entries} entries and its embedding table {rows} rows, more than a table is padded by"
    assert (told in caplog.text) is not whole


def test_weights_that_are_not_read_are_named_with_what_to_do(tmp_path: Path) -> None:
    folder = write_hugging_face(tmp_path / "model", arrays(parameters(), "torch"), "TFBertForMaskedLM")
    (folder / "model.safetensors").unlink()
    (folder / "tf_model.h5").write_bytes(b"x")
    said = refused(folder)
    assert "tf_model.h5 is for the TensorFlow models of transformers 4, not read here" in said
    assert "from transformers import BertForMaskedLM as B" in said and "from_tf=True" in said
    write_json(folder / "pytorch_model.bin.index.json", {"weight_map": {"a": "p-1.bin", "b": "p-2.bin"}})
    said = refused(folder)
    assert "holds 2 pickles (p-1.bin, …)" in said
    assert said.endswith(f"{folder}/model.safetensors {folder}/p-1.bin {folder}/p-2.bin")


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_dtypes_become_float32_and_are_reported(tmp_path: Path, dtype: Any) -> None:
    rounded = {name: value.astype(dtype) for name, value in arrays(parameters(), "torch").items()}
    loaded = load_model(write_hugging_face(tmp_path, rounded))
    leaves = arrays(loaded.params, "torch")
    for name, value in rounded.items():
        assert leaves[name].dtype == np.float32
        np.testing.assert_array_equal(leaves[name], value.astype(np.float32))
    assert loaded.report is not None
    assert set(loaded.report.converted.values()) == {np.dtype(dtype).name}


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    tensors = arrays(parameters(), "torch")
    name = "bert.encoder.layer.0.output.dense.weight"
    message = refused(write_hugging_face(tmp_path, {**tensors, name: tensors[name].astype(np.int8)}))
    assert f"{name} holds i8" in message or f"{name} holds int8" in message


def test_the_old_spelling_of_layer_norm(tmp_path: Path) -> None:
    params = parameters()
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in arrays(params, "torch").items()
    }
    loaded = load_model(write_hugging_face(tmp_path, old))
    assert equal(loaded.params, params)
    assert loaded.report is not None
    assert loaded.report.renamed["bert.embeddings.LayerNorm.gamma"] == "bert.embeddings.LayerNorm.weight"


def shard(folder: Path, tensors: dict[str, np.ndarray]) -> Path:
    from safetensors.numpy import save_file

    write_hugging_face(folder, tensors)
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for number, names in enumerate((list(tensors)[::2], list(tensors)[1::2]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in names}, folder / file)
        weight_map |= dict.fromkeys(names, file)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    return folder


def test_shards(tmp_path: Path) -> None:
    params = parameters()
    folder = shard(tmp_path, arrays(params, "torch"))
    assert equal(load_model(folder).params, params)
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert f"{folder} lacks model-00002-of-00002.safetensors, which model.safetensors.index.json names" in refused(
        folder
    )
    write_json(folder / "model.safetensors.index.json", {"weights": {}})
    assert "model.safetensors.index.json has no weight_map" in refused(folder)


def flax_file(folder: Path, tree: Any) -> Path:
    from flax import serialization

    write_hugging_face(folder, {"unused": np.zeros(1, np.float32)}, "FlaxBertForPreTraining")
    (folder / "model.safetensors").unlink()
    (folder / "flax_model.msgpack").write_bytes(serialization.msgpack_serialize(tree))
    return folder


# Leaves of a one-layer FlaxBertForPreTraining of transformers 4: `from_pretrained(...).params`, flattened.
FLAX_LEAVES = """
bert/embeddings/LayerNorm/bias bert/embeddings/LayerNorm/scale bert/embeddings/position_embeddings/embedding
bert/embeddings/token_type_embeddings/embedding bert/embeddings/word_embeddings/embedding
bert/encoder/layer/0/attention/output/LayerNorm/bias bert/encoder/layer/0/attention/output/LayerNorm/scale
bert/encoder/layer/0/attention/output/dense/bias bert/encoder/layer/0/attention/output/dense/kernel
bert/encoder/layer/0/attention/self/key/bias bert/encoder/layer/0/attention/self/key/kernel
bert/encoder/layer/0/attention/self/query/bias bert/encoder/layer/0/attention/self/query/kernel
bert/encoder/layer/0/attention/self/value/bias bert/encoder/layer/0/attention/self/value/kernel
bert/encoder/layer/0/intermediate/dense/bias bert/encoder/layer/0/intermediate/dense/kernel
bert/encoder/layer/0/output/LayerNorm/bias bert/encoder/layer/0/output/LayerNorm/scale
bert/encoder/layer/0/output/dense/bias bert/encoder/layer/0/output/dense/kernel
bert/pooler/dense/bias bert/pooler/dense/kernel
cls/predictions/LayerNorm_ cls/predictions/bias cls/predictions/transform/LayerNorm/bias
cls/predictions/transform/LayerNorm/scale cls/predictions/transform/dense/bias cls/predictions/transform/dense/kernel
cls/seq_relationship/bias cls/seq_relationship/kernel
""".replace("cls/predictions/LayerNorm_ ", "").split()


def test_the_former_flax_models(tmp_path: Path) -> None:
    params = parameters()
    leaves = arrays(params, "flax")
    assert sorted(leaves) == sorted(FLAX_LEAVES)
    loaded = load_model(flax_file(tmp_path / "a", unflatten(leaves)))
    assert equal(loaded.params, params)
    assert (loaded.heads, loaded.provenance["architectures"]) == (
        ("masked_lm", "next_sentence"),
        ["FlaxBertForPreTraining"],
    )
    plain = {name.removeprefix("bert/"): value for name, value in arrays(parameters(()), "flax").items()}
    assert equal(load_model(flax_file(tmp_path / "b", unflatten(plain))).params, parameters(()))
    half = {name: value.astype(ml_dtypes.bfloat16) for name, value in leaves.items()}
    assert load_model(flax_file(tmp_path / "c", unflatten(half))).report.converted  # type: ignore[union-attr]
    words = leaves["bert/embeddings/word_embeddings/embedding"]
    untied = {**leaves, "cls/predictions/decoder/kernel": words.T + 1}
    assert "is not the word embeddings" in refused(flax_file(tmp_path / "d", unflatten(untied)))
    tied = {**leaves, "cls/predictions/decoder/kernel": words.T.copy()}
    assert equal(load_model(flax_file(tmp_path / "e", unflatten(tied))).params, params)
    (tmp_path / "a" / "flax_model.msgpack").write_bytes(b"\x85abc")
    assert "cannot be read as Flax's msgpack" in refused(tmp_path / "a")


def test_missing_parameters_and_wrong_shapes_are_named(tmp_path: Path) -> None:
    tensors = arrays(parameters(), "torch")
    name = "bert.encoder.layer.0.attention.self.key.weight"
    missing = {key: value for key, value in tensors.items() if key != name}
    assert f"misses 1 ({name})" in refused(write_hugging_face(tmp_path / "a", missing))
    wrong = refused(write_hugging_face(tmp_path / "b", {**tensors, name: np.zeros((3, 4), np.float32)}))
    assert f"the first, {name}, is (3, 4): expected (16, 16)" in wrong
    none = refused(write_hugging_face(tmp_path / "c", {"roberta.x": np.zeros(1, np.float32)}))
    assert "holds no BERT: none of its 1 arrays (roberta.x, …)" in none
    twice = {f"{tower}.{key}": value for tower in ("a", "b") for key, value in tensors.items()}
    assert "holds 2 encoders, under 'a.bert.' and 'b.bert.'" in refused(write_hugging_face(tmp_path / "d", twice))
    deeper = refused(write_hugging_face(tmp_path / "e", tensors, num_hidden_layers=2))
    assert "misses 16 (bert.encoder.layer.1." in deeper


def test_a_vocabulary_of_another_size(tmp_path: Path) -> None:
    """More entries than rows is a mistake; more rows than entries is padding, and no answer names it."""
    size = small_tokenizer().vocab_size
    config = small_config()
    params = parameters()
    folder = write_hugging_face(tmp_path / "a", arrays(params, "torch"))
    with open(folder / "vocab.txt", "a", encoding="utf-8") as file:
        file.write("further\n")
    assert f"its vocabulary has {size + 1} entries and its embedding table {size} rows" in refused(folder)
    params["embeddings"]["word_embeddings"] = np.concatenate([params["embeddings"]["word_embeddings"]] * 2)[: size + 3]
    params["masked_lm"]["bias"] = np.concatenate([params["masked_lm"]["bias"], np.full(3, 50, np.float32)])
    folder = write_hugging_face(tmp_path / "b", arrays(params, "torch"), vocab_size=size + 3)
    bert = load(folder)
    assert bert.config.known_vocab_size == size + 3 == config.known_vocab_size + 3
    answer = bert.fill_mask("the [MASK] sat", top_k=500)
    assert len(answer["masks"][0]["candidates"]) == size


def test_broken_directories(tmp_path: Path) -> None:
    tensors = arrays(parameters(), "torch")

    def folder(name: str, **config: Any) -> Path:
        return write_hugging_face(tmp_path / name, tensors, **config)

    (folder("a") / "config.json").write_text("{")
    assert "config.json is not JSON" in refused(tmp_path / "a")
    weights = folder("b") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "model.safetensors cannot be read as safetensors" in refused(tmp_path / "b")
    weights.write_bytes(b"")
    assert "model.safetensors cannot be read as safetensors" in refused(tmp_path / "b")
    (folder("c") / "vocab.txt").unlink()
    assert "holds neither vocab.txt, tokenizer.json nor spiece.model" in refused(tmp_path / "c")
    (folder("d") / "model.safetensors").unlink()
    assert "has no weights: expected model.safetensors" in refused(tmp_path / "d")
    for kind in ("roberta", "distilbert"):
        assert f"model_type is '{kind}': only a BERT encoder" in refused(folder(kind, model_type=kind))
    relative = refused(folder("e", position_embedding_type="relative_key"))
    assert "position_embedding_type is 'relative_key'" in relative
    values = json.loads((folder("f") / "config.json").read_text())
    del values["model_type"]
    write_json(tmp_path / "f" / "config.json", values)
    assert 'its config.json names no model_type (add "model_type": "bert" to one of BERT)' in refused(tmp_path / "f")
    (folder("g") / "bert_model.ckpt.index").write_bytes(b"")
    assert "a Hugging Face model directory and a TensorFlow 1 checkpoint at once" in refused(tmp_path / "g")


def test_minilm_equals_its_golden_values(data_dir: Path) -> None:
    golden = np.load(data_dir / "golden" / "minilm" / "golden_hf.npz")
    bert = Bert(load_model(minilm_directory()), attention="einsum")
    names = {"input_ids": "input_ids", "input_mask": "attention_mask", "segment_ids": "token_type_ids"}
    found = bert.apply({ours: golden[theirs].astype(np.int32) for ours, theirs in names.items()}, hidden_states=True)
    real = golden["attention_mask"].astype(bool)
    last = np.asarray(found["sequence_output"])
    np.testing.assert_allclose(last[real], golden["last_hidden_state_valid_f32"][real], rtol=0, atol=2e-5)
    np.testing.assert_allclose(found["pooled_output"], golden["pooler_output"], rtol=0, atol=2e-5)
    mean = (last * real[..., None]).sum(1) / real.sum(1)[:, None]
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(mean, golden["sentence_embedding"], rtol=0, atol=2e-5)
    sentences = json.loads((data_dir / "golden" / "minilm" / "golden_sentences.json").read_text(encoding="utf-8"))
    for row, sentence in enumerate(sentences[:6]):
        ids = bert.tokenizer.encode(sentence)["input_ids"]
        np.testing.assert_array_equal(ids, golden["input_ids"][row][real[row]])


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path) -> None:
    folder = write_hugging_face(tmp_path, arrays(parameters(), "torch"))
    opened = open_model(folder)
    assert opened.heads == ("masked_lm", "next_sentence")
    assert flatten(opened.read()[0]).keys() == flatten(parameters()).keys()
