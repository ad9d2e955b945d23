"""Relations: markers in the row, cuts around the entities, the official score, and labels that are learned."""

from __future__ import annotations

from pathlib import Path

import pytest
from task_models import published_tokenizer, tokenizer_of, trained

from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import TaskData, TaskOptions
from bert_jax.infer.by_form import predictions
from bert_jax.tasks.relation import Relation, relation_scores
from bert_jax.tasks.relation_files import SEMEVAL_LABELS, read_relations
from bert_jax.tasks.task import RelationExample

WORDS = ["a", "the", "dog", "cat", "bites", "sees", "big", "##s", ".", "x"]
TOKENIZER = tokenizer_of([*WORDS, "$", "#"])
LABELS = ("Other", "R(e1,e2)", "R(e2,e1)")


def form(length: int = 16, tokenizer: object = TOKENIZER) -> Relation:
    return Relation(tokenizer, LABELS, TaskOptions(length=length))  # type: ignore[arg-type]


def example(text: str, first: str, second: str, label: str | None = None) -> RelationExample:
    """The entities are the first occurrences of these words."""
    places = [(text.index(word), text.index(word) + len(word)) for word in (first, second)]
    return RelationExample(place="f, line 1", text=text, first=places[0], second=places[1], label=label)


def pieces(learned: Relation, given: RelationExample) -> tuple[str, list[int]]:
    (row,) = learned.encode(given)
    return " ".join(learned.tokenizer.pieces(row.ids[0])), row.targets["entity_positions"].tolist()


def test_markers_stand_around_the_entities() -> None:
    text = "the big dog bites cats ."
    assert pieces(form(), example(text, "big dog", "cats", "R(e1,e2)")) == (
        "[CLS] the $ big dog $ bites # cat ##s # . [SEP]",
        [2, 7],
    )
    assert pieces(form(), example(text, "cats", "dog")) == ("[CLS] the big # dog # bites $ cat ##s $ . [SEP]", [7, 3])
    inside = RelationExample(text="big dog", first=(0, 7), second=(4, 7))
    assert pieces(form(), inside) == ("[CLS] $ big # dog # $ [SEP]", [1, 3])
    neighbours = RelationExample(text="catdog", first=(0, 3), second=(3, 6))
    assert pieces(form(), neighbours) == ("[CLS] $ cat $ # dog # [SEP]", [1, 4])


def test_other_markers_or_none() -> None:
    unused = tokenizer_of([*WORDS, "$", *(f"[unused{number}]" for number in range(6))])
    assert pieces(form(tokenizer=unused), example("the dog sees", "the", "dog")) == (
        "[CLS] [unused1] the [unused2] [unused3] dog [unused4] sees [SEP]",
        [1, 4],
    )
    with pytest.raises(BertJaxError, match=r"neither the pieces \$ and # nor \[unused1\] to \[unused4\]"):
        form(tokenizer=tokenizer_of(WORDS))


def test_targets_and_labels() -> None:
    (row,) = form().encode(example("the dog", "the", "dog", "R(e2,e1)"))
    assert row.targets["labels"] == 2
    assert "labels" not in form().encode(example("the dog", "the", "dog"))[0].targets
    assert Relation.labels_of([example("a dog", "a", "dog", label) for label in ("X", "B", None, "X")]) == ("B", "X")
    with pytest.raises(BertJaxError, match="the training examples have no labels"):
        Relation.labels_of([example("a dog", "a", "dog")])
    with pytest.raises(BertJaxError, match=r"f, line 1: label 'Q' is none of .* \(Other, R\(e1,e2\), R"):
        form().encode(example("the dog", "the", "dog", "Q"))
    with pytest.raises(BertJaxError, match=r"f, line 1: an entity at characters 1 to 1 is empty"):
        form().encode(RelationExample(place="f, line 1", text="ab", first=(1, 1), second=(0, 1)))


