"""Texts and pairs with labels: how they become rows, what is lost and found, what is told before training."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import small_config, small_parameters, small_tokenizer

from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import TaskOptions
from bert_jax.model.bert import apply, init_parameters, make_model
from bert_jax.tasks.classification import Classification, FirstToken, MultiLabel, Regression, TextForm, in_order
from bert_jax.tasks.task import TextExample

OPTIONS = TaskOptions(length=10)


def form_of(cls: type[TextForm], labels: tuple[str, ...] = ("no", "yes"), **options: object) -> TextForm:
    return cls(small_tokenizer(), labels, TaskOptions(**{"length": 10, **options}))  # type: ignore[arg-type]


def example(a: str = "the cat", label: object = None, b: str | None = None, line: int = 3) -> TextExample:
    return TextExample(a=a, b=b, label=label, place=f"f.tsv, line {line}")  # type: ignore[arg-type]


def pieces(form: TextForm, given: TextExample) -> str:
    row = form.encode(given)[0]
    assert len(row.ids[0]) == len(row.segments[0]) == row.length <= form.options.length
    return " ".join(form.tokenizer.pieces(row.ids[0]))


def test_rows_of_texts_and_pairs() -> None:
    form = form_of(Classification)
    assert pieces(form, example("the cat")) == "[CLS] the cat [SEP]"
    assert pieces(form, example("the cat", b="a dog ran")) == "[CLS] the cat [SEP] a dog ran [SEP]"
    assert form.encode(example("the cat", b="a dog"))[0].segments[0] == (0, 0, 0, 0, 1, 1, 1)
    assert pieces(form, example("", b="")) == "[CLS] [SEP] [SEP]"
    assert pieces(form, example("龘 [MASK] cat")).count("[UNK]") >= 1
    assert "[MASK]" not in pieces(form, example("[MASK] cat"))  # typed specials are plain characters
    assert form.cut == 0


def test_too_long_ones_are_cut_and_counted() -> None:
    form = form_of(Classification)
    words = "the cat sat on a mat and it was tired"
    exact = "the cat sat on a mat it was"
    assert pieces(form, example(exact)) == f"[CLS] {exact} [SEP]"
    assert form.cut == 0
    assert pieces(form, example(words)).split()[1:-1] == words.replace("and", "[UNK]").split()[:8]
    assert pieces(form, example("a dog", b=words)) == "[CLS] a dog [SEP] the cat sat on a [SEP]"
    even = pieces(form, example("cat " * 9, b="dog " * 9))
    assert even == "[CLS] cat cat cat [SEP] dog dog dog dog [SEP]"  # of an odd room B has more, as with Hugging Face
    assert form.cut == 3
    both = form_of(Classification, head_tail=True)
    assert pieces(both, example("the cat " + "dog " * 9 + "was tired")) == f"[CLS] the cat {'dog ' * 4}was tired [SEP]"


def test_targets() -> None:
    assert form_of(Classification).encode(example(label="yes"))[0].targets == {"labels": 1}
    assert form_of(Classification).encode(example())[0].targets == {}
    assert form_of(Regression, ()).encode(example(label=2.5))[0].targets == {"scores": 2.5}
    several = form_of(MultiLabel, ("a", "b", "c")).encode(example(label=("c", "a")))[0].targets["labels"]
    assert several.tolist() == [1, 0, 1] and several.dtype == np.float32
    assert form_of(MultiLabel, ("a", "b")).encode(example(label=()))[0].targets["labels"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("cls", "label", "message"),
    [
        (
            Classification,
            "maybe",
            "f.tsv, line 3 has the label 'maybe', which no training example has: expected one of",
        ),
        (Classification, 0.5, "f.tsv, line 3 has the label 0.5: expected the name of a class; see data.label"),
        (MultiLabel, ("yes", "x"), "f.tsv, line 3 has the label 'x', which no training example has"),
        (MultiLabel, 1.0, "f.tsv, line 3 has the label 1.0: expected a list of names"),
        (Regression, "good", "f.tsv, line 3 has the score 'good': expected a number"),
        (Regression, float("nan"), "f.tsv, line 3 has the score nan: expected a number"),
    ],
)
def test_labels_that_do_not_fit(cls: type[TextForm], label: object, message: str) -> None:
    with pytest.raises(BertJaxError, match=message):
        form_of(cls).encode(example(label=label))
    with pytest.raises(BertJaxError, match=message):
        form_of(cls).check([example(label=label)], [])


def test_labels_of_training_examples() -> None:
    assert in_order({"10", "9", "b", "a"}) == ("9", "10", "a", "b")
    examples = [example(label=label, line=line) for line, label in enumerate(("yes", "no", "yes"))]
    assert Classification.labels_of(examples) == ("no", "yes")
    assert Regression.labels_of(examples) == () and form_of(Regression, ()).classes == 1
    assert MultiLabel.labels_of([example(label=("b", "a")), example(label=())]) == ("a", "b")
    with pytest.raises(
        BertJaxError, match="all training examples up to f.tsv, line 2 have the label 'yes': expected two"
    ):
        Classification.labels_of(examples[::2])
    with pytest.raises(BertJaxError, match="f.tsv, line 3 has no label: expected the name of a class"):
        Classification.labels_of([*examples, example()])
    with pytest.raises(BertJaxError, match="no training example has any label"):
        MultiLabel.labels_of([example(label=())])
    with pytest.raises(BertJaxError, match="f.tsv, line 3 has no labels: expected a list"):
        MultiLabel.labels_of([example()])


def test_what_is_told_before_training(caplog: pytest.LogCaptureFixture) -> None:
    train = [example(label=label) for label in ("no", "no")]
    form_of(Classification).check(train, [example(label="yes", line=1), example(label="yes", line=2)])
    assert "no training example has the label 'yes' (2 examples, the last f.tsv, line 3)" in caplog.text
    assert "all 2 dev examples, f.tsv, line 1 to f.tsv, line 2, have the label 'yes'" in caplog.text
    form_of(Regression).check([], [example(label=1.0)])
    assert "all 1 dev examples, f.tsv, line 3 to f.tsv, line 3, have the score 1.0" in caplog.text
    form_of(MultiLabel).check([example(label=("no",))], [])
    assert "every training example has the label 'no'" in caplog.text
    assert "no training example has the label 'yes': nothing is learned" in caplog.text
    with pytest.raises(BertJaxError, match="f.tsv, line 9 has the label 'maybe', which no training example has"):
        form_of(Classification).check(train, [example(label="maybe", line=9)])


def test_losses_and_predictions() -> None:
    logits = np.array([[1.0, -2.0], [0.5, 3.0]], np.float32)
    one = form_of(Classification)
    loss = one.loss({"classification_logits": jnp.asarray(logits)}, {"labels": jnp.array([0, 0])})
    expected = np.log1p(np.exp(logits[:, 1] - logits[:, 0]))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    found = one.decode(example(), [], [{"classification_logits": logits[1]}])
    assert found["label"] == "yes" and found["probabilities"]["no"] == pytest.approx(1 / (1 + np.exp(2.5)))

    first = form_of(FirstToken)
    assert (first.head, first.pooler) == ("first_token", False)
    assert first.decode(example(), [], [{"first_token_logits": logits[0]}])["label"] == "no"

    several = form_of(MultiLabel, threshold=0.6)
    targets = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    sums = several.loss({"classification_logits": jnp.asarray(logits)}, {"labels": targets})
    sigmoids = 1 / (1 + np.exp(-logits.astype(np.float64)))
    likely = np.where(np.asarray(targets) > 0, sigmoids, 1 - sigmoids)
    np.testing.assert_allclose(sums, -np.log(likely).mean(axis=1), rtol=1e-5)
    found = several.decode(example(), [], [{"classification_logits": logits[1]}])
    assert found["labels"] == ["no", "yes"] or found["labels"] == ["yes"]
    assert found["labels"] == [name for name, p in zip(("no", "yes"), sigmoids[1], strict=True) if p >= 0.6]

    score = form_of(Regression, ())
    squares = score.loss({"classification_logits": jnp.asarray(logits[:, :1])}, {"scores": jnp.array([3.0, 0.5])})
    assert squares.tolist() == [4.0, 0.0]
    assert score.decode(example(), [], [{"classification_logits": logits[1, :1]}]) == {"score": 0.5}


@pytest.mark.parametrize("cls", [Classification, FirstToken, MultiLabel, Regression])
def test_a_small_model_learns_which_animal_it_is(cls: type[TextForm]) -> None:
    texts = [
        f"{a} {animal} {verb}" for a in ("the", "a") for animal in ("cat", "dog") for verb in ("sat", "ran", "was")
    ]
    label = {
        MultiLabel: lambda text: ("dog",) if "dog" in text else (),
        Regression: lambda text: 2.0 if "dog" in text else -1.0,
    }.get(cls, lambda text: "dog" if "dog" in text else "cat")
    examples = [example(text, label(text)) for text in texts]
    form = form_of(cls, cls.labels_of(examples), length=8)
    form.check(examples, examples)
    rows = [form.encode(item)[0] for item in examples]
    ids = np.array([row.ids[0] for row in rows])
    batch = {"input_ids": ids, "input_mask": np.ones_like(ids), "segment_ids": np.zeros_like(ids)}
    batch |= {name: np.stack([row.targets[name] for row in rows]) for name in rows[0].targets}
    assert form.head is not None
    model = make_model(small_config(), heads=(form.head,), classes=form.classes, pooler=form.pooler)
    encoder = small_parameters()
    params = {**jax.jit(lambda: init_parameters(model, jax.random.key(0)))(), "embeddings": encoder["embeddings"]}
    optimizer = optax.adam(2e-2)

    @jax.jit
    def step(params: dict, state: optax.OptState) -> tuple:
        loss, grads = jax.value_and_grad(lambda p: form.loss(apply(model, p, batch), batch).mean())(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    state = optimizer.init(params)
    losses = []
    for _ in range(60):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    assert losses[-1] < 0.1 * losses[0]
    answers = jax.jit(lambda params: form.answers(apply(model, params, batch), batch))(params)
    outputs = {name: np.asarray(x) for name, x in answers.items()}
    for index, item in enumerate(examples):
        found = form.decode(item, [rows[index]], [{name: x[index] for name, x in outputs.items()}])
        if cls is Regression:
            assert found["score"] == pytest.approx(item.label, abs=0.5)
        else:
            assert found.get("label", tuple(found.get("labels", ()))) == item.label
