"""sentence-transformers directories: both spellings of their modules, the encoder elsewhere, lengths, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from checkpoints import arrays, equal, parameters, write_hugging_face
from minilm import minilm_directory

from bert_jax.errors import BertJaxError
from bert_jax.files import write_json
from bert_jax.formats.model import load_model, open_model
from bert_jax.formats.pooling import Pooling, read_pooling, write_pooling

OLD = "sentence_transformers.models."
NEW = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
}


def make(folder: Path, kinds: list[str], pooling: dict[str, Any], *, encoder: str = "", old: bool = True) -> Path:
    folder.mkdir(exist_ok=True)
    listed = []
    for index, kind in enumerate(kinds):
        path = encoder if kind == "Transformer" else f"{index}_{kind}"
        listed.append({"idx": index, "name": str(index), "path": path, "type": OLD + kind if old else NEW[kind]})
        (folder / path).mkdir(exist_ok=True)
        if kind == "Pooling":
            write_json(folder / path / "config.json", pooling)
    write_json(folder / "modules.json", listed)
    return folder


MEAN = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("encoder", ["", "0_Transformer"])
def test_encoder_pooling_and_length_are_taken_over(tmp_path: Path, old: bool, encoder: str) -> None:
    pooling = MEAN if old else {"embedding_dimension": 16, "pooling_mode": "mean", "include_prompt": True}
    folder = make(tmp_path / "model", ["Transformer", "Pooling", "Normalize"], pooling, encoder=encoder, old=old)
    params = parameters(())
    write_hugging_face(folder / encoder, arrays(params, "torch"), "BertModel")
    if old:
        write_json(folder / encoder / "sentence_bert_config.json", {"max_seq_length": 33, "do_lower_case": False})
    else:
        config = folder / encoder / "tokenizer_config.json"
        write_json(config, json.loads(config.read_text()) | {"model_max_length": 33})
        write_json(folder / encoder / "sentence_bert_config.json", {"transformer_task": "feature-extraction"})
    loaded = load_model(folder)
    assert loaded.pooling == Pooling("mean", True, 33)
    assert loaded.kind == "hugging_face" and equal(loaded.params, params)


@pytest.mark.parametrize(
    ("config", "mode"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode": "cls"}, "cls"),
    ],
)
def test_ways_of_pooling(tmp_path: Path, config: dict[str, Any], mode: str) -> None:
    found = read_pooling(make(tmp_path, ["Transformer", "Pooling"], config))
    assert found == (tmp_path, Pooling(mode, False, None))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, "pools by .*mean_tokens and .*cls_token"),
        ({"pooling_mode_lasttoken": True}, "pools by pooling_mode_lasttoken: expected one of mean, cls, max"),
        ({"pooling_mode": "weightedmean"}, "pools by weightedmean"),
        ({}, "pools by nothing"),
        ([], "holds list, expected a JSON object"),
    ],
)
def test_ways_that_are_not_computed_here(tmp_path: Path, config: Any, message: str) -> None:
    with pytest.raises(BertJaxError, match=message):
        read_pooling(make(tmp_path, ["Transformer", "Pooling"], config))


def test_modules_that_are_not_computed_here(tmp_path: Path) -> None:
    for old in (True, False):
        with pytest.raises(BertJaxError, match=r"asks for sentence_transformers.*\.Dense, which is not computed here"):
            read_pooling(make(tmp_path, ["Transformer", "Pooling", "Dense"], MEAN, old=old))
    write_json(tmp_path / "modules.json", {"0": "x"})
    with pytest.raises(BertJaxError, match="modules.json is no list of modules"):
        read_pooling(tmp_path)
    (tmp_path / "modules.json").write_text("[")
    with pytest.raises(BertJaxError, match="modules.json is not JSON"):
        open_model(tmp_path)


@pytest.mark.parametrize("length", [None, 10**30, 0, "many", True])
def test_a_length_that_is_none(tmp_path: Path, length: Any) -> None:
    make(tmp_path, ["Transformer", "Pooling"], MEAN)
    write_json(tmp_path / "sentence_bert_config.json", {"max_seq_length": length})
    found = read_pooling(tmp_path)
    assert found is not None and found[1].max_length is None


def test_what_is_written_is_read(tmp_path: Path) -> None:
    prompts = Pooling("mean", True, 9, {"query": "query: ", "none": ""}, "query", include_prompt=False)
    for number, pooling in enumerate((Pooling("mean", True, 256), Pooling("cls"), Pooling("max", False, 9), prompts)):
        folder = tmp_path / str(number)
        folder.mkdir()
        write_pooling(folder, pooling, 16)
        assert read_pooling(folder) == (folder, pooling)
    with pytest.raises(BertJaxError, match="has no pooling by the pooler"):
        write_pooling(tmp_path, Pooling("pooler"), 16)


def test_prompts_by_name_and_by_themselves(tmp_path: Path) -> None:
    make(tmp_path, ["Transformer", "Pooling"], MEAN | {"include_prompt": False})
    path = tmp_path / "config_sentence_transformers.json"
    write_json(path, {"prompts": {"query": "query: ", "document": None}, "default_prompt_name": "query"})
    found = read_pooling(tmp_path)
    assert found is not None
    recipe = found[1]
    assert (recipe.prompts, recipe.default_prompt, recipe.include_prompt) == ({"query": "query: "}, "query", False)
    asked = (None, "query", "", "passage: ")
    assert [recipe.prompt(name) for name in asked] == ["query: ", "query: ", "", "passage: "]
    assert Pooling().prompt(None) == ""
    write_json(path, {"prompts": {}, "default_prompt_name": "query"})
    with pytest.raises(BertJaxError, match="default_prompt_name is 'query': expected one of its prompts, none"):
        read_pooling(tmp_path)
    write_json(path, {"prompts": ["query"]})
    with pytest.raises(BertJaxError, match="expected an object of texts by their names"):
        read_pooling(tmp_path)


@pytest.mark.parametrize("lower", [True, False])
def test_lower_casing_is_the_recipes_too(tmp_path: Path, lower: bool) -> None:
    """Accents stay where a cased tokenizer leaves them."""
    folder = make(tmp_path / "model", ["Transformer", "Pooling"], MEAN)
    write_hugging_face(folder, arrays(parameters(()), "torch"), "BertModel")
    config = folder / "tokenizer_config.json"
    write_json(config, json.loads(config.read_text()) | {"do_lower_case": False, "strip_accents": None})
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 9, "do_lower_case": lower})
    tokenizer = load_model(folder).tokenizer
    assert tokenizer.tokenize("The cát") == (["the", "[UNK]"] if lower else ["[UNK]", "[UNK]"])
    assert tokenizer.cased is not lower
    assert load_model(folder, cased=True).tokenizer.cased


def test_a_directory_without_modules_has_no_recipe(tmp_path: Path) -> None:
    assert read_pooling(tmp_path) is None


def test_minilm_is_such_a_directory() -> None:
    opened = open_model(minilm_directory())
    assert opened.pooling == Pooling("mean", True, 256)
    assert (opened.heads, opened.tokenizer.cased) == ((), False)
