"""What is converted loads again, with us bit for bit and with Hugging Face without a missing or unexpected key."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from checkpoints import arrays, parameters, write_hugging_face
from jax import export
from minilm import minilm_directory
from small_models import small_run, small_tokenizer

import bert_jax
from bert_jax.errors import BertJaxError
from bert_jax.files import read_json
from bert_jax.formats.convert import convert
from bert_jax.formats.hugging_face import CLASSES
from bert_jax.formats.model import load_model

WITHOUT_POOLER = ("BertForMaskedLM", "BertForTokenClassification", "BertForQuestionAnswering")
TEXTS = ["the cat sat on the mat .", "a dog"]


def equal(one: Any, other: Any) -> bool:
    return jax.tree.structure(one) == jax.tree.structure(other) and jax.tree.all(
        jax.tree.map(lambda a, b: np.array_equal(np.asarray(a), np.asarray(b)), one, other)
    )


def published(folder: Path, name: str) -> Path:
    """A small model of one class of Hugging Face, with three labels where it has any."""
    params = parameters(CLASSES[name], classes=3, pooler=name not in WITHOUT_POOLER)
    labels = {"id2label": {"0": "no", "1": "maybe", "2": "yes"}} if "Classification" in name else {}
    return write_hugging_face(folder, arrays(params, "torch"), name, **labels)


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_comes_back_bit_for_bit(tmp_path: Path, name: str) -> None:
    first = load_model(published(tmp_path / "theirs", name))
    result = convert(str(tmp_path / "theirs"), str(tmp_path / "ours"), "hf")
    assert (result["class"], result["activation"]) == (name, "gelu_new")
    again = load_model(tmp_path / "ours")
    assert equal(first.params, again.params)
    assert (again.heads, again.classes, again.labels) == (first.heads, first.classes, first.labels)
    assert again.config.hidden_act == first.config.hidden_act == "gelu_tanh"
    assert again.tokenizer.fingerprint == small_tokenizer().fingerprint
    assert again.report is not None and not again.report.ignored and not again.report.initialised


def test_a_run_becomes_a_directory_and_comes_back(tmp_path: Path) -> None:
    small_run(tmp_path / "run", {3: 1.0})
    result = bert_jax.convert(f"{tmp_path}/run@3", str(tmp_path / "out"))
    assert (result["kind"], result["step"], result["class"]) == ("run", 3, "BertForPreTraining")
    assert equal(load_model(tmp_path / "run").params, load_model(tmp_path / "out").params)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is True


def test_a_run_without_next_sentence_says_that_its_pooler_stays(tmp_path: Path) -> None:
    small_run(tmp_path / "run", {3: 1.0}, objective="mlm")
    result = convert(str(tmp_path / "run"), str(tmp_path / "out"), "hf")
    assert result["class"] == "BertForMaskedLM"
    assert set(result["written"]["ignored"].values()) == {"BertForMaskedLM has no pooler"}


def test_an_encoder_without_pooler_gets_a_new_one_and_says_so(tmp_path: Path) -> None:
    write_hugging_face(tmp_path / "theirs", arrays(parameters((), pooler=False), "torch"), "BertModel")
    result = convert(str(tmp_path / "theirs"), str(tmp_path / "out"), "hf")
    assert result["written"]["initialised"] == ["pooler/kernel", "pooler/bias"]
    assert load_model(tmp_path / "out").pooler


def test_sentence_transformers_recipe_comes_along(tmp_path: Path) -> None:
    minilm = minilm_directory()
    convert(str(minilm), str(tmp_path / "out"), "hf")
    again, first = load_model(tmp_path / "out"), load_model(minilm)
    assert again.pooling == first.pooling
    assert equal(again.params, first.params)


@pytest.mark.parametrize("classes", [1, 3])  # one is a score: transformers itself calls it LABEL_0 in its config.json
def test_classes_without_names_keep_their_number(tmp_path: Path, classes: int) -> None:
    params = parameters(("classification",), classes=classes)
    write_hugging_face(tmp_path / "theirs", arrays(params, "torch"), "BertForSequenceClassification")
    convert(str(tmp_path / "theirs"), str(tmp_path / "out"), "hf")
    config = read_json(tmp_path / "out" / "config.json")
    assert config["id2label"] == {str(index): f"LABEL_{index}" for index in range(classes)}


def test_the_tokenizer_knows_the_longest_input_and_everyone_may_read(tmp_path: Path) -> None:
    published(tmp_path / "theirs", "BertModel")
    convert(str(tmp_path / "theirs"), str(tmp_path / "out"), "hf")
    assert read_json(tmp_path / "out" / "tokenizer_config.json")["model_max_length"] == 64
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()}
    assert modes["model.safetensors"] == modes["config.json"]


def test_of_several_heads_the_fine_tuned_one_is_written(tmp_path: Path) -> None:
    params = parameters(("masked_lm", "next_sentence", "classification"))
    write_hugging_face(tmp_path / "theirs", arrays(params, "torch"), "BertForSequenceClassification")
    result = convert(str(tmp_path / "theirs"), str(tmp_path / "out"), "hf")
    assert result["class"] == "BertForSequenceClassification"
    assert set(result["written"]["ignored"].values()) == {"BertForSequenceClassification has no such head"}
    assert load_model(tmp_path / "out").heads == ("classification",)


@pytest.mark.parametrize(("spare", "kept"), [(3, 0), (200, 200)])
def test_rows_that_only_pad_the_vocabulary_are_not_written(tmp_path: Path, spare: int, kept: int) -> None:
    params = parameters()
    entries, width = params["embeddings"]["word_embeddings"].shape
    more = np.zeros((spare, width), np.float32)
    params["embeddings"]["word_embeddings"] = np.concatenate([params["embeddings"]["word_embeddings"], more])
    params["masked_lm"]["bias"] = np.concatenate([params["masked_lm"]["bias"], np.zeros(spare, np.float32)])
    write_hugging_face(tmp_path / "theirs", arrays(params, "torch"), vocab_size=entries + spare)
    convert(str(tmp_path / "theirs"), str(tmp_path / "out"), "hf")
    again = load_model(tmp_path / "out")
    assert again.config.vocab_size == entries + kept == len(again.params["masked_lm"]["bias"])


def test_layers_that_are_left_out_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = arrays(parameters(()), "torch")
    more = {name.replace("layer.0", "layer.1"): value for name, value in tensors.items() if "layer.0" in name}
    write_hugging_face(tmp_path / "theirs", tensors | more, "BertModel")
    load_model(tmp_path / "theirs")
    assert any("encoder.layer.1" in line and "left out" in line for line in caplog.messages)


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path: Path) -> None:
    published(tmp_path / "theirs", "BertModel")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("mine")
    with pytest.raises(BertJaxError, match="there"):
        convert(str(tmp_path / "theirs"), str(tmp_path / "there"), "hf")
    small_run(tmp_path / "run", {3: 1.0})
    with pytest.raises(BertJaxError, match="expected one of hf, stablehlo"):
        convert(str(tmp_path / "run"), str(tmp_path / "out"), "onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "theirs", "there"]


def test_the_command_prints_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from bert_jax import cli

    published(tmp_path / "theirs", "BertForMaskedLM")
    assert cli.main(["convert", str(tmp_path / "theirs"), str(tmp_path / "out"), "--to", "hf"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["schema"] == 1 and result["read"]["taken"] == result["written"]["taken"]
    assert "read: taken:" in captured.err and "BertForMaskedLM, its activation gelu_tanh as 'gelu_new'" in captured.err


@pytest.mark.parametrize("name", CLASSES)
def test_transformers_loads_it_with_the_same_numbers(tmp_path: Path, name: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    published(tmp_path / "theirs", name)
    convert(str(tmp_path / "theirs"), str(tmp_path / "out"), "hf")
    theirs, loading = getattr(transformers, name).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ours = bert_jax.load(tmp_path / "out")
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    for text, row, mask in zip(TEXTS, batch["input_ids"].tolist(), batch["attention_mask"], strict=True):
        assert row[: int(mask.sum())] == ours.tokenizer.encode(text)["input_ids"].tolist()
    given = {key: value[:, None] for key, value in batch.items()} if "Choice" in name else batch
    with torch.no_grad():
        expected = theirs.eval()(**given)
    found = ours.apply(
        {
            "input_ids": batch["input_ids"].numpy().astype(np.int32),
            "input_mask": batch["attention_mask"].numpy().astype(np.int32),
            "segment_ids": batch["token_type_ids"].numpy().astype(np.int32),
        }
    )
    pairs = {
        "BertForPreTraining": [
            ("prediction_logits", "masked_lm_logits"),
            ("seq_relationship_logits", "next_sentence_logits"),
        ],
        "BertForMaskedLM": [("logits", "masked_lm_logits")],
        "BertForNextSentencePrediction": [("logits", "next_sentence_logits")],
        "BertForSequenceClassification": [("logits", "classification_logits")],
        "BertForTokenClassification": [("logits", "tagging_logits")],
        "BertForQuestionAnswering": [],
        "BertForMultipleChoice": [("logits", "multiple_choice_logits")],
        "BertModel": [("last_hidden_state", "sequence_output"), ("pooler_output", "pooled_output")],
    }[name]
    mask = batch["attention_mask"].numpy().astype(bool)
    for theirs_key, ours_key in pairs:
        one, other = expected[theirs_key].numpy(), np.asarray(found[ours_key])
        if one.shape[:2] == mask.shape and one.ndim == 3:
            one, other = one[mask], other[mask]
        np.testing.assert_allclose(other, one, atol=2e-5, rtol=2e-5)
    if name == "BertForQuestionAnswering":
        logits = np.asarray(found["question_answering_logits"])[mask]
        np.testing.assert_allclose(logits[:, 0], expected.start_logits.numpy()[mask], atol=2e-5)
        np.testing.assert_allclose(logits[:, 1], expected.end_logits.numpy()[mask], atol=2e-5)


def test_sentence_transformers_loads_the_converted_directory(tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    minilm = minilm_directory()
    convert(str(minilm), str(tmp_path / "out"), "hf")
    texts = ["A man is eating food.", "Stocks fell on Monday."]
    expected = library.SentenceTransformer(str(minilm), device="cpu").encode(texts)
    found = library.SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(texts)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def ragged_pairs(random: np.random.Generator, rows: int, length: int) -> dict[str, np.ndarray]:
    """Rows of two segments that end in padding, each at another place."""
    ids = random.integers(5, 20, (rows, length)).astype(np.int32)
    ends, place = length - 2 - np.arange(rows)[:, None] * 5, np.arange(length)
    mask, second = place < ends, (place >= ends // 2) & (place < ends)
    return {
        "input_ids": np.where(mask, ids, 0),
        "input_mask": mask.astype(np.int32),
        "segment_ids": second.astype(np.int32),
    }


def test_stablehlo_directory_holds_what_the_signature_says(tmp_path: Path) -> None:
    small_run(tmp_path / "run", {3: 1.0})
    result = convert(str(tmp_path / "run"), str(tmp_path / "out"), "stablehlo")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "model.safetensors",
        "model.stablehlo",
        "signature.json",
        "tokenizer",
    ]
    signature = read_json(tmp_path / "out" / "signature.json")
    program = export.deserialize(bytearray((tmp_path / "out" / "model.stablehlo").read_bytes()))
    assert signature["outputs"] == result["outputs"]
    assert signature["platforms"] == list(program.platforms) == ["cpu", "cuda", "tpu"]
    assert list(signature["inputs"]) == ["input_ids", "input_mask", "segment_ids"]


def test_stablehlo_runs_where_bert_jax_is_not(tmp_path: Path) -> None:
    """In a process that cannot import this package, at shapes that were never named, of ragged pairs."""
    small_run(tmp_path / "run", {3: 1.0})
    convert(str(tmp_path / "run"), str(tmp_path / "out"), "stablehlo")
    bert = bert_jax.load(tmp_path / "run")
    random = np.random.default_rng(0)
    for rows, length in ((1, 7), (3, 64)):
        batch = ragged_pairs(random, rows, length)
        expected = {key: np.asarray(value) for key, value in bert.apply(batch).items()}
        for key, other in (("input_mask", 1), ("segment_ids", 0)):  # or equal outputs would say nothing of either
            without = bert.apply({**batch, key: np.full_like(batch[key], other)})
            assert all(np.abs(np.asarray(without[name]) - expected[name]).max() > 1e-2 for name in expected), key
        np.savez(tmp_path / f"batch_{rows}.npz", **batch)
        np.savez(tmp_path / f"expected_{rows}.npz", **expected)
    code = """
import sys, jax, numpy as np
from jax import export
from safetensors.numpy import load_file
sys.modules["bert_jax"] = None
folder = sys.argv[1]
program = export.deserialize(bytearray(open(f"{folder}/out/model.stablehlo", "rb").read()))
assert program.platforms == ("cpu", "cuda", "tpu"), program.platforms
params = load_file(f"{folder}/out/model.safetensors")
for rows in (1, 3):
    batch, expected = (dict(np.load(f"{folder}/{name}_{rows}.npz")) for name in ("batch", "expected"))
    found = jax.jit(program.call)(params, batch)
    assert found.keys() == expected.keys(), found.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(np.asarray(found[key]), value, atol=1e-5, err_msg=key)
print("equal")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.stdout.strip() == "equal", done.stderr[-2000:]
