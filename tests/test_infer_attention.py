"""Attention answers are the model's own weights, whatever they were padded to."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from minilm import minilm_directory
from small_models import small_bert, small_run

from bert_jax import commands
from bert_jax.errors import BertJaxError, UsageError
from bert_jax.files import to_json
from bert_jax.infer.attention import attention_answers, attentions
from bert_jax.infer.loaded import Bert, load

ANIMAL = "The animal didn't cross the street because it was too tired"


@pytest.fixture(scope="module")
def bert() -> Bert:
    return small_bert()


def by_hand(bert: Bert, a: str, b: str | None = None) -> np.ndarray:
    """Weights (L, N, T, T) of one unpadded row."""
    row = {name: values[None] for name, values in bert.tokenizer.encode(a, b).items()}
    outputs = jax.jit(lambda batch: bert.apply(batch, attentions=True)["attentions"])(row)
    return np.stack([np.asarray(weights[0]) for weights in outputs])


def test_weights_equal_the_models(bert: Bert) -> None:
    text, pair = "the cat sat on the mat .", ("it was tired", "a dog ran !")
    one, two = bert.attention([text, pair])
    np.testing.assert_allclose(one.weights, by_hand(bert, text), atol=1e-6)
    np.testing.assert_allclose(two.weights, by_hand(bert, *pair), atol=1e-6)
    assert one.weights.shape == (1, 2, 9, 9) and one.weights.dtype == np.float32
    np.testing.assert_allclose(one.weights.sum(axis=-1), 1, rtol=1e-5)
    assert one.tokens == ["[CLS]", *text.split(), "[SEP]"]
    assert one.segments == [0] * 9
    assert two.segments == [0] * 5 + [1] * 5
    assert one.weights.std(axis=-1).min() > 1e-3  # a uniform answer would pass the rest


def test_one_or_many(bert: Bert) -> None:
    one = bert.attention("rain")
    (same,) = bert.attention(["rain"])
    np.testing.assert_array_equal(one.weights, same.weights)
    assert bert.attention(("the cat", "ran")).source == ("the cat", "ran")


def test_layers_and_heads_are_those_asked_for(bert: Bert) -> None:
    everything = bert.attention("the cat sat")
    some = bert.attention("the cat sat", layers=[0], heads=[1, 0, 1])
    assert (some.layers, some.heads) == ((0,), (1, 0))
    np.testing.assert_array_equal(some.weights, everything.weights[:, ::-1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [1]}, "there is no layer 1: the model's layers are 0 to 0"),
        ({"heads": [0, -1]}, "there is no head -1: the model's heads are 0 to 1"),
        ({"heads": []}, "no head was chosen"),
    ],
)
def test_wrong_layers_and_heads(bert: Bert, options, message: str) -> None:
    with pytest.raises(BertJaxError, match=message):
        bert.attention("rain", **options)


def test_empty_unknown_and_typed_special_tokens(bert: Bert) -> None:
    assert bert.attention("").tokens == ["[CLS]", "[SEP]"]
    np.testing.assert_allclose(bert.attention("").weights, by_hand(bert, ""), atol=1e-6)
    assert bert.attention("☃").tokens == ["[CLS]", "[UNK]", "[SEP]"]
    typed = bert.attention("[SEP]")
    assert typed.tokens.count("[SEP]") == 1 and typed.segments == [0] * len(typed.tokens)
    assert bert.attention(("rain", "")).segments == [0, 0, 0, 1]


def test_too_long_ends_the_answers_after_those_before(bert: Bert) -> None:
    answers = attentions(bert, ["rain", ("cat " * 40, "dog " * 40)])
    assert next(answers).tokens == ["[CLS]", "rain", "[SEP]"]
    with pytest.raises(
        BertJaxError, match="input 2 is 83 tokens long .* more than the limit of 64: give --truncate to cut it$"
    ):
        next(answers)


def test_json_has_five_decimals(bert: Bert) -> None:
    (answer,) = attention_answers(bert, [("the cat", "ran")], heads=[1])
    read = json.loads(to_json(answer))
    assert (read["a"], read["b"], read["heads"], read["layers"]) == ("the cat", "ran", [1], [0])
    exact = bert.attention(("the cat", "ran")).weights[:, [1]]
    np.testing.assert_allclose(read["weights"], exact, atol=5.1e-6)
    assert np.array_equal(np.round(read["weights"], 5), read["weights"])


def test_no_shape_is_compiled_twice(bert: Bert) -> None:
    fresh = small_bert()
    fresh.attention(["the cat", "rain", "it was wet", ("a", "b")])
    (program,) = (made for key, made in fresh._programs.items() if key[0] == "attention")
    assert program._cache_size() == 1
    texts = [" ".join(["cat"] * number) for number in range(60)]
    fresh.attention(texts)
    compiled = program._cache_size()
    for order in (reversed(texts), texts[1:] + texts[:1], texts):
        fresh.attention(list(order))
    assert program._cache_size() == compiled <= 6  # 16, 24, 32, 40, 48, 64


def test_a_long_text_is_cut_only_when_asked(bert: Bert, tmp_path: Path) -> None:
    text = " ".join(["cat", "dog"] * 50)
    cut, kept = bert.attention(text, truncate=True), bert.attention(" ".join(["cat", "dog"] * 31))
    assert cut.source == text and cut.tokens == kept.tokens and len(cut.tokens) == 64
    np.testing.assert_allclose(cut.weights, kept.weights, atol=1e-6)
    pair = bert.attention(("the rain", text), truncate=True)
    assert pair.tokens[:4] == ["[CLS]", "the", "rain", "[SEP]"] and pair.segments.count(1) == 60
    with pytest.raises(BertJaxError, match="input 1 is 102 tokens long .* limit of 64: give --truncate to cut it$"):
        bert.attention(text)
    run = str(small_run(tmp_path / "run", {5: None}).path)
    for name in ("page.html", "answers.jsonl"):
        list(commands.predict("attention", run, (text,), truncate=True, out=str(tmp_path / name)))
        assert (tmp_path / name).stat().st_size > 1000


def test_the_command(tmp_path: Path) -> None:
    run = str(small_run(tmp_path / "run", {5: None}).path)
    (line,) = commands.predict("attention", run, ("the cat",), heads="1")
    assert json.loads(line)["tokens"] == ["[CLS]", "the", "cat", "[SEP]"]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('["the cat", "ran"]\n{"a": "rain", "b": "it"}\n')
    list(commands.predict("attention", run, input=str(pairs), out=str(tmp_path / "o.jsonl")))
    read = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [answer["b"] for answer in read] == ["ran", "it"]
    with pytest.raises(UsageError, match="attention writes .jsonl, .html, .png"):
        commands.predict("attention", run, ("the cat",), out="x.txt")
    with pytest.raises(UsageError, match="--heads is for attention"):
        commands.predict("fill-mask", run, ("the [MASK]",), heads="1")
    with pytest.raises(BertJaxError, match="input 1 is 102 tokens long"):
        commands.predict("attention", run, ("cat " * 100,), out=str(tmp_path / "long.html"))
    assert not (tmp_path / "long.html").exists()


def test_the_animal_was_too_tired() -> None:
    """Layer 5 head 11, counted from 0, of a real pre-trained model knows what 'it' is."""
    seen = load(minilm_directory()).attention(ANIMAL)
    it, animal, street = (seen.tokens.index(token) for token in ("it", "animal", "street"))
    assert seen.weights.shape == (6, 12, 15, 15)
    assert seen.weights[5, 11, it, animal] == pytest.approx(0.6466, abs=1e-3)
    assert seen.weights[5, 11, it, street] == pytest.approx(0.0224, abs=1e-3)
    assert np.unravel_index(seen.weights[:, :, it, animal].argmax(), (6, 12)) == (5, 11)


@pytest.mark.ci
def test_weights_equal_those_of_hugging_face() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    directory = minilm_directory()
    model = transformers.BertModel.from_pretrained(directory, attn_implementation="eager").eval()
    ours = load(directory)
    for pair in (("The animal didn't cross the street.", "It was too tired."), (ANIMAL, None)):
        row = {
            name: torch.tensor(values[None].astype(np.int64)) for name, values in ours.tokenizer.encode(*pair).items()
        }
        names = {"input_ids": "input_ids", "segment_ids": "token_type_ids", "input_mask": "attention_mask"}
        with torch.no_grad():
            outputs = model(**{names[name]: values for name, values in row.items()}, output_attentions=True)
        theirs = np.stack([weights[0].numpy() for weights in outputs.attentions])
        found = ours.attention(pair if pair[1] else pair[0])
        np.testing.assert_allclose(found.weights, theirs, atol=1e-5)
