"""The table of names: every published name and shape, and both directions bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from bert_jax.bert_config import BertConfig
from bert_jax.formats.names import Layout, names, to_ours, to_theirs
from bert_jax.model.bert import Head, abstract_parameters, make_model
from bert_jax.model.parameters import flatten

LAYOUTS: tuple[Layout, ...] = get_args(Layout)
OURS_ALONE = {"first_token", "relation", "pointers"}  # no published layout knows these heads
HEADS: tuple[str, ...] = tuple(head for head in get_args(Head) if head not in OURS_ALONE)


def shapes_of(
    config: BertConfig, heads: tuple[str, ...] = ("masked_lm", "next_sentence")
) -> dict[str, tuple[int, ...]]:
    leaves = flatten(abstract_parameters(make_model(config, heads=heads, classes=3)))
    return {path: tuple(leaf.shape) for path, leaf in leaves.items()}


def test_the_chinese_preset_has_exactly_the_published_variables(data_dir: Path) -> None:
    variables = json.loads((data_dir / "tf1_chinese_names" / "variables.json").read_text())
    published = {name: tuple(shape) for name, (_, shape) in variables.items()}
    ours = names("google", shapes_of(BertConfig.preset("base_chinese")))
    assert {name.theirs: name.shape for name in ours.values()} == published
    assert len(published) == 206
    assert sum(int(np.prod(shape)) for shape in published.values()) == 102_882_442


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_name_is_given_twice(layout: Layout) -> None:
    config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12)
    for head in HEADS:  # the three classifiers share a name and never a model
        found = names(layout, shapes_of(config, (head,)))
        assert len({name.theirs for name in found.values()}) == len(found)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_and_back_is_bit_equal(layout: Layout) -> None:
    """Sizes all different, so that a forgotten turn is a wrong shape."""
    config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12)
    random = np.random.default_rng(0)
    shapes = shapes_of(config, HEADS)
    for path, name in names(layout, shapes).items():
        array = random.normal(size=shapes[path]).astype(np.float32)
        theirs = to_theirs(array, name)
        assert theirs.shape == name.shape and np.shares_memory(theirs, array)
        np.testing.assert_array_equal(to_ours(theirs, name, shapes[path]), array)


@pytest.mark.parametrize(
    ("path", "google", "torch", "flax"),
    [
        (
            "encoder/layer_11/attention/query/kernel",
            "bert/encoder/layer_11/attention/self/query/kernel",
            "bert.encoder.layer.11.attention.self.query.weight",
            "bert/encoder/layer/11/attention/self/query/kernel",
        ),
        (
            "embeddings/layer_norm/scale",
            "bert/embeddings/LayerNorm/gamma",
            "bert.embeddings.LayerNorm.weight",
            "bert/embeddings/LayerNorm/scale",
        ),
        (
            "embeddings/word_embeddings",
            "bert/embeddings/word_embeddings",
            "bert.embeddings.word_embeddings.weight",
            "bert/embeddings/word_embeddings/embedding",
        ),
        ("masked_lm/bias", "cls/predictions/output_bias", "cls.predictions.bias", "cls/predictions/bias"),
        (
            "next_sentence/kernel",
            "cls/seq_relationship/output_weights",
            "cls.seq_relationship.weight",
            "cls/seq_relationship/kernel",
        ),
        ("classification/kernel", "output_weights", "classifier.weight", "classifier/kernel"),
        ("question_answering/bias", "cls/squad/output_bias", "qa_outputs.bias", "qa_outputs/bias"),
    ],
)
def test_spellings(path: str, google: str, torch: str, flax: str) -> None:
    shape = {path: (8, 2, 4) if "query" in path else (8, 8) if "kernel" in path or "word" in path else (8,)}
    assert [names(layout, shape)[path].theirs for layout in ("google", "torch", "flax")] == [google, torch, flax]


def test_torch_keeps_kernels_as_out_in_and_google_only_its_logits() -> None:
    shapes = {
        "classification/kernel": (8, 3),
        "pooler/kernel": (8, 8),
        "encoder/layer_0/attention/query/kernel": (8, 2, 4),
    }
    shapes["encoder/layer_0/attention/output/kernel"] = (2, 4, 8)
    turned = {layout: {path for path, name in names(layout, shapes).items() if name.turned} for layout in LAYOUTS}
    assert turned == {"google": {"classification/kernel"}, "torch": set(shapes), "flax": set()}
    kernel = np.arange(64, dtype=np.float32).reshape(8, 2, 4)
    name = names("torch", {"encoder/layer_0/attention/query/kernel": kernel.shape})[
        "encoder/layer_0/attention/query/kernel"
    ]
    # Output 5 of torch's map is channel 1 of head 1 of ours.
    np.testing.assert_array_equal(to_theirs(kernel, name)[5], kernel[:, 1, 1])


def test_a_parameter_without_a_row_is_a_mistake_of_ours() -> None:
    with pytest.raises(AssertionError, match="no published layout has a name for parameter 'adapter/kernel'"):
        names("torch", {"adapter/kernel": (1, 1)})
