"""Arrays by name → our parameters: scopes, spellings and heads understood, each array accounted for."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from checkpoints import arrays, equal, parameters
from small_models import small_config

from bert_jax.errors import BertJaxError
from bert_jax.formats.adopt import Adopted, Report, Tensor, adopt
from bert_jax.formats.names import Layout
from bert_jax.model.parameters import flatten

PATH = Path("somewhere")


class Placed(NamedTuple):
    """An array elsewhere."""

    content: bytes
    shape: tuple[int, ...]


def tensors_of(found: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    return {
        name: Tensor(value.shape, str(value.dtype), lambda value=value: value)  # type: ignore[misc]
        for name, value in found.items()
    }


def adopted(found: Mapping[str, np.ndarray], layout: Layout = "torch", classifier: str = "classification") -> Adopted:
    return adopt(tensors_of(found), layout, small_config(), PATH, classifier)


@pytest.mark.parametrize("layout", ["google", "torch", "flax"])
@pytest.mark.parametrize("head", ["classification", "tagging", "multiple_choice"])
def test_a_classifier_is_the_head_it_is_said_to_be(layout: Layout, head: str) -> None:
    params = parameters((head,), 3)
    found = adopted(arrays(params, layout), layout, head)
    assert (found.heads, found.classes) == ((head,), 3 if head != "multiple_choice" else 2)
    assert equal(found.read(), params)


def test_arrays_are_placed_one_by_one_the_largest_first_and_dropped() -> None:
    """When an array is placed none of those read before it is held any more, but by whoever placed it."""
    params = parameters()
    read: list[weakref.ref[np.ndarray]] = []
    sizes = []

    def place(array: np.ndarray) -> Placed:
        assert not any(earlier() is not None for earlier in read)
        read.append(weakref.ref(array))
        sizes.append(array.size)
        return Placed(array.tobytes(), array.shape)

    later = {
        name: tensor._replace(read=lambda tensor=tensor: tensor.read().copy())  # type: ignore[misc]
        for name, tensor in tensors_of(arrays(params, "torch")).items()
    }
    found = adopt(later, "torch", small_config(), PATH).read(place=place)
    assert sizes == sorted(sizes, reverse=True)
    assert list(flatten(found)) == list(flatten(params))
    for path, leaf in flatten(params).items():
        assert flatten(found)[path] == Placed(leaf.tobytes(), leaf.shape), path


@pytest.mark.parametrize("scope", ["model.bert.", "module.", "encoder.", "bert.bert."])
def test_scopes(scope: str) -> None:
    params = parameters()
    above = scope.removesuffix("bert.") if scope.endswith("bert.") else ""
    moved = {
        scope + name.removeprefix("bert.") if name.startswith("bert.") else above + name: value
        for name, value in arrays(params, "torch").items()
    }
    found = adopted(moved)
    assert equal(found.read(), params)
    assert len(found.report.renamed) == sum(not name.startswith("cls.") for name in moved)


def test_every_array_is_accounted_for() -> None:
    found = arrays(parameters(), "torch")
    words = found["bert.embeddings.word_embeddings.weight"]
    extra = {
        "bert.embeddings.position_ids": np.arange(64),
        "cls.predictions.decoder.weight": words,
        "bert.adapter.weight": np.zeros(2, np.float32),
        "classifier.bias": np.zeros(3, np.float32),
        "classifier.weight": np.zeros((3, 16), np.float32),
    }
    result = adopted({**found, **extra}, classifier="masked_lm")  # a pre-training model with a forgotten classifier
    assert result.heads == ("masked_lm", "next_sentence")
    assert result.report.taken + len(result.report.ignored) == len(found) + len(extra)
    assert set(result.report.ignored) == set(extra)


def test_optimizer_state_is_left_out() -> None:
    found = arrays(parameters(), "google")
    slots = {f"{name}/{slot}": value for name, value in found.items() for slot in ("adam_m", "lamb_v", "Adam_1")}
    others = {"beta1_power": np.float32(0), "global_step": np.int64(3), "good_steps": np.int32(1)}
    result = adopted({**found, **slots, **{name: np.asarray(value) for name, value in others.items()}}, "google")
    assert result.report.taken == len(found)
    assert set(result.report.ignored.values()) == {"state of an optimizer"}


def test_of_two_spellings_the_right_one_counts() -> None:
    params = parameters()
    found = arrays(params, "torch")
    old = {"bert.embeddings.LayerNorm.gamma": np.zeros(16, np.float32)}
    result = adopted({**old, **found})
    assert equal(result.read(), params)
    assert result.report.ignored == {
        "bert.embeddings.LayerNorm.gamma": "another spelling of bert.embeddings.LayerNorm.weight"
    }


def test_a_pooled_head_without_a_pooler_says_so() -> None:
    found = {name: value for name, value in arrays(parameters(), "torch").items() if "pooler" not in name}
    with pytest.raises(BertJaxError, match="'next_sentence' reads the pooled first token, and the model has no pooler"):
        adopted(found)


def test_nothing_is_read_to_match() -> None:
    def never() -> np.ndarray:
        raise AssertionError

    tensors = {name: tensor._replace(read=never) for name, tensor in tensors_of(arrays(parameters(), "torch")).items()}
    assert adopt(tensors, "torch", small_config(), PATH).report.taken == len(tensors)


def test_an_empty_checkpoint() -> None:
    with pytest.raises(BertJaxError, match="somewhere holds no BERT: none of its 0 arrays"):
        adopted({})


def test_the_report_for_a_person_is_short() -> None:
    report = Report(
        taken=7,
        renamed={f"a{n}": f"b{n}" for n in range(9)},
        initialised=["pooler/kernel"],
        ignored={"x": "a constant", "y": "a constant", "z": "other"},
        converted={"w": "float16"},
    )
    assert report.lines() == [
        "taken: 7 arrays",
        "renamed: 9 (a0 → b0, a1 → b1, a2 → b2, a3 → b3, a4 → b4 and 4 more)",
        "initialised anew: 1 (pooler/kernel)",
        "ignored, a constant: 2 (x, y)",
        "ignored, other: 1 (z)",
        "converted to float32: 1 arrays of float16",
    ]
    assert report.to_dict()["taken"] == 7
