"""Windows, targets and answers of questions: by the published rules, by trying all, and beside Hugging Face."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import WORDS, small_config, small_tokenizer

from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import TaskData, TaskOptions
from bert_jax.model.bert import apply, init_parameters, make_model
from bert_jax.tasks.question_answering import NOT_LEARNED, QuestionAnswering, best_windows, windows
from bert_jax.tasks.squad import read_squad
from bert_jax.tasks.squad_metric import squad_scores
from bert_jax.tasks.task import Question, Row
from bert_jax.text.tokenizer import WordPieceTokenizer
from bert_jax.text.tokenizer_files import read_vocabulary

OPTIONS = TaskOptions(length=16, query_length=4, doc_stride=5, answer_length=3, n_best=4)
CONTEXT = "The cat sat on the mat. It was tired, the dog played!"


def form(options: TaskOptions = OPTIONS) -> QuestionAnswering:
    return QuestionAnswering(small_tokenizer(), (), options)


def about(context: str = CONTEXT, *answers: tuple[str, int], **more: Any) -> Question:
    return Question(place="a.json, question 7", question="the cat?", context=context, answers=answers or None, **more)


def test_rows_are_question_and_windows() -> None:
    rows = form().encode(about(CONTEXT, ("the dog", 38)))
    tokenizer = small_tokenizer()
    assert [" ".join(tokenizer.pieces(row.ids[0])[5:-1]) for row in rows] == [
        "the cat sat on the mat . it was tired",
        "mat . it was tired , the dog play ##ed",
        ", the dog play ##ed !",
    ]
    for row in rows:
        pieces = tokenizer.pieces(row.ids[0])
        assert pieces[:5] == ["[CLS]", "the", "cat", "?", "[SEP]"] and pieces[-1] == "[SEP]" and len(pieces) <= 16
        assert list(row.segments[0]) == [0] * 5 + [1] * (len(pieces) - 5)
        begin, end = row.targets["answer_begin"], row.targets["answer_end"]
        assert ((begin, end) == (0, 0)) == ("the dog" not in tokenizer.decode(row.ids[0][5:]))
        if begin:
            assert pieces[begin : end + 1] == ["the", "dog"]
    assert {row.targets["answer_begin"] > 0 for row in rows} == {True, False}, "windows with and without it"


def test_windows_begin_a_stride_apart_and_leave_nothing_out() -> None:
    for count in range(1, 40):
        for width in range(1, 12):
            for stride in range(1, 15):
                spans = windows(count, width, stride)
                assert spans[0][0] == 0 and spans[-1][1] == count
                assert all(past - begin == width for begin, past in spans[:-1])
                assert {b - a for (a, _), (b, _) in itertools.pairwise(spans)} <= {min(stride, width)}
                assert not [past for _, past in spans[:-1] if past >= count], "none is inside of the one before"


def test_each_token_counts_in_the_window_where_it_stands_best() -> None:
    def published(place: int, begin: int, past: int) -> float:
        return min(place - begin, past - 1 - place) + 0.01 * (past - begin)

    for count, width, stride in [(1, 5, 2), (20, 6, 2), (23, 7, 3), (30, 10, 9), (12, 5, 5)]:
        spans = windows(count, width, stride)
        found = best_windows(count, spans)
        for place in range(count):
            inside = [span for span in spans if span[0] <= place < span[1]]
            best = max(inside, key=lambda span: published(place, *span))
            counts = [bool(best[place - begin]) for (begin, past), best in zip(spans, found, strict=True)
                      if begin <= place < past]  # fmt: skip
            assert counts == [span == best for span in inside]


def test_targets_of_what_is_not_learned() -> None:
    def targets(example: Question) -> list[tuple[int, int]]:
        return [(row.targets["answer_begin"], row.targets["answer_end"]) for row in form().encode(example)]

    assert set(targets(about(CONTEXT, impossible=True))) == {(0, 0)}
    assert set(targets(about(CONTEXT, ("bird", -1)))) == {(NOT_LEARNED, NOT_LEARNED)}
    assert targets(about(CONTEXT, ("bird", -1), ("cat", 4)))[0] == (6, 6), "the first with a place"
    assert all(row.targets == {} for row in form().encode(about()))
    # An answer that begins inside of a piece, or with a blank, takes the pieces it touches.
    assert targets(about("The cat played", ("lay", 9)))[0] == (7, 7)
    assert targets(about("The cat sat", (" cat", 3)))[0] == (6, 6)


def test_long_questions_are_cut_and_counted() -> None:
    made = form()
    rows = made.encode(Question(question="the cat the cat the cat", context="a dog"))
    assert small_tokenizer().pieces(rows[0].ids[0])[1:6] == ["the", "cat", "the", "cat", "[SEP]"]
    made.encode(about())
    assert made.cut == 1


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Question(question="\u200b", context="a cat"), "input: the question '\\\\u200b' is empty"),
        (Question(place="x", question="a", context="\u200b"), "x: the context '\\\\u200b' is empty"),
    ],
)
def test_texts_in_which_nothing_is_seen(asked: Question, message: str) -> None:
    with pytest.raises(BertJaxError, match=message):
        form().encode(asked)


def test_options_that_leave_no_room() -> None:
    with pytest.raises(BertJaxError, match=r"task\.length 20 leaves no room .* at least 68"):
        form(TaskOptions(length=20))


def logits_of(rows: list[Row], random: np.random.Generator, padding: int = 3) -> list[dict[str, np.ndarray]]:
    """Random ones; padding, which comes with them, is most probable."""
    return [
        {"question_answering_logits": np.concatenate([random.normal(0, 3, (row.length, 2)), np.full((padding, 2), 99)])}
        for row in rows
    ]


def test_answers_are_slices_of_the_context_and_no_longer_than_allowed(data_dir: Path) -> None:
    tokenizer = WordPieceTokenizer(read_vocabulary(data_dir / "vocab" / "bert_base_uncased.txt"), cased=False)
    options = TaskOptions(length=64, query_length=16, doc_stride=24, answer_length=7, n_best=9)
    made = QuestionAnswering(tokenizer, (), options)
    random = np.random.default_rng(0)
    examples = list(read_squad(str(data_dir / "squad/dev-v2.0.json"), TaskData()))[::60]
    assert len(examples) > 150
    for number, example in enumerate(examples):
        made.no_answer_threshold = None if number % 3 else float(random.normal(0, 5))
        rows = made.encode(example)
        prediction = made.decode(example, rows, logits_of(rows, random))
        offsets = tokenizer.encode_with_offsets(example.context)[1]
        assert len(prediction["n_best"]) == options.n_best + (made.no_answer_threshold is not None)
        assert len({answer["answer"] for answer in prediction["n_best"]}) == len(prediction["n_best"])
        assert sum(answer["probability"] for answer in prediction["n_best"]) == pytest.approx(1)
        for answer in prediction["n_best"]:
            start, end = answer["start"], answer["end"]
            if start is None:
                assert answer["answer"] == "" and made.no_answer_threshold is not None
                continue
            assert 0 <= start < end <= len(example.context)
            assert answer["answer"] == example.context[start:end]
            inside = (offsets[:, 0] >= start) & (offsets[:, 1] <= end)
            assert 1 <= len(np.unique(offsets[inside], axis=0)) <= options.answer_length
        shares = [answer["probability"] for answer in prediction["n_best"]]
        assert shares == sorted(shares, reverse=True)


def test_the_best_span_is_the_best_of_all() -> None:
    made, random = form(), np.random.default_rng(1)
    rows = made.encode(about())
    for _ in range(30):
        outputs = logits_of(rows, random)
        best, none = (-math.inf, (0, 0)), math.inf
        for row, output in zip(rows, outputs, strict=True):
            logits, window = output["question_answering_logits"], row.source
            none = min(none, logits[0, 0] + logits[0, 1])
            for begin in np.flatnonzero(window.best):
                for end in range(begin, min(begin + OPTIONS.answer_length, len(window.offsets))):
                    score = logits[window.lead + begin, 0] + logits[window.lead + end, 1]
                    best = max(best, (score, (int(window.offsets[begin, 0]), int(window.offsets[end, 1]))))
        prediction = made.decode(about(), rows, outputs)
        assert (prediction["start"], prediction["end"]) == best[1]
        assert prediction["no_answer_odds"] == pytest.approx(none - best[0])


def test_the_threshold_decides_whether_there_is_an_answer() -> None:
    made = form()
    rows = made.encode(about("The cat sat"))
    logits = np.zeros((rows[0].length, 2))
    logits[0], logits[6] = 3.0, 2.0  # [CLS] 6, `cat` 4: odds 2
    outputs = [{"question_answering_logits": logits}]
    assert made.decode(about("The cat sat"), rows, outputs)["answer"] == "cat"
    for threshold, expected in [(2.5, "cat"), (2.0, "cat"), (1.5, "")]:
        made.no_answer_threshold = threshold
        found = made.decode(about("The cat sat"), rows, outputs)
        assert (found["answer"], found["no_answer_odds"]) == (expected, 2.0)
        assert (found["start"] is None) == (expected == "") and found["no_answer_threshold"] == threshold
        assert found["n_best"][0]["answer"] == "" and found["n_best"][1]["answer"] == "cat"


def test_logits_that_are_no_numbers_give_no_answer() -> None:
    rows = form().encode(about("The cat sat"))
    found = form().decode(about(), rows, [{"question_answering_logits": np.full((rows[0].length, 2), np.nan)}])
    assert found["answer"] == "" and found["n_best"] == [] and found["no_answer_odds"] == math.inf


def batch_of(rows: list[Row], length: int = 16) -> dict[str, jax.Array]:
    batch = {name: np.zeros((len(rows), length), np.int32) for name in ("input_ids", "segment_ids", "input_mask")}
    for index, row in enumerate(rows):
        batch["input_ids"][index, : row.length] = row.ids[0]
        batch["segment_ids"][index, : row.length] = row.segments[0]
        batch["input_mask"][index, : row.length] = 1
    targets = {name: np.array([row.targets[name] for row in rows]) for name in rows[0].targets}
    return {name: jnp.asarray(array) for name, array in (batch | targets).items()}


def test_loss_is_the_mean_over_begin_and_end_of_real_tokens() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (3, 6, 2)).astype(np.float32)
    mask = np.array([[1, 1, 1, 1, 0, 0], [1] * 6, [1] * 6])
    batch = {"input_mask": mask, "answer_begin": np.array([1, 0, -1]), "answer_end": np.array([3, 0, -1])}
    found = np.asarray(form().loss({"question_answering_logits": jnp.asarray(logits)}, batch))  # type: ignore[arg-type]
    first = [math.log(np.exp(logits[0, :4, side]).sum()) - logits[0, place, side] for side, place in ((0, 1), (1, 3))]
    second = [math.log(np.exp(logits[1, :, side]).sum()) - logits[1, 0, side] for side in (0, 1)]
    np.testing.assert_allclose(found, [np.mean(first), np.mean(second), 0], rtol=1e-5)
    assert found.dtype == np.float32


def test_it_learns() -> None:
    """Where the `dog` is, in random sentences; none, and the question cannot be answered."""
    random = np.random.default_rng(0)
    words = [word for word in WORDS[:15] if word != "dog"]
    examples = []
    for number in range(48):
        chosen = random.choice(words, 8).tolist()
        if number % 4:
            chosen[int(random.integers(8))] = "dog"
        text = " ".join(chosen)
        answers = (("dog", text.index("dog")),) if number % 4 else ()
        examples.append(Question(question="it?", context=text, answers=answers, impossible=not answers))
    made = form()
    rows = [row for example in examples for row in made.encode(example)]
    assert len(rows) == 48
    batch = batch_of(rows)
    model = make_model(small_config(), heads=(made.head,), classes=made.classes, pooler=made.pooler)
    params = init_parameters(model, jax.random.key(0))
    rule = optax.adam(1e-2)

    @jax.jit
    def step(params: Any, state: Any) -> tuple[Any, Any, jax.Array]:
        loss, gradients = jax.value_and_grad(lambda p: made.loss(apply(model, p, batch), batch).mean())(params)
        updates, state = rule.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    state = rule.init(params)
    for _ in range(80):
        params, state, loss = step(params, state)
    found = jax.jit(lambda params: made.answers(apply(model, params, batch), batch))(params)
    logits = np.asarray(found["question_answering_logits"])
    predictions = [
        made.decode(example, [row], [{"question_answering_logits": logits[index]}])
        for index, (example, row) in enumerate(zip(examples, rows, strict=True))
    ]
    scores = squad_scores(predictions, examples)
    assert float(loss) < 0.1 and scores["f1"] is not None and scores["f1"] > 95


@pytest.mark.ci
def test_the_development_set_makes_as_many_windows_as_published(data_dir: Path) -> None:
    """10,833: what run_squad.py makes of version 1.1 at 384 tokens and a stride of 128, known also from MLPerf."""
    tokenizer = WordPieceTokenizer(read_vocabulary(data_dir / "vocab" / "bert_base_uncased.txt"), cased=False)
    made = QuestionAnswering(tokenizer, (), TaskOptions(length=384, doc_stride=128, query_length=64))
    examples = read_squad(str(data_dir / "squad/dev-v1.1.json"), TaskData())
    assert sum(len(made.encode(example)) for example in examples) == 10_833


def test_rows_equal_those_of_hugging_face(data_dir: Path) -> None:
    transformers = pytest.importorskip("transformers")
    vocabulary = data_dir / "vocab" / "bert_base_uncased.txt"
    ours = WordPieceTokenizer(read_vocabulary(vocabulary), cased=False)
    theirs = transformers.BertTokenizerFast(vocab=str(vocabulary), do_lower_case=True)
    examples = list(read_squad(str(data_dir / "squad/dev-v2.0.json"), TaskData()))[::118][:100]
    length, stride = 96, 32
    made = QuestionAnswering(ours, (), TaskOptions(length=length, query_length=64, doc_stride=stride))
    count = 0
    for example in examples:
        room = length - len(ours.ids(example.question)) - 3
        coded = theirs(
            example.question,
            example.context,
            max_length=length,
            truncation="only_second",
            stride=room - min(stride, room),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        rows = made.encode(example)
        assert len(rows) == len(coded["input_ids"])
        for index, row in enumerate(rows):
            count += 1
            assert list(row.ids[0]) == coded["input_ids"][index]
            assert list(row.segments[0]) == coded["token_type_ids"][index]
            sides, offsets = coded.sequence_ids(index), coded["offset_mapping"][index]
            shown = [offset for offset, side in zip(offsets, sides, strict=True) if side == 1]
            assert shown == [tuple(offset) for offset in row.source.offsets.tolist()]
            expected = (0, 0)
            if example.answers:
                text, start = example.answers[0]
                first = coded.char_to_token(index, start, sequence_index=1)
                last = coded.char_to_token(index, start + len(text) - 1, sequence_index=1)
                expected = (first, last) if first is not None and last is not None else (0, 0)
            assert (row.targets["answer_begin"], row.targets["answer_end"]) == expected
    assert count > 250
