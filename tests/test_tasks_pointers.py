"""Pointers: where spans begin and end in tokens, the rule that pairs them, and spans that are learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from task_models import padded, published_tokenizer, tokenizer_of, trained

from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import TaskData, TaskOptions
from bert_jax.infer.by_form import predictions
from bert_jax.tasks.pointers import Pointers, span_scores
from bert_jax.tasks.span_files import read_spans
from bert_jax.tasks.task import SpanExample

TOKENIZER = tokenizer_of(["a", "the", "dog", "bonn", "par", "##is", "lima", "##s", "sees", ".", "台", "湾", "的"])
KINDS = ("LOC", "PER")


def form(length: int = 16, **options: object) -> Pointers:
    return Pointers(TOKENIZER, KINDS, TaskOptions(length=length, **options))  # type: ignore[arg-type]


def example(text: str, *spans: tuple[int, int, str]) -> SpanExample:
    return SpanExample(place="f, line 1", text=text, spans=spans)


def test_labels_and_classes() -> None:
    assert Pointers.labels_of([example("a", (0, 1, "Y")), example("a", (0, 1, "X"))]) == ("X", "Y")
    assert form().classes == 4
    with pytest.raises(BertJaxError, match="the training examples have no spans"):
        Pointers.labels_of([example("a")])


def test_begins_and_ends_in_tokens() -> None:
    learned = form()
    # [CLS] the par ##is dog ##s . [SEP]
    (row,) = learned.encode(example("the  Paris dogs.", (5, 15, "LOC"), (11, 15, "PER"), (5, 10, "PER")))
    pointers = row.targets["pointers"]
    assert pointers.shape == (8, 4)
    assert np.argwhere(pointers == 1).tolist() == [[2, 0], [2, 1], [3, 3], [4, 1], [5, 2], [5, 3]]
    assert (pointers[0] == -1).all() and (pointers[7] == -1).all() and (pointers[1:7] >= 0).all()
    assert learned.unreachable == 0


def test_spans_that_no_row_can_give_are_counted() -> None:
    learned = form()
    learned.encode(example("Paris  dog", (0, 2, "LOC"), (5, 7, "LOC"), (7, 10, "PER")))
    assert learned.unreachable == 2


def test_a_kind_that_was_not_learned() -> None:
    with pytest.raises(BertJaxError, match=r"f, line 1: a span of kind 'X' is none of .* \(LOC, PER\)"):
        form().encode(example("a", (0, 1, "X")))


def test_unknown_spans_have_no_targets() -> None:
    (row,) = form().encode(SpanExample(text="a dog"))
    assert row.targets == {}


@pytest.mark.parametrize(
    ("begins", "ends", "pairs"),
    [
        ([0.9, 0, 0], [0, 0.8, 0], [(0, 1)]),
        ([0.9, 0, 0], [0.8, 0.8, 0], [(0, 0)]),  # the nearest end, which may be the begin itself
        ([0.9, 0.6, 0], [0, 0, 0.5], [(0, 2), (1, 2)]),  # two begins may share an end
        ([0, 0, 0.9], [0.9, 0.9, 0], []),  # no end at or after it
        ([0.4, 0, 0], [0.9, 0, 0], []),
        ([0.9, 0, 0.9], [0.9, 0, 0.9], [(0, 0), (2, 2)]),
    ],
)
def test_the_rule_of_pairs(begins: list[float], ends: list[float], pairs: list) -> None:
    text = "the dog sees"
    learned = form()
    (row,) = learned.encode(SpanExample(text=text))
    probabilities = np.zeros((9, 4), np.float32)  # padding included
    probabilities[1:4, 0], probabilities[1:4, 2] = begins, ends
    probabilities[[0, 4, 5]] = 1.0  # [CLS], [SEP] and padding are never read
    spans = learned.decode(SpanExample(text=text), [row], [{"probabilities": probabilities}])["spans"]
    places = [(0, 3), (4, 7), (8, 12)]
    assert [(span["first"], span["past"]) for span in spans] == [(places[a][0], places[b][1]) for a, b in pairs]
    for span, (begin, end) in zip(spans, pairs, strict=True):
        assert span["kind"] == "LOC" and span["text"] == text[span["first"] : span["past"]]
        assert span["probability"] == pytest.approx(begins[begin] * ends[end])


def test_threshold() -> None:
    (row,) = form().encode(SpanExample(text="a"))
    output = {"probabilities": np.full((3, 4), 0.3, np.float32)}
    assert form().decode(SpanExample(text="a"), [row], [output])["spans"] == []
    assert len(form(threshold=0.2).decode(SpanExample(text="a"), [row], [output])["spans"]) == 2


def test_the_loss_is_the_mean_over_tokens() -> None:
    learned = form()
    rows = learned.encode(example("the dog", (4, 7, "PER"))) + learned.encode(example("a"))
    batch = padded(rows, learned, 7)
    logits = np.random.default_rng(0).normal(size=(2, 7, 4)).astype(np.float32)
    loss = np.asarray(learned.loss({"pointers_logits": logits}, batch))
    shares = 1 / (1 + np.exp(-logits))
    wanted = np.zeros((2, 4))
    wanted[1, [1, 3]] = 1
    cross = -(wanted * np.log(shares[0, 1:3]) + (1 - wanted) * np.log(1 - shares[0, 1:3]))
    np.testing.assert_allclose(loss, [cross.mean(), -np.log(1 - shares[1, 1]).mean()], rtol=1e-5)


def test_a_new_head_begins_at_the_share_of_each_kind() -> None:
    learned = form()
    rows = learned.encode(example("the dog sees a dog", (4, 7, "PER"), (13, 18, "PER")))
    rows += learned.encode(example("the dog . bonn .", (4, 7, "PER")))  # ten tokens in all, three PER
    logits = learned.head_bias(rows)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), [0.1, 0.3, 0.1, 0.3], rtol=1e-6)  # LOC as if there were one
    batch = padded(rows, learned)
    shape = (*batch["input_ids"].shape, 4)
    losses = [learned.loss({"pointers_logits": bias + np.zeros(shape)}, batch) for bias in (logits, np.zeros(4))]
    assert float(losses[0].mean()) < 0.7 * float(losses[1].mean())


def test_windows_keep_every_token_once() -> None:
    text = "the Paris dogs . a bonn paris sees lima . the dogs"
    rows = form(length=8).encode(example(text, (4, 14, "LOC"), (46, 50, "PER")))
    assert len(rows) > 2
    kept = np.concatenate([row.source[1] for row in rows])
    assert kept.tolist() == TOKENIZER.encode_with_offsets(text)[1].tolist()
    assert sum((row.targets["pointers"] == 1).sum() for row in rows) == 4
    assert sum((row.targets["pointers"][:, 0] >= 0).sum() for row in rows) == len(kept)


def test_empty_text() -> None:
    (row,) = form().encode(example(""))
    output = {"probabilities": np.ones((4, 4), np.float32)}
    assert form().decode(example(""), [row], [output]) == {"spans": []}
    loss = form().loss({"pointers_logits": np.ones((1, 2, 4), np.float32)}, padded([row], form()))
    assert float(loss[0]) == 0.0


def test_scores_by_hand() -> None:
    def spans(*found: tuple[int, int, str]) -> dict:
        return {"spans": [{"first": first, "past": past, "kind": kind} for first, past, kind in found]}

    examples = [example("abc", (0, 2, "X"), (1, 2, "Y")), example("abc"), SpanExample(text="abc")]
    result = span_scores([spans((0, 2, "X"), (0, 2, "Y"), (0, 2, "X")), spans((0, 1, "X")), spans()], examples)
    assert result["precision"] == pytest.approx(1 / 3) and result["recall"] == 0.5
    assert result["f1"] == pytest.approx(0.4)
    assert result["f1_X"] == pytest.approx(2 / 3) and result["f1_Y"] == 0.0
    assert result["macro_f1"] == pytest.approx(1 / 3)


def test_it_learns_spans_that_overlap_and_long_texts() -> None:
    examples = [
        example("台湾的bonn", (0, 2, "LOC"), (0, 7, "PER"), (3, 7, "LOC")),
        example("the dog sees the Paris dogs", (17, 22, "LOC"), (4, 7, "PER")),
        example("the dogs sees a dog .", (4, 8, "PER"), (16, 19, "PER")),
        example("a . a . a . a . sees lima .", (21, 25, "LOC")),
    ]
    learned = form(length=10)
    bert, losses = trained(learned, examples, steps=150)
    assert losses[-1] < 0.05 < losses[0]
    found = [prediction for _, prediction in predictions(bert, learned, examples)]
    assert span_scores(found, examples)["f1"] == 1.0


@pytest.mark.parametrize("length", [64, 24])
def test_right_outputs_give_the_spans_of_cluener_back(data_dir: Path, length: int) -> None:
    examples = list(read_spans(str(data_dir / "zh" / "cluener" / "dev.json"), TaskData()))[::4]
    tokenizer = published_tokenizer(data_dir, "bert_base_chinese")
    learned = Pointers(tokenizer, Pointers.labels_of(examples), TaskOptions(length=length))
    found = []
    for given in examples:
        rows = learned.encode(given)
        assert all(row.length <= length for row in rows)
        right = [{"probabilities": (row.targets["pointers"] > 0).astype(np.float32)} for row in rows]
        found.append(learned.decode(given, rows, right))
    assert learned.unreachable <= 1
    assert span_scores(found, examples)["f1"] > 0.998  # type: ignore[operator]
