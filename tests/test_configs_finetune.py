"""The shipped configurations of texts and pairs: they load, their tasks have readers, and they say how to run them."""

from __future__ import annotations

import ast
import json
import runpy

import pytest

from bert_jax.config_files import check_values, from_dict, shipped_folder, to_dict
from bert_jax.finetune_config import FinetuneConfig
from bert_jax.tasks.glue import LAYOUTS

NAMES = (*LAYOUTS, "similarity")


@pytest.mark.parametrize("name", NAMES)
def test_they_load_and_survive_json(name: str) -> None:
    path = shipped_folder() / f"finetune_{name}.py"
    config = runpy.run_path(str(path))["config"]
    assert isinstance(config, FinetuneConfig)
    check_values(config)
    assert from_dict(json.loads(json.dumps(to_dict(config))), FinetuneConfig) == config
    assert config.task.name == name
    assert config.data.train and config.data.dev
    documentation = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    assert f"bert-jax finetune finetune_{name} --run " in documentation and "Not yet run here." in documentation
