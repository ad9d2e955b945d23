"""What Hugging Face's libraries save, we load, and compute what they compute: every class, every layer, every head."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import arrays, equal, parameters, write_hugging_face
from minilm import minilm_directory
from small_models import small_tokenizer

from bert_jax.errors import BertJaxError
from bert_jax.formats.model import load_model
from bert_jax.formats.pooling import Pooling
from bert_jax.infer.loaded import Bert

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SMALL = {
    "vocab_size": small_tokenizer().vocab_size,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
    "initializer_range": 0.3,  # weights large enough to matter
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
# Class of theirs → their outputs under our names.
OUTPUTS: dict[str, dict[str, str]] = {
    "BertForPreTraining": {
        "masked_lm_logits": "prediction_logits",
        "next_sentence_logits": "seq_relationship_logits",
    },
    "BertForMaskedLM": {"masked_lm_logits": "logits"},
    "BertForNextSentencePrediction": {"next_sentence_logits": "logits"},
    "BertForSequenceClassification": {"classification_logits": "logits"},
    "BertForTokenClassification": {"tagging_logits": "logits"},
    "BertForQuestionAnswering": {},
    "BertForMultipleChoice": {"multiple_choice_logits": "logits"},
    "BertModel": {"pooled_output": "pooler_output"},
}


def saved(folder: Path, name: str, **config: Any) -> Any:
    """A random model of class `name`, saved there by its own library, with biases and norms that are not 0 and 1."""
    torch.manual_seed(0)
    model = getattr(transformers, name)(transformers.BertConfig(**{**SMALL, **config})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    small_tokenizer().save(folder)
    return model


def batch_of(vocabulary: int, rows: int = 3, length: int = 20) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    mask = (np.arange(length) < np.array([length, length - 7, 5])[:rows, None]).astype(np.int32)
    return {
        "input_ids": random.integers(5, vocabulary, (rows, length)).astype(np.int32) * mask,
        "input_mask": mask,
        "segment_ids": (random.integers(0, 2, (rows, length)) * mask).astype(np.int32),
    }


def theirs_of(model: Any, batch: dict[str, np.ndarray], choices: bool = False) -> Any:
    names = {"input_ids": "input_ids", "attention_mask": "input_mask", "token_type_ids": "segment_ids"}
    given = {name: torch.from_numpy(batch[ours].astype(np.int64)) for name, ours in names.items()}
    if choices:  # one question of three choices
        given = {name: value[None] for name, value in given.items()}
    with torch.no_grad():
        return model(**given, output_hidden_states=True, return_dict=True)


def check(name: str, model: Any, folder: Path, tolerance: float) -> None:
    bert = Bert(load_model(folder), attention="einsum")
    batch = batch_of(bert.config.known_vocab_size)
    real = batch["input_mask"].astype(bool)
    ours = bert.apply(batch, hidden_states=True)
    theirs = theirs_of(model, batch, choices=name == "BertForMultipleChoice")

    def same(mine: Any, other: Any, what: str) -> None:
        mine, other = np.asarray(mine), other.numpy()
        if mine.ndim == 3:
            mine, other = mine[real], other[real]
        np.testing.assert_allclose(mine, other, rtol=tolerance, atol=tolerance, err_msg=f"{name} {what}")

    assert len(ours["hidden_states"]) == len(theirs.hidden_states)
    for layer, (mine, other) in enumerate(zip(ours["hidden_states"], theirs.hidden_states, strict=True)):
        same(mine, other, f"layer {layer}")
    for mine, other in OUTPUTS[name].items():
        logits = theirs[other]
        same(ours[mine], logits.reshape(-1, 1) if name == "BertForMultipleChoice" else logits, mine)
    if name == "BertForQuestionAnswering":
        both = torch.stack((theirs.start_logits, theirs.end_logits), -1)
        same(ours["question_answering_logits"], both, "question_answering_logits")


@pytest.mark.parametrize("name", list(OUTPUTS))
def test_each_class_at_every_layer_and_head(tmp_path: Path, name: str) -> None:
    labels = {"num_labels": 3} if name in ("BertForSequenceClassification", "BertForTokenClassification") else {}
    check(name, saved(tmp_path, name, **labels), tmp_path, 2e-5)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "silu"])
def test_activations_mean_the_same(tmp_path: Path, activation: str) -> None:
    check("BertForMaskedLM", saved(tmp_path, "BertForMaskedLM", hidden_act=activation), tmp_path, 2e-5)


@pytest.mark.ci
def test_a_random_base_at_every_layer(tmp_path: Path) -> None:
    base = {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 512,
        "initializer_range": 0.05,
    }
    check("BertForPreTraining", saved(tmp_path, "BertForPreTraining", **base), tmp_path, 1e-4)


@pytest.mark.ci
def test_minilm_on_real_sentences(data_dir: Path) -> None:
    """200 sentences of a film review corpus, one batch of ours each 40, theirs padded alike."""
    lines = sorted((data_dir / "glue").rglob("*SST*/dev.tsv")) or sorted((data_dir / "glue").rglob("*dev*"))
    text = lines[0].read_text(encoding="utf-8").splitlines()[1:]
    random = np.random.default_rng(0)
    sentences = [text[index].split("\t")[0] for index in random.permutation(len(text))[:200]]
    model = transformers.BertModel.from_pretrained(minilm_directory()).eval()
    bert = Bert(load_model(minilm_directory()), attention="einsum")
    for start in range(0, 200, 40):
        rows = [bert.tokenizer.encode(sentence, length=96) for sentence in sentences[start : start + 40]]
        batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        real = batch["input_mask"].astype(bool)
        ours, theirs = bert.apply(batch), theirs_of(model, batch)
        np.testing.assert_allclose(
            np.asarray(ours["sequence_output"])[real], theirs.last_hidden_state.numpy()[real], rtol=0, atol=1e-4
        )
        np.testing.assert_allclose(ours["pooled_output"], theirs.pooler_output.numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("shared", [True, False])
def test_the_shown_command_converts_a_pickle(tmp_path: Path, shared: bool) -> None:
    """The very text of the message, in a shell, for a path with blanks and quotes and a decoder tied to the words."""
    folder = tmp_path / 'it\'s "a" $HOME model'
    params = parameters()
    state = {name: torch.from_numpy(value) for name, value in arrays(params, "torch").items()}
    words = state["bert.embeddings.word_embeddings.weight"]
    state["cls.predictions.decoder.weight"] = words if shared else words.clone()
    write_hugging_face(folder, {"unused": np.zeros(1, np.float32)})
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(BertJaxError, match="is a pickle, which may run anything when read") as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    command = re.search(r"python -c .*$", str(caught.value))
    assert command is not None
    shown = command.group().replace("python", f"'{sys.executable}'", 1)
    done = subprocess.run(["sh", "-c", shown], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert equal(load_model(folder).params, params)
    assert transformers.BertForPreTraining.from_pretrained(folder) is not None


def test_the_shown_command_converts_sharded_pickles(tmp_path: Path) -> None:
    folder, params = tmp_path / "a model", parameters()
    state = {name: torch.from_numpy(value) for name, value in arrays(params, "torch").items()}
    state["cls.predictions.decoder.weight"] = state["bert.embeddings.word_embeddings.weight"]
    write_hugging_face(folder, {"unused": np.zeros(1, np.float32)})
    (folder / "model.safetensors").unlink()
    weight_map = {name: f"pytorch_model-0000{1 + index % 2}-of-00002.bin" for index, name in enumerate(state)}
    for file in set(weight_map.values()):
        torch.save({name: value for name, value in state.items() if weight_map[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(BertJaxError, match="holds 2 pickles") as caught:
        load_model(folder)
    command = re.search(r"python -c .*$", str(caught.value))
    assert command is not None
    shown = command.group().replace("python", f"'{sys.executable}'", 1)
    done = subprocess.run(["sh", "-c", shown], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert equal(load_model(folder).params, params)


def test_a_sharded_model_and_half_precision(tmp_path: Path) -> None:
    model = saved(tmp_path / "a", "BertForMaskedLM")
    model.save_pretrained(tmp_path / "b", max_shard_size="20KB")
    small_tokenizer().save(tmp_path / "b")
    assert (tmp_path / "b" / "model.safetensors.index.json").is_file()
    assert equal(load_model(tmp_path / "a").params, load_model(tmp_path / "b").params)
    half = model.to(torch.bfloat16)
    half.save_pretrained(tmp_path / "c")
    small_tokenizer().save(tmp_path / "c")
    loaded = load_model(tmp_path / "c")
    assert loaded.report is not None and set(loaded.report.converted.values()) == {"bfloat16"}
    words = half.bert.embeddings.word_embeddings.weight.detach().float().numpy()
    np.testing.assert_array_equal(loaded.params["embeddings"]["word_embeddings"], words)


def test_a_tokenizer_saved_by_the_newest_version(tmp_path: Path) -> None:
    """It writes `tokenizer.json` alone."""
    small_tokenizer().save(tmp_path / "ours")
    theirs = transformers.BertTokenizer.from_pretrained(tmp_path / "ours")
    saved(tmp_path / "model", "BertModel")
    for file in ("vocab.txt", "tokenizer_config.json"):
        (tmp_path / "model" / file).unlink()
    theirs.save_pretrained(tmp_path / "model")
    ours = load_model(tmp_path / "model").tokenizer
    for text in ("The cat SAT on the mat!", "Rain, rain?", "", "éa"):
        assert ours.encode(text)["input_ids"].tolist() == theirs(text)["input_ids"]


def test_what_sentence_transformers_saves(tmp_path: Path) -> None:
    """Its newest version writes other names of modules, and keeps the length with the tokenizer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = pytest.importorskip("sentence_transformers")
        from sentence_transformers import models

        params = parameters(())
        source = write_hugging_face(tmp_path / "bert", arrays(params, "torch"), "BertModel")
        transformer = models.Transformer(str(source), max_seq_length=17)
        modules = [transformer, models.Pooling(16, pooling_mode="cls"), models.Normalize()]
        library.SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "saved"))
    loaded = load_model(tmp_path / "saved")
    assert loaded.pooling == Pooling("cls", True, 17, prompts={"query": "", "document": ""})
    assert equal(loaded.params, params)
    assert loaded.tokenizer.tokenize("The cat sat") == ["the", "cat", "sat"]
