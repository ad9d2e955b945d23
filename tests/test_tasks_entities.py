"""Entities of tag sequences, counted as conlleval counts them."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from bert_jax.errors import BertJaxError
from bert_jax.tasks.entities import Counts, entities_of, entity_scores, in_scheme, is_bioes, split_tag, tags_of
from bert_jax.tasks.task import TaggedExample


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O B-X I-X O", [("X", 1, 3)]),
        ("B-X B-X", [("X", 0, 1), ("X", 1, 2)]),
        ("O I-X I-X O", [("X", 1, 3)]),  # I after O begins
        ("B-Y I-X I-X", [("Y", 0, 1), ("X", 1, 3)]),  # I of another kind begins
        ("I-X B-X I-X", [("X", 0, 1), ("X", 1, 3)]),  # as IOB1 parts neighbours
        ("B-X I-Y I-X", [("X", 0, 1), ("Y", 1, 2), ("X", 2, 3)]),
        ("B-X I-X E-X S-X B-X E-X", [("X", 0, 3), ("X", 3, 4), ("X", 4, 6)]),
        ("E-X E-X I-X", [("X", 0, 1), ("X", 1, 2), ("X", 2, 3)]),
        ("S-X I-X O E-Y", [("X", 0, 1), ("X", 1, 2), ("Y", 3, 4)]),
        ("B-X O I-X", [("X", 0, 1), ("X", 2, 3)]),
        ("B-PER.NAM I-PER.NAM B-a-b", [("PER.NAM", 0, 2), ("a-b", 2, 3)]),
        ("B I O B", [("", 0, 2), ("", 3, 4)]),
        ("B-X M-X L-X U-Y", [("X", 0, 3), ("Y", 3, 4)]),
        ("", []),
        ("O O", []),
    ],
)
def test_entities(tags: str, expected: list) -> None:
    assert entities_of(tags.split()) == expected


def test_what_is_no_tag() -> None:
    assert [split_tag(tag) for tag in ("X-LOC", "LOC", "B-", "b-LOC", "")] == [None] * 5
    with pytest.raises(BertJaxError, match=r"tag 'LOC': expected O, or B, I, E or S"):
        entities_of(["O", "LOC"])


def test_schemes_say_the_same() -> None:
    tags = ("I-X", "I-X", "B-X", "O", "I-Y")
    assert in_scheme(tags, bioes=False) == ("B-X", "I-X", "B-X", "O", "B-Y")
    assert in_scheme(tags, bioes=True) == ("B-X", "E-X", "S-X", "O", "S-Y")
    assert is_bioes(("O", "S-X")) and not is_bioes(("O", "B-X", "I-E"))
    assert in_scheme(in_scheme(tags, True), False) == in_scheme(tags, False)


def scores(wanted: Sequence[str], found: Sequence[str]) -> dict:
    examples = [TaggedExample(words=tuple("w" * len(tags.split())), tags=tuple(tags.split())) for tags in wanted]
    return entity_scores([{"tags": tags.split()} for tags in found], examples)


def test_scores_by_hand() -> None:
    result = scores(["B-X I-X O B-Y", "O B-X", "B-Y O"], ["B-X I-X O B-X", "O I-X", "O O"])
    # Wanted: X 2, Y 2. Found: X 3. Right: X 2 (the I after O is the entity B would be).
    assert result["precision"] == pytest.approx(2 / 3) and result["recall"] == pytest.approx(2 / 4)
    assert result["f1"] == pytest.approx(4 / 7)
    assert result["precision_X"] == pytest.approx(2 / 3) and result["recall_X"] == 1.0
    assert (result["precision_Y"], result["recall_Y"], result["f1_Y"]) == (0.0, 0.0, 0.0)
    assert result["macro_f1"] == pytest.approx(0.8 / 2)
    assert result["accuracy"] == pytest.approx(5 / 8)


def test_nothing_wanted_and_nothing_found_is_zero_as_in_the_script() -> None:
    result = scores(["O O"], ["O O"])
    assert (result["precision"], result["recall"], result["f1"], result["accuracy"]) == (0.0, 0.0, 0.0, 1.0)
    assert entity_scores([], [])["accuracy"] is None


def test_an_entity_does_not_go_on_into_the_next_sentence() -> None:
    assert scores(["B-X", "I-X"], ["B-X", "I-X"])["precision"] == 1.0
    counts = Counts()
    counts.add(entities_of(["B-X"]), entities_of(["B-X"]))
    counts.add(entities_of(["I-X"]), entities_of(["I-X"]))
    assert counts.wanted["X"] == 2


def test_other_schemes_of_wanted_and_found_are_compared() -> None:
    result = scores(["B-X I-X O S-Y"], ["B-X I-X O B-Y"])
    assert result["f1"] == 1.0 and result["accuracy"] == 1.0


def test_other_lengths_are_an_error() -> None:
    example = TaggedExample(place="f, line 3", words=("a", "b"), tags=("O", "O"))
    with pytest.raises(BertJaxError, match=r"f, line 3: 1 tags are predicted for 2 words"):
        entity_scores([{"tags": ["O"]}], [example])


def streamed(wanted: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> tuple[int, int, int]:
    """(right, found, wanted) as the script counts them: line by line, both columns at once, a boundary being O."""

    def parts(tag: str) -> tuple[str, str]:
        prefix, _, kind = tag.partition("-")
        return prefix, kind

    def begins(before: tuple[str, str], now: tuple[str, str]) -> bool:
        pairs = ("BB", "IB", "OB", "OI")
        return before[0] + now[0] in pairs or (now[0] != "O" and before[1] != now[1])

    def ends(before: tuple[str, str], now: tuple[str, str]) -> bool:
        pairs = ("BB", "BO", "IB", "IO")
        return before[0] + now[0] in pairs or (before[0] != "O" and before[1] != now[1])

    lines = [pair for gold, guess in zip(wanted, found, strict=True) for pair in (*zip(gold, guess, strict=True), None)]
    counts = [0, 0, 0]
    outside, inside = ("O", ""), False
    last = (outside, outside)
    for line in lines:
        now = (parts(line[0]), parts(line[1])) if line else (outside, outside)
        over = [ends(before, after) for before, after in zip(last, now, strict=True)]
        if inside:
            if all(over) and last[0][1] == last[1][1]:
                counts[0] += 1
                inside = False
            elif over[0] != over[1] or now[0][1] != now[1][1]:
                inside = False
        new = [begins(before, after) for before, after in zip(last, now, strict=True)]
        inside = inside or (all(new) and now[0][1] == now[1][1])
        counts[1] += new[1]
        counts[2] += new[0]
        last = now
    return counts[0], counts[1], counts[2]


def random_tags(random_: random.Random, letters: str, count: int) -> list[str]:
    return random_.choices(["O", *(f"{letter}-{kind}" for letter in letters for kind in "XY")], k=count)


def random_pair(random_: random.Random, letters: str) -> tuple[list[str], list[str]]:
    """Tags, and others of which most are the same."""
    count = random_.randint(1, 9)
    tags, others = random_tags(random_, letters, count), random_tags(random_, letters, count)
    return tags, [other if random_.random() < 0.3 else tag for tag, other in zip(tags, others, strict=True)]


def test_equal_to_the_script_line_by_line_on_random_tags() -> None:
    random_ = random.Random(0)
    for _ in range(300):
        wanted, found = zip(*(random_pair(random_, "BI") for _ in range(4)), strict=True)
        counts = Counts()
        for gold, guess in zip(wanted, found, strict=True):
            counts.add(entities_of(gold), entities_of(guess))
        assert (counts.right.total(), counts.found.total(), counts.wanted.total()) == streamed(wanted, found)


@pytest.mark.filterwarnings("ignore")
def test_equal_to_seqeval_on_random_tags_of_all_schemes() -> None:
    metrics = pytest.importorskip("seqeval.metrics")
    random_ = random.Random(1)
    for letters in ("BI", "BIES"):
        for _ in range(100):
            pairs = [random_pair(random_, letters) for _ in range(5)]
            wanted, found = [list(side) for side in zip(*pairs, strict=True)]
            result = scores([" ".join(tags) for tags in wanted], [" ".join(tags) for tags in found])
            for name, expected in (
                ("precision", metrics.precision_score(wanted, found)),
                ("recall", metrics.recall_score(wanted, found)),
                ("f1", metrics.f1_score(wanted, found)),
            ):
                assert result[name] == pytest.approx(expected), (wanted, found)
            assert tags_of(entities_of(wanted[0]), len(wanted[0]), False) == in_scheme(wanted[0], False)
