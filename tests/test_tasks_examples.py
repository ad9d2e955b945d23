"""Examples of a run: texts in which there is nothing are told, whatever the form, and used as they are."""

from __future__ import annotations

from typing import Any

import pytest
from task_models import tokenizer_of

from bert_jax.finetune_config import TaskData, TaskOptions
from bert_jax.tasks.examples import Split, encode_all
from bert_jax.tasks.table import FORMS
from bert_jax.tasks.task import SimilarExample, SpanExample, TaggedExample, TextExample

TOKENIZER = tokenizer_of(["a", "b", "c"])


def encoded(head: str, *examples: Any) -> list[Any]:
    form = FORMS[head](TOKENIZER, ("x", "y"), TaskOptions(length=8))
    return encode_all(Split("train", examples, ""), form, TaskData())[1]


@pytest.mark.parametrize(
    ("head", "full", "empty"),
    [
        ("classification", TextExample(a="a b c a b c a b"), TextExample(a=" ", place="f, line 3")),
        ("classification", TextExample(a="a", b="b"), TextExample(a="a", b="", place="f, line 3")),
        ("classification", TextExample(a="[SEP] [CLS]"), TextExample(a="", b="b", place="f, line 3")),
        ("similarity", SimilarExample(texts=("a", "b")), SimilarExample(texts=("a", "\u200d"), place="f, line 3")),
        ("pointers", SpanExample(text="a"), SpanExample(text="", place="f, line 3")),
        ("tagging", TaggedExample(words=("\u200d",)), TaggedExample(words=(), place="f, line 3")),
    ],
)
def test_texts_without_any_token_are_counted(
    head: str, full: Any, empty: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(encoded(head, full, full)) == 2
    assert "empty text" not in caplog.text
    assert len(encoded(head, full, empty, empty)) == 3
    assert "train: 2 of 3 examples have an empty text" in caplog.text
    assert "the first: f, line 3" in caplog.text
