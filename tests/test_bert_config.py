"""BertConfig: both JSON dialects, presets, and one clear line for whatever does not fit."""

from __future__ import annotations

import dataclasses
import json

import pytest

from bert_jax.bert_config import PRESETS, BertConfig
from bert_jax.errors import BertJaxError

GOOGLE = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 64,
    "max_position_embeddings": 24,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "type_vocab_size": 2,
    "vocab_size": 60,
}
HUGGINGFACE = {
    **GOOGLE,
    "model_type": "bert",
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "architectures": ["BertModel"],
}


def test_gelu_means_two_functions():
    assert BertConfig.from_dict(GOOGLE).hidden_act == "gelu_tanh"
    assert BertConfig.from_dict(HUGGINGFACE).hidden_act == "gelu_exact"
    assert BertConfig.from_dict({**HUGGINGFACE, "hidden_act": "gelu_new"}).hidden_act == "gelu_tanh"
    assert BertConfig.from_dict(GOOGLE, dialect="huggingface").hidden_act == "gelu_exact"
    with pytest.raises(BertJaxError, match="two functions"):
        BertConfig(hidden_act="gelu")


@pytest.mark.parametrize(
    ("name", "ours"),
    [("swish", "silu"), ("RELU", "relu"), ("", "linear"), (None, "linear"), ("gelu_pytorch_tanh", "gelu_tanh")],
)
def test_other_activation_names(name, ours):
    assert BertConfig.from_dict({**GOOGLE, "hidden_act": name}).hidden_act == ours


@pytest.mark.parametrize("act", ["gelu_tanh", "gelu_exact", "relu", "silu"])
@pytest.mark.parametrize("dialect", [None, "huggingface"])
def test_what_is_written_reads_back(act, dialect):
    config = BertConfig.from_dict({**HUGGINGFACE, "hidden_act": act, "task": {"a": [1]}, "layer_norm_eps": 1e-5})
    again = BertConfig.from_dict(json.loads(config.to_json_string(dialect)))
    if dialect:
        again = dataclasses.replace(again, extra={k: v for k, v in again.extra.items() if k != "model_type"})
        config = dataclasses.replace(config, extra={k: v for k, v in config.extra.items() if k != "model_type"})
    assert again == config


def test_google_export_reads_back_and_refuses_what_it_cannot_say():
    config = BertConfig.from_dict(HUGGINGFACE | {"hidden_act": "gelu_new"})
    written = config.to_dict("google")
    assert written == GOOGLE
    assert BertConfig.from_dict(written).hidden_act == "gelu_tanh"
    with pytest.raises(BertJaxError, match="no name in Google's"):
        BertConfig.from_dict(HUGGINGFACE).to_dict("google")
    with pytest.raises(BertJaxError, match="layer_norm_eps"):
        dataclasses.replace(config, layer_norm_eps=1e-5).to_dict("google")


def test_huggingface_export_names_the_two_gelus():
    assert BertConfig(hidden_act="gelu_tanh").to_dict("huggingface")["hidden_act"] == "gelu_new"
    assert BertConfig(hidden_act="gelu_exact").to_dict("huggingface")["hidden_act"] == "gelu"


def test_unknown_keys_are_kept_and_reported():
    config = BertConfig.from_dict({**GOOGLE, "pooler_fc_size": 768})
    assert config.extra == {"pooler_fc_size": 768}
    assert config.to_dict()["pooler_fc_size"] == 768
    assert hash(config) == hash(BertConfig.from_dict(GOOGLE))  # a module keeps it, so it must be hashable


def test_unknown_keys_of_a_file_are_named(tmp_path, caplog):
    (tmp_path / "bert_config.json").write_text(json.dumps({**GOOGLE, "pooler_fc_size": 768, "directionality": "bidi"}))
    with caplog.at_level("INFO", "bert_jax"):
        config = BertConfig.from_json_file(tmp_path / "bert_config.json")
    assert set(config.extra) == {"pooler_fc_size", "directionality"}
    assert caplog.messages == [
        f"{tmp_path}/bert_config.json: kept, but without meaning here: directionality, pooler_fc_size"
    ]


