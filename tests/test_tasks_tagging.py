"""Tagging: labels on first pieces, windows, context of the document, and tags that are learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from task_models import padded, published_tokenizer, tokenizer_of, trained

from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import TaskData, TaskOptions
from bert_jax.infer.by_form import predictions
from bert_jax.tasks.conll import read_columns
from bert_jax.tasks.entities import entity_scores
from bert_jax.tasks.tagging import Tagging
from bert_jax.tasks.task import TaggedExample

TOKENIZER = tokenizer_of(["a", "the", "dog", "bonn", "par", "##is", "lima", "##s", "sees", "."])
LABELS = ("O", "B-LOC", "I-LOC")


def form(length: int = 16, labels: tuple[str, ...] = LABELS, **options: object) -> Tagging:
    return Tagging(TOKENIZER, labels, TaskOptions(length=length, **options))  # type: ignore[arg-type]


def example(words: str, tags: str | None = None, **others: object) -> TaggedExample:
    found = None if tags is None else tuple(tags.split())
    return TaggedExample(place="f, line 1", words=tuple(words.split()), tags=found, **others)  # type: ignore[arg-type]


def test_labels_are_of_kinds_in_either_scheme() -> None:
    assert Tagging.labels_of([example("a a", "O B-X"), example("a", "B-LOC")]) == ("O", "B-LOC", "I-LOC", "B-X", "I-X")
    assert Tagging.labels_of([example("a a", "O S-X")]) == ("O", "B-X", "I-X", "E-X", "S-X")
    with pytest.raises(BertJaxError, match="no word of the training examples has another tag than O"):
        Tagging.labels_of([example("a", "O"), example("a")])


def test_labels_are_on_first_pieces() -> None:
    (row,) = form().encode(example("the Paris dogs \u200b .", "O B-LOC I-LOC O O"))
    assert TOKENIZER.pieces(row.ids[0]) == ["[CLS]", "the", "par", "##is", "dog", "##s", "[UNK]", ".", "[SEP]"]
    assert row.targets["labels"].tolist() == [-1, 0, 1, -1, 2, -1, 0, 0, -1]
    assert row.source == ((0, 1), (1, 2), (2, 4), (3, 6), (4, 7))
    (row,) = form().encode(example("the"))
    assert "labels" not in row.targets


def test_tags_are_written_in_the_scheme_of_the_labels() -> None:
    learned = form(labels=("O", "B-LOC", "I-LOC", "E-LOC", "S-LOC"))
    (row,) = learned.encode(example("a a a", "B-LOC I-LOC B-LOC"))
    assert row.targets["labels"].tolist() == [-1, 1, 3, 4, -1]
    (row,) = form().encode(example("a a a", "B-LOC E-LOC S-LOC"))
    assert row.targets["labels"].tolist() == [-1, 1, 2, 1, -1]


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ("O B-LOC", "f, line 1: 2 tags for 1 words: each word needs one"),
        ("B-PER", r"f, line 1: tag 'B-PER' is none of the labels of the training examples \(O, B-LOC, I-LOC\)"),
    ],
)
def test_bad_tags(tags: str, message: str) -> None:
    with pytest.raises(BertJaxError, match=message):
        form().encode(example("a", tags))


def test_every_word_of_a_long_sentence_is_scored_once() -> None:
    text = "the Paris dogs a bonn paris . a the dogs sees lima paris paris the"
    words = text.split()
    tags = ["B-LOC" if number % 3 == 0 else "O" for number in range(len(words))]
    rows = form(length=8).encode(example(text, " ".join(tags)))
    assert len(rows) > 3 and all(row.length == 8 for row in rows)
    scored = [(word, row.ids[0][place], row.targets["labels"][place]) for row in rows for word, place in row.source]
    assert [word for word, _, _ in scored] == list(range(len(words)))
    assert [piece for _, piece, _ in scored] == [TOKENIZER.ids(word)[0] for word in words]
    assert [label for _, _, label in scored] == [LABELS.index(tag) for tag in tags]
    assert sum((row.targets["labels"] >= 0).sum() for row in rows) == len(words)


def test_no_words() -> None:
    (row,) = form().encode(example("", ""))
    assert len(row.ids[0]) == 2
    batch = padded([row], form())
    assert float(form().loss({"tagging_logits": np.ones((1, 2, 3), np.float32)}, batch)[0]) == 0.0
    assert form().decode(example(""), [row], [{}]) == {"tags": [], "entities": []}


def test_neighbours_fill_the_row_and_are_not_scored() -> None:
    document = [("the", "dogs"), ("Paris", "sees"), ("Bonn",), ("a", "Paris", ".")]
    middle = example("Bonn", "B-LOC", sentences=document, number=2)
    (row,) = form(length=8, document_context=True).encode(middle)
    assert TOKENIZER.pieces(row.ids[0]) == ["[CLS]", "##is", "sees", "bonn", "a", "par", "##is", "[SEP]"]
    assert row.targets["labels"].tolist() == [-1, -1, -1, 1, -1, -1, -1, -1]
    (row,) = form(length=10, document_context=True).encode(example("the dogs", "O O", sentences=document, number=0))
    assert TOKENIZER.pieces(row.ids[0])[1:-1] == ["the", "dog", "##s", "par", "##is", "sees", "bonn", "a"]
    (row,) = form(length=64, document_context=True).encode(example("a Paris .", None, sentences=document, number=3))
    assert [word for word, _ in row.source] == [0, 1, 2] and row.length == 2 + 11
    (row,) = form(length=8).encode(middle)
    assert row.length == 3


def test_the_loss_is_the_mean_over_scored_words() -> None:
    learned = form()
    rows = [row for words, tags in (("Paris", "B-LOC"), ("a a", "O O")) for row in learned.encode(example(words, tags))]
    batch = padded(rows, learned)
    logits = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    loss = np.asarray(learned.loss({"tagging_logits": logits}, batch))
    shares = np.log(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(loss, [-shares[0, 1, 1], -(shares[1, 1, 0] + shares[1, 2, 0]) / 2], rtol=1e-5)


def test_entities_have_characters_where_there_is_a_text() -> None:
    text = "a  Paris dogs."
    offsets = ((0, 1), (3, 8), (9, 13), (13, 14))
    whole = example("a Paris dogs .", text=text, offsets=offsets)
    rows = form().encode(whole)
    output = {"classes": np.array([0, 0, 1, 0, 2, 0, 0, 0]), "probabilities": np.array([0, 1, 0.5, 0, 1, 0, 1, 0])}
    prediction = form().decode(whole, rows, [output])
    assert prediction["tags"] == ["O", "B-LOC", "I-LOC", "O"]
    expected = {"kind": "LOC", "first": 3, "past": 13, "text": "Paris dogs", "probability": 0.75}
    assert prediction["entities"] == [expected]
    (entity,) = form().decode(example("a Paris dogs ."), rows, [output])["entities"]
    assert (entity["first"], entity["past"], entity["text"]) == (1, 3, "Paris dogs")


def test_it_learns_and_long_sentences_too() -> None:
    examples = [
        example("the dog sees Paris .", "O O O B-LOC O"),
        example("Bonn Lima sees the dogs", "B-LOC I-LOC O O O"),
        example("a dog sees a dog . " * 3 + "Lima", "O O O O O O " * 3 + "B-LOC"),
    ]
    learned = form(length=10, labels=Tagging.labels_of(examples))
    bert, losses = trained(learned, examples)
    assert losses[-1] < 0.1 < losses[0]
    found = [prediction for _, prediction in predictions(bert, learned, examples)]
    assert entity_scores(found, examples)["f1"] == 1.0
    assert [len(prediction["tags"]) for prediction in found] == [5, 5, 19]


@pytest.mark.parametrize("length", [192, 24])
def test_right_outputs_give_the_tags_of_weibo_back(data_dir: Path, length: int) -> None:
    examples = list(read_columns(str(data_dir / "zh" / "weibo_ner" / "weiboNER_2nd_conll.dev"), TaskData()))
    tokenizer = published_tokenizer(data_dir, "bert_base_chinese")
    learned = Tagging(tokenizer, Tagging.labels_of(examples), TaskOptions(length=length))
    found = []
    for given in examples:
        rows = learned.encode(given)
        right = [
            {"classes": np.maximum(row.targets["labels"], 0), "probabilities": np.ones(row.length)} for row in rows
        ]
        found.append(learned.decode(given, rows, right))
    scores = entity_scores(found, examples)
    assert scores["f1"] == scores["accuracy"] == 1.0
