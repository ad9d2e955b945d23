"""`predict classify`: what the form predicts of the model's own logits, in order, however long the inputs are."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from small_models import small_config, small_tokenizer

from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import TaskOptions
from bert_jax.formats.model import LoadedModel
from bert_jax.infer.classify import classify
from bert_jax.infer.loaded import Bert
from bert_jax.model.bert import abstract_parameters, make_model
from bert_jax.tasks.classification import Classification, FirstToken, MultiLabel, Regression, TextForm

LABELS = ("bad", "fair", "good")
INPUTS = ["the cat", ("a dog", "it ran !"), "", "龘 [MASK]", "rain"]


def bert_with(classes: int, head: str = "classification") -> Bert:
    random = np.random.default_rng(1)
    shapes = abstract_parameters(make_model(small_config(), heads=(head,), classes=classes))
    params = jax.tree.map(lambda leaf: random.normal(0, 0.5, leaf.shape).astype(leaf.dtype), shapes)
    model = LoadedModel(
        config=small_config(),
        params=params,
        tokenizer=small_tokenizer(),
        kind="run",
        path=Path("small"),
        step=0,
        heads=(head,),
        classes=classes,
    )
    return Bert(model)


@pytest.fixture(scope="module")
def bert() -> Bert:
    return bert_with(3)


def form_of(cls: type[TextForm] = Classification, labels: tuple[str, ...] = LABELS) -> Any:
    return cls(small_tokenizer(), labels, TaskOptions(length=16))


def logits_of(bert: Bert, given: Any) -> np.ndarray:
    a, b = (given, None) if isinstance(given, str) else given
    row = bert.tokenizer.encode(a, b, length=16)
    return np.asarray(bert.apply({name: array[None] for name, array in row.items()})["classification_logits"][0])


def test_probabilities_are_the_models(bert: Bert) -> None:
    answers = list(classify(bert, INPUTS, form_of()))
    assert [answer.get("text") for answer in answers] == ["the cat", None, "", "龘 [MASK]", "rain"]
    assert (answers[1]["a"], answers[1]["b"]) == INPUTS[1]
    for given, answer in zip(INPUTS, answers, strict=True):
        logits = logits_of(bert, given)
        shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        np.testing.assert_allclose(list(answer["probabilities"].values()), shares, rtol=1e-4)
        assert tuple(answer["probabilities"]) == LABELS and answer["label"] == LABELS[int(shares.argmax())]


def test_several_labels_and_scores(bert: Bert) -> None:
    answer = next(classify(bert, ["the cat"], form_of(MultiLabel)))
    shares = 1 / (1 + np.exp(-logits_of(bert, "the cat")))
    np.testing.assert_allclose(list(answer["probabilities"].values()), shares, rtol=1e-4)
    assert answer["labels"] == [label for label, share in zip(LABELS, shares, strict=True) if share >= 0.5]
    one = bert_with(1)
    answer = next(classify(one, ["the cat"], form_of(Regression, ())))
    assert answer == {"text": "the cat", "score": pytest.approx(float(logits_of(one, "the cat")[0]), rel=1e-4)}


def test_long_inputs_are_refused_or_cut_as_in_training(bert: Bert, caplog: pytest.LogCaptureFixture) -> None:
    long = "the cat " * 10
    with pytest.raises(BertJaxError, match=r"input 1 is 22 tokens long .* limit of 16: give --truncate to cut it$"):
        list(classify(bert, [long], form_of()))
    form = form_of()
    with caplog.at_level(logging.WARNING, "bert_jax"):
        cut = list(classify(bert, [long, "rain"], form, truncate=True))
    assert "1 of 2 inputs were longer than 16 tokens and were cut" in caplog.text
    seven = next(classify(bert, ["the cat " * 7], form))
    assert cut[0]["probabilities"] == pytest.approx(seven["probabilities"], rel=1e-4)
    whole = next(classify(bert, [long], form, max_length=32))
    assert whole["probabilities"] != pytest.approx(seven["probabilities"], rel=1e-4)
    ends = Classification(form.tokenizer, LABELS, dataclasses.replace(form.options, head_tail=True))
    different = next(classify(bert, ["the cat " * 9 + "was wet"], ends, truncate=True))
    assert different["probabilities"] != pytest.approx(seven["probabilities"], rel=1e-4)


def test_what_cannot_be_classified(bert: Bert) -> None:
    with pytest.raises(BertJaxError, match="input 1 is .* expected a text, or a pair of texts"):
        list(classify(bert, [3], form_of()))  # type: ignore[list-item]
    with pytest.raises(BertJaxError, match="max_length is 2: expected 3 to 64"):
        list(classify(bert, ["a"], form_of(), max_length=2))
    other = Bert(dataclasses.replace(bert.source, heads=(), params=bert.source.params))
    with pytest.raises(BertJaxError, match="small has no classification head .* so it cannot classify texts"):
        list(classify(other, ["a"], form_of()))


@pytest.mark.parametrize("head", ["classification", "first_token"])
def test_packed_answers_are_the_same(head: str) -> None:
    bert = bert_with(3, head)
    form = form_of(Classification if head == "classification" else FirstToken)
    texts = [*INPUTS, "the cat " * 7, ("it", "was wet"), "a"] * 3
    one, packed = (list(classify(bert, texts, form, packing=packing)) for packing in (1, 4))
    for expected, found in zip(one, packed, strict=True):
        names = [name for name in expected if name != "probabilities"]
        assert [found[name] for name in names] == [expected[name] for name in names]
        assert found["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)
    assert len({round(answer["probabilities"]["bad"], 4) for answer in packed}) > 5
    (alone,) = classify(bert, ["rain"], form, packing=7)
    assert alone["probabilities"] == pytest.approx(one[4]["probabilities"], abs=1e-5)
