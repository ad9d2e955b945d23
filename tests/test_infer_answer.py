"""Questions are answered, and choices made, by the very encode and decode of training, whatever shares their batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import small_config, small_parameters, small_tokenizer

from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import TaskOptions
from bert_jax.formats.model import LoadedModel
from bert_jax.infer.answer import answers
from bert_jax.infer.choose import choose
from bert_jax.infer.loaded import Bert
from bert_jax.tasks.multiple_choice import MultipleChoice
from bert_jax.tasks.question_answering import QuestionAnswering

HEADS = ("question_answering", "multiple_choice")
TEXTS = ["The cat sat on the mat. It was tired, the dog played!", "rain", "a dog ran on the wet street " * 6]


@pytest.fixture(scope="module")
def bert() -> Bert:
    return Bert(
        LoadedModel(
            config=small_config(),
            params=small_parameters(heads=HEADS),
            tokenizer=small_tokenizer(),
            kind="run",
            path=Path("small"),
            step=0,
            heads=HEADS,
        )
    )


@pytest.fixture(scope="module")
def question_form() -> QuestionAnswering:
    options = TaskOptions(length=24, query_length=6, doc_stride=7, answer_length=4, n_best=3)
    return QuestionAnswering(small_tokenizer(), (), options)


@pytest.fixture(scope="module")
def choice_form() -> MultipleChoice:
    return MultipleChoice(small_tokenizer(), (), TaskOptions(length=16))


def test_answers_are_of_their_own_question(bert: Bert, question_form: QuestionAnswering) -> None:
    asked = [("who sat?", TEXTS[0]), {"question": "what?", "context": TEXTS[1], "id": 7}, ("where?", TEXTS[2])]
    together = list(answers(bert, asked, question_form))
    assert [answer["question"] for answer in together] == ["who sat?", "what?", "where?"]
    assert [answer.get("id") for answer in together] == [None, "7", None]
    for item, context, answer in zip(asked, TEXTS, together, strict=True):
        assert context[answer["start"] : answer["end"]] == answer["answer"]
        (alone,) = answers(bert, [item], question_form)
        assert alone["answer"] == answer["answer"]
        np.testing.assert_allclose(alone["no_answer_odds"], answer["no_answer_odds"], rtol=1e-3, atol=1e-4)


def test_choices_are_made_with_any_number_of_endings(bert: Bert, choice_form: MultipleChoice) -> None:
    offered: list[Any] = [
        ("the cat", ["sat", "ran on the road"]),
        {"context": "rain .", "question": "it", "choices": ["was wet", "played", "sat", "ran", "!"], "id": "x"},
        ("the dog", ["ran", "sat", "was happy"]),
    ]
    together = list(choose(bert, offered, choice_form))
    assert [len(answer["probabilities"]) for answer in together] == [2, 5, 3]
    assert [answer["context"] for answer in together] == ["the cat", "rain .", "the dog"]
    assert together[1]["id"] == "x"
    for item, answer in zip(offered, together, strict=True):
        (alone,) = choose(bert, [item], choice_form)
        np.testing.assert_allclose(alone["probabilities"], answer["probabilities"], rtol=1e-3)
        assert answer["choice"] == int(np.argmax(answer["probabilities"]))
    for packed, answer in zip(choose(bert, offered, choice_form, packing=4), together, strict=True):
        np.testing.assert_allclose(packed["probabilities"], answer["probabilities"], atol=1e-5)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("who?", r"input 2 is who\?: expected .*\(question, context\)"),
        ({"question": "who?"}, "input 2 is .* expected"),
        (("", "a cat"), "input 2: the question is empty"),
        (("who?", " "), "input 2: the context is empty"),
        (("\u200b", "a cat"), "input 2: the question .* is empty"),
    ],
)
def test_bad_questions(bert: Bert, question_form: QuestionAnswering, asked: Any, message: str) -> None:
    found = []
    with pytest.raises(BertJaxError, match=message):
        found.extend(answers(bert, [("who?", "rain"), asked], question_form))


@pytest.mark.parametrize(
    ("offered", "message"),
    [
        ("a cat", "input 1 is a cat: expected .*a pair"),
        ({"context": "a", "choices": "b"}, "input 1 is .*: expected"),
        (("a", ["b", 3]), "input 1 is .*: expected"),
        (("a", ["b"]), r"input 1 has 1 choice\(s\)"),
        (("a", ["b", " "]), "input 1: choice 1 is empty"),
        (("", ["a", "b"]), "input 1: context is empty"),
    ],
)
def test_bad_choices(bert: Bert, choice_form: MultipleChoice, offered: Any, message: str) -> None:
    with pytest.raises(BertJaxError, match=message):
        list(choose(bert, [offered], choice_form))


def test_models_that_cannot(bert: Bert, question_form: QuestionAnswering) -> None:
    long = QuestionAnswering(small_tokenizer(), (), TaskOptions(length=200))
    with pytest.raises(BertJaxError, match="200 tokens long .* the model's 64 positions"):
        list(answers(bert, [("who?", "the cat " * 200)], long))
    other = Bert(
        LoadedModel(
            config=small_config(),
            params=small_parameters(heads=()),
            tokenizer=small_tokenizer(),
            kind="run",
            path=Path("small"),
            step=0,
            heads=(),
        )
    )
    with pytest.raises(BertJaxError, match="has no question_answering head"):
        list(answers(other, [("who?", "rain")], question_form))