def test_long_texts_are_cut_around_the_entities() -> None:
    learned = form(length=12)
    text = "x x x x x the dog sees cat a . x x x x x x"
    assert pieces(learned, example(text, "dog", "cat")) == ("[CLS] x the $ dog $ sees # cat # a [SEP]", [3, 7])
    assert learned.cut == 1
    apart = "dog . " + "x " * 20 + ". cat"
    assert pieces(learned, example(apart, "dog", "cat")) == ("[CLS] $ dog $ . x x . # cat # [SEP]", [1, 8])
    long_entity = RelationExample(text="x " * 30 + "dog", first=(0, 59), second=(60, 63))
    assert pieces(form(length=8), long_entity) == ("[CLS] $ x x $ # # [SEP]", [1, 5])
    learned = form(length=64)
    learned.encode(example(text, "dog", "cat"))
    assert learned.cut == 0


def scores(pairs: list[tuple[str, str]]) -> dict:
    """(wanted, found) of each example."""
    examples = [RelationExample(text="ab", first=(0, 1), second=(1, 2), label=wanted) for wanted, _ in pairs]
    return relation_scores([{"label": found} for _, found in pairs], examples)


def test_the_official_score_by_hand() -> None:
    result = scores(
        [
            ("R(e1,e2)", "R(e1,e2)"),
            ("R(e1,e2)", "R(e2,e1)"),  # wrong direction: found, wanted, not right
            ("R(e2,e1)", "S(e1,e2)"),
            ("S(e1,e2)", "S(e1,e2)"),
            ("S(e1,e2)", "Other"),
            ("Other", "R(e1,e2)"),
            ("Other", "Other"),
            ("Other", "Q(e1,e2)"),  # a relation that no example has: takes no part
        ]
    )
    # R: right 1, found 3, wanted 3. S: right 1, found 2, wanted 2.
    assert result["f1_R"] == pytest.approx(1 / 3) and result["f1_S"] == pytest.approx(1 / 2)
    assert result["macro_f1"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert result["macro_precision"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert result["micro_f1"] == pytest.approx(2 * 2 / (5 + 5))
    assert result["accuracy"] == pytest.approx(3 / 8)
    assert "f1_Other" not in result and "f1_Q" not in result


def test_labels_without_direction_and_no_relation_at_all() -> None:
    assert scores([("born-in", "born-in"), ("works-at", "born-in")])["macro_f1"] == pytest.approx((2 / 3) / 2)
    assert scores([("Other", "Other")]) == {
        "macro_f1": None,
        "macro_precision": None,
        "macro_recall": None,
        "micro_f1": None,
        "accuracy": 1.0,
    }


def test_it_learns_direction() -> None:
    examples = [
        example("the dog bites the cat .", "dog", "cat", "R(e1,e2)"),
        example("the dog bites the cat .", "cat", "dog", "R(e2,e1)"),
        example("the cat sees a dog .", "cat", "dog", "Other"),
        example("a dog sees the cat .", "cat", "dog", "Other"),
        example("a cat bites a big dog", "cat", "dog", "R(e1,e2)"),
    ]
    learned = form()
    bert, losses = trained(learned, examples)
    assert losses[-1] < 0.1 < losses[0]
    found = [prediction for _, prediction in predictions(bert, learned, examples)]
    assert relation_scores(found, examples)["macro_f1"] == 1.0
    assert sum(found[0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert found[0]["probability"] == found[0]["probabilities"]["R(e1,e2)"]


def test_every_row_of_semeval_fits_and_points_at_its_markers(data_dir: Path) -> None:
    examples = list(read_relations(str(data_dir / "relation" / "test.tsv"), TaskData()))
    tokenizer = published_tokenizer(data_dir, "bert_base_uncased")
    learned = Relation(tokenizer, SEMEVAL_LABELS, TaskOptions(length=128))
    for given in examples:
        (row,) = learned.encode(given)
        first, second = row.targets["entity_positions"]
        assert tokenizer.pieces([row.ids[0][first], row.ids[0][second]]) == ["$", "#"]
        entity = tokenizer.ids(given.text[slice(*given.second)])
        assert list(row.ids[0][second + 1 : second + 1 + len(entity)]) == entity
    assert learned.cut == 0