def test_published_file(data_dir):
    config = BertConfig.from_json_file(data_dir / "tf1_sharp" / "bert_config.json")
    assert (config.vocab_size, config.hidden_act, config.layer_norm_eps) == (60, "gelu_tanh", 1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 5}, "num_attention_heads 5 does not divide hidden_size 32"),
        ({"hidden_size": 0}, "hidden_size is 0: expected at least 1"),
        ({"num_hidden_layers": "3"}, "num_hidden_layers is '3': expected a whole number"),
        ({"vocab_size": True}, "vocab_size is True: expected a whole number"),
        ({"hidden_dropout_prob": 1.0}, "hidden_dropout_prob is 1.0: expected a share"),
        ({"initializer_range": None}, "initializer_range is None: expected a number"),
        ({"layer_norm_eps": 0.0}, "layer_norm_eps is 0.0: expected a positive number"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps is nan: expected a positive number"),
        ({"hidden_act": "gelu_tan"}, "did you mean 'gelu_tanh'"),
        ({"hidden_act": 3}, "hidden_act is 3"),
        ({"pad_token_id": 60}, "pad_token_id 60 is outside"),
        ({"model_type": "roberta"}, "model_type is 'roberta'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"is_decoder": True}, "is_decoder is True"),
    ],
)
def test_bad_values_are_one_clear_line(changes, message):
    with pytest.raises(BertJaxError, match=message) as caught:
        BertConfig.from_dict({**GOOGLE, **changes})
    assert "\n" not in str(caught.value)


def test_errors_name_the_file(tmp_path):
    path = tmp_path / "bert_config.json"
    path.write_text(json.dumps({**GOOGLE, "num_attention_heads": 5}))
    with pytest.raises(BertJaxError, match="bert_config.json: num_attention_heads"):
        BertConfig.from_json_file(path)
    path.write_text("[1]")
    with pytest.raises(BertJaxError, match="expected one JSON object"):
        BertConfig.from_json_file(path)


def test_vocab_size_may_be_the_tokenizers():
    config = BertConfig.preset("tiny", vocab_size=None)
    with pytest.raises(BertJaxError, match="vocab_size is not set"):
        _ = config.known_vocab_size
    assert config.with_vocab_size(99).known_vocab_size == 99
    assert config.with_vocab_size(99).with_vocab_size(99).vocab_size == 99
    with pytest.raises(BertJaxError, match="vocab_size is 99 and the tokenizer has 98"):
        config.with_vocab_size(99).with_vocab_size(98)


def test_presets_are_the_published_sizes():
    sizes = {
        name: (config.num_hidden_layers, config.hidden_size) for name in PRESETS if (config := BertConfig.preset(name))
    }
    assert sizes["tiny"] == (2, 128)
    assert sizes["mini"] == (4, 256)
    assert sizes["small"] == (4, 512)
    assert sizes["medium"] == (8, 512)
    assert sizes["base"] == (12, 768)
    assert sizes["large"] == (24, 1024)
    vocabularies = [
        BertConfig.preset(name).vocab_size for name in ("base", "base_cased", "base_chinese", "multilingual")
    ]
    assert vocabularies == [30522, 28996, 21128, 119547]
    assert all(BertConfig.preset(name).head_size == 64 for name in PRESETS)
    with pytest.raises(BertJaxError, match="did you mean 'base'"):
        BertConfig.preset("bases")


def test_every_field_has_help_on_the_command_line(capsys):
    import tyro

    with pytest.raises(SystemExit):
        tyro.cli(BertConfig, args=["--help"])
    shown = capsys.readouterr().out
    for item in dataclasses.fields(BertConfig):
        assert item.name == "extra" or f"--{item.name.replace('_', '-')}" in shown
    assert "they divide hidden_size" in shown


def test_what_hugging_face_leaves_out_is_as_with_bert_base() -> None:
    config = BertConfig.from_dict({"model_type": "bert", "hidden_size": 128, "num_attention_heads": 2})
    assert (config.hidden_act, config.vocab_size) == ("gelu_exact", 30522)
    assert BertConfig.from_dict({"hidden_size": 128, "num_attention_heads": 2}).hidden_act == "gelu_tanh"
