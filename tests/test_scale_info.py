"""Info counts parameters as published, and tells models, configurations and stores apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from checkpoints import arrays, parameters, write_hugging_face, write_tf1
from small_models import small_run

from bert_jax.bert_config import BertConfig
from bert_jax.cli import main
from bert_jax.errors import BertJaxError
from bert_jax.scale.info import count_parameters, info


def test_base_has_the_published_number_of_parameters() -> None:
    counted = count_parameters(BertConfig.preset("base"))
    assert counted["encoder_total"] == 109_482_240
    # by hand: transform 768² + 768, LayerNorm 2·768, output bias 30,522; next sentence 2·768 + 2
    assert counted["masked_lm"] == 768 * 768 + 768 + 2 * 768 + 30_522
    assert counted["next_sentence"] == 2 * 768 + 2
    assert counted["total"] == counted["encoder_total"] + counted["masked_lm"] + counted["next_sentence"]


def test_a_model_without_a_head_counts_none() -> None:
    assert "next_sentence" not in count_parameters(BertConfig.preset("tiny"), ("masked_lm",))


def test_a_shipped_configuration_by_name() -> None:
    found = info("quickstart")
    assert found["kind"] == "config"
    assert found["heads"] == ["masked_lm", "next_sentence"]
    assert found["parameters"]["embeddings"] > 4096 * 128
    assert found["total_steps"] == sum(phase["steps"] for phase in found["phases"])


def test_what_is_nothing_of_these(tmp_path) -> None:
    with pytest.raises(BertJaxError, match="there is no such path"):
        info(tmp_path / "absent")
    with pytest.raises(BertJaxError, match="is no model"):
        info(tmp_path)
    with pytest.raises(BertJaxError, match="did you mean 'bert_base_wiki'"):
        info("bert_base_wkii")


@pytest.mark.parametrize("kind", ["run", "tf1", "hugging_face"])
def test_each_kind_of_model_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    folder = tmp_path / "model"
    if kind == "run":
        small_run(folder, {3: None})
    elif kind == "tf1":
        pytest.importorskip("tensorflow")
        write_tf1(folder, arrays(parameters(), "google"), "model.ckpt-3")
    else:
        write_hugging_face(folder, arrays(parameters(), "torch"))
    assert main(["info", str(folder)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["schema"], found["heads"]) == (kind, 1, ["masked_lm", "next_sentence"])
    assert found["step"] == (3 if kind == "run" else None)
    assert found["vocabulary"]["size"] == found["model"]["vocab_size"]
    parts = found["parameters"]
    assert parts["encoder_total"] == parts["embeddings"] + parts["encoder"] + parts["pooler"]
    if kind != "run":
        assert found["arrays"]["taken"] == len(arrays(parameters(), "torch"))
