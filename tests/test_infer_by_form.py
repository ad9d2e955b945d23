"""The verbs tag, extract and relate: raw texts in, words, spans and labels out, streamed and windowed."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import numpy as np
import pytest
from small_models import WORDS, small_config
from task_models import padded, tokenizer_of

from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import TaskOptions
from bert_jax.formats.model import LoadedModel
from bert_jax.infer.extract import extracts
from bert_jax.infer.loaded import Bert
from bert_jax.infer.relate import relations
from bert_jax.infer.tag import tagged_text, tags
from bert_jax.model.bert import abstract_parameters, make_model
from bert_jax.tasks.pointers import Pointers
from bert_jax.tasks.relation import Relation
from bert_jax.tasks.tagging import Tagging
from bert_jax.tasks.task import Form

TOKENIZER = tokenizer_of([*WORDS, "$", "#"])
TEXT = "The cat sat on the mat. It was tired, the dog's street was wet!"


def bert_of(form: Form) -> Bert:
    """Parameters drawn by numpy, large enough that answers differ."""
    config = dataclasses.replace(small_config(), vocab_size=TOKENIZER.vocab_size)
    heads = () if form.head is None else (form.head,)
    module = make_model(config, heads=heads, classes=form.classes, pooler=False)
    random = np.random.default_rng(0)
    import jax

    params: dict[str, Any] = jax.tree.map(
        lambda leaf: random.normal(0, 0.5, leaf.shape).astype(leaf.dtype), abstract_parameters(module)
    )
    loaded = LoadedModel(
        config=config,
        params=params,
        tokenizer=TOKENIZER,
        kind="run",
        path="small",  # type: ignore[arg-type]
        step=0,
        heads=heads,
        classes=form.classes,
        pooler=False,
    )
    return Bert(loaded)


@pytest.fixture(scope="module")
def tagging() -> tuple[Bert, Tagging]:
    form = Tagging(TOKENIZER, ("O", "B-X", "I-X", "B-Y", "I-Y"), TaskOptions(length=16))
    return bert_of(form), form


def test_tags_of_texts_with_characters(tagging: tuple[Bert, Tagging]) -> None:
    bert, form = tagging
    answers = list(tags(bert, [TEXT, "", "cat", "\u200b", TEXT * 3], form))
    assert [answer["text"] for answer in answers] == [TEXT, "", "cat", "\u200b", TEXT * 3]
    assert answers[0]["words"][:6] == ["The", "cat", "sat", "on", "the", "mat"]
    assert answers[1]["tags"] == answers[1]["entities"] == answers[3]["words"] == []
    for answer in answers:
        assert len(answer["tags"]) == len(answer["words"])
        for entity in answer["entities"]:
            assert answer["text"][entity["first"] : entity["past"]] == entity["text"] != ""
            assert 0 < entity["probability"] <= 1
    assert any(answer["entities"] for answer in answers)


def test_a_text_that_fits_has_the_model_s_own_tags(tagging: tuple[Bert, Tagging]) -> None:
    bert, form = tagging
    (answer,) = tags(bert, ["the cat sat on the mat"], form)
    (row,) = form.encode(tagged_text("the cat sat on the mat", ""))
    logits = np.asarray(bert.apply(padded([row], form, 16))["tagging_logits"])[0]
    assert answer["tags"] == [form.labels[number] for number in logits[1:7].argmax(-1)]


def test_spans_of_texts() -> None:
    form = Pointers(TOKENIZER, ("X", "Y"), TaskOptions(length=16))
    bert = bert_of(form)
    answers = list(extracts(bert, [TEXT, "", TEXT + " " + TEXT], form))
    assert answers[1] == {"text": "", "spans": []} and answers[0]["spans"]
    for answer in answers:
        for span in answer["spans"]:
            assert answer["text"][span["first"] : span["past"]] == span["text"]
            assert 0.25 <= span["probability"] <= 1 and span["kind"] in "XY"


def test_relations_of_tagged_texts_and_of_offsets(caplog: pytest.LogCaptureFixture) -> None:
    form = Relation(TOKENIZER, ("Other", "R(e1,e2)", "R(e2,e1)"), TaskOptions(length=24))
    bert = bert_of(form)
    given = {"text": "the cat sat on the mat .", "first": [4, 7], "second": [19, 22]}
    one, same, swapped = relations(
        bert,
        ["the <e1>cat</e1> sat on the <e2> mat </e2> .", given, "the <e2>cat</e2> sat on the <e1>mat</e1> ."],
        form,
    )
    assert one == same and one["first"] == [4, 7] and one["text"] == given["text"]
    assert swapped["probabilities"] != one["probabilities"] and swapped["first"] == [19, 22]
    assert one["label"] == max(one["probabilities"], key=one["probabilities"].get)
    with caplog.at_level(logging.WARNING, "bert_jax"):
        list(relations(bert, ["<e1>cat</e1> " + "the " * 60 + "<e2>mat</e2>", given], form))
    assert "1 of 2 inputs were longer than 24 tokens and were cut" in caplog.text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("no entity", r"input 1: 'no entity' does not mark two entities"),
        ("", r"input 1: '' does not mark two entities"),
        ({"text": "ab", "first": [0, 1]}, r"input 1: first and second are"),
        ({"text": "ab", "first": [0, 1], "second": [1, 3]}, "input 1: an entity at characters 1 to 3"),
        (5, r"input 1 is '5': expected a text with <e1>"),
        (("a", "b"), r"input 1 is .* expected a text with <e1>"),
    ],
)
def test_what_is_no_input(given: Any, message: str) -> None:
    form = Relation(TOKENIZER, ("Other", "R"), TaskOptions(length=24))
    with pytest.raises(BertJaxError, match=message):
        list(relations(bert_of(form), [given], form))


def test_bad_models_and_texts(tagging: tuple[Bert, Tagging]) -> None:
    bert, form = tagging
    with pytest.raises(BertJaxError, match=r"input 2 is '5' \(int\): expected a text"):
        list(tags(bert, ["a cat", 5], form))  # type: ignore[list-item]
    with pytest.raises(BertJaxError, match="small has no pointers head"):
        list(extracts(bert, ["a"], Pointers(TOKENIZER, ("X",), TaskOptions(length=16))))
    with pytest.raises(BertJaxError, match=r"task.length: a row is 128 tokens long .* model's 64 positions"):
        list(tags(bert, ["a"], Tagging(TOKENIZER, form.labels, TaskOptions(length=128))))
