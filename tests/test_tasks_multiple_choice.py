"""One sequence per ending, softmax over those that are there, and the index of the best."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import WORDS, small_config, small_tokenizer

from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import TaskOptions
from bert_jax.model.bert import apply, init_parameters, make_model
from bert_jax.tasks.multiple_choice import MultipleChoice, choice_accuracy
from bert_jax.tasks.task import ChoiceExample, Row


def form(length: int = 16) -> MultipleChoice:
    return MultipleChoice(small_tokenizer(), (), TaskOptions(length=length))


def test_rows_are_context_and_ending() -> None:
    made, tokenizer = form(), small_tokenizer()
    example = ChoiceExample(context="The cat sat.", question="It", choices=("ran", "was wet", "played"), label=1)
    (row,) = made.encode(example)
    assert [" ".join(tokenizer.pieces(ids)) for ids in row.ids] == [
        "[CLS] the cat sat . [SEP] it ran [SEP]",
        "[CLS] the cat sat . [SEP] it was wet [SEP]",
        "[CLS] the cat sat . [SEP] it play ##ed [SEP]",
    ]
    assert list(row.segments[1]) == [0] * 6 + [1] * 4
    assert row.targets == {"label": 1} and row.length == 10 and made.cut == 0
    assert made.encode(ChoiceExample(context="x", choices=("a", "b")))[0].targets == {}


def test_the_longer_side_is_cut_and_counted() -> None:
    made, tokenizer = form(10), small_tokenizer()
    (row,) = made.encode(ChoiceExample(context="the cat sat on the mat", choices=("it ran", "rain")))
    assert [" ".join(tokenizer.pieces(ids)) for ids in row.ids] == [
        "[CLS] the cat sat on the [SEP] it ran [SEP]",
        "[CLS] the cat sat on the mat [SEP] rain [SEP]",
    ]
    made.encode(ChoiceExample(context="the cat", choices=("it ran", "rain")))
    assert made.cut == 1, "examples, not sequences"


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (ChoiceExample(place="f, line 3", context="a", choices=("a",)), r"f, line 3 has 1 choice\(s\)"),
        (
            ChoiceExample(context="a", choices=("a", "b"), label=2),
            "input has the label 2 and 2 choices: expected 0 to 1",
        ),
        (ChoiceExample(context="\u200b", choices=("a", "\u200b")), "the context and the choice .* hold no text"),
    ],
)
def test_bad_examples(example: ChoiceExample, message: str) -> None:
    with pytest.raises(BertJaxError, match=message):
        form().encode(example)


def test_loss_and_answer_leave_missing_endings_out() -> None:
    logits = np.array([[1.0, 2.0, 9.0], [0.5, -1.0, 3.0]], np.float32)
    batch = {"sequence_mask": jnp.array([[1.0, 1, 0], [1, 1, 1]]), "label": jnp.array([1, 0])}
    found = np.asarray(form().loss({"multiple_choice_logits": jnp.asarray(logits)[..., None]}, batch))
    expected = [np.log(np.exp(logits[0, :2]).sum()) - 2, np.log(np.exp(logits[1]).sum()) - 0.5]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    example = ChoiceExample(context="x", choices=("cat", "dog"), label=1)
    answer = form().decode(example, [], [{"multiple_choice_logits": logits[0][:, None]}])
    assert (answer["choice"], answer["text"]) == (1, "dog")
    assert answer["probabilities"] == pytest.approx([1 / (1 + np.e), np.e / (1 + np.e)])
    assert choice_accuracy([answer, answer, answer], [example, ChoiceExample(context="x", choices=("a", "b"), label=0),
                           ChoiceExample(context="x", choices=("a", "b"))]) == {"accuracy": 0.5}  # fmt: skip
    assert choice_accuracy([], []) == {"accuracy": None}


def batch_of(rows: list[Row], length: int) -> dict[str, jax.Array]:
    shape = (len(rows), max(len(row.ids) for row in rows), length)
    batch: dict[str, Any] = {name: np.zeros(shape, np.int32) for name in ("input_ids", "segment_ids", "input_mask")}
    batch["input_mask"][..., 0] = 1
    batch["sequence_mask"] = np.zeros(shape[:2], np.float32)
    for index, row in enumerate(rows):
        for place, (ids, segments) in enumerate(zip(row.ids, row.segments, strict=True)):
            batch["input_ids"][index, place, : len(ids)] = ids
            batch["segment_ids"][index, place, : len(ids)] = segments
            batch["input_mask"][index, place, : len(ids)] = 1
            batch["sequence_mask"][index, place] = 1
    batch["label"] = np.array([row.targets["label"] for row in rows])
    return {name: jnp.asarray(array) for name, array in batch.items()}


def test_it_learns_with_two_or_three_endings() -> None:
    """The right ending is the one that names the `dog`."""
    random, words = np.random.default_rng(0), [word for word in WORDS[:15] if word != "dog"]
    examples = []
    for number in range(32):
        count = 2 + number % 2
        choices = [" ".join(random.choice(words, 3)) for _ in range(count)]
        label = int(random.integers(count))
        choices[label] = f"{random.choice(words)} dog"
        examples.append(ChoiceExample(context="it was", choices=tuple(choices), label=label))
    made = form()
    rows = [row for example in examples for row in made.encode(example)]
    batch = batch_of(rows, 16)
    model = make_model(small_config(), heads=(made.head,), classes=made.classes, pooler=made.pooler)
    params = init_parameters(model, jax.random.key(0))
    rule = optax.adam(1e-2)

    def outputs(params: Any) -> dict[str, jax.Array]:
        count, endings = batch["sequence_mask"].shape
        flat = {name: batch[name].reshape(count * endings, -1) for name in ("input_ids", "segment_ids", "input_mask")}
        logits = apply(model, params, flat)["multiple_choice_logits"]
        return {"multiple_choice_logits": logits.reshape(count, endings, 1)}

    @jax.jit
    def step(params: Any, state: Any) -> tuple[Any, Any, jax.Array]:
        def loss(params: Any) -> tuple[jax.Array, jax.Array]:
            found = outputs(params)
            return made.loss(found, batch).mean(), found["multiple_choice_logits"]

        (_, logits), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = rule.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, logits

    def accuracy(logits: jax.Array) -> float:
        answers = [
            made.decode(example, [row], [{"multiple_choice_logits": np.asarray(logits[index])}])
            for index, (example, row) in enumerate(zip(examples, rows, strict=True))
        ]
        return choice_accuracy(answers, examples)["accuracy"] or 0.0

    state = rule.init(params)
    seen = []
    for _ in range(60):
        params, state, logits = step(params, state)
        seen.append(logits)
    assert accuracy(seen[0]) < 0.8 and accuracy(seen[-1]) > 0.95
