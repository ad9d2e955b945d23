"""Token vectors: the layers asked for, where each token came from, and by word."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from small_models import small_bert

from bert_jax.errors import BertJaxError
from bert_jax.infer.features import layer_numbers
from bert_jax.infer.loaded import Bert

TEXT = "The cats  played on!"


@pytest.fixture(scope="module")
def bert() -> Bert:
    return small_bert()


def test_tokens_offsets_and_words(bert: Bert) -> None:
    answer = bert.features(TEXT)
    assert isinstance(answer, dict)
    assert answer["tokens"] == ["[CLS]", "the", "cat", "##s", "play", "##ed", "on", "!", "[SEP]"]
    assert answer["words"] == [None, 0, 1, 1, 2, 2, 3, 4, None]
    assert [TEXT[place[0] : place[1]] for place in answer["offsets"][1:-1]] == [
        "The",
        "cat",
        "s",
        "play",
        "ed",
        "on",
        "!",
    ]
    assert answer["offsets"][0] is answer["offsets"][-1] is None
    assert answer["vectors"].shape == (9, 16)
    assert answer["vectors"].dtype == np.float32


def test_layers_and_joins(bert: Bert) -> None:
    batch = {name: array[None] for name, array in bert.tokenizer.encode(TEXT).items()}
    embedded, last = (
        np.asarray(x[0]) for x in jax.jit(bert.apply, static_argnums=3)(batch, bert.params, None, True)["hidden_states"]
    )
    assert not np.allclose(embedded, last)
    for layers, join, expected in (
        ((0,), "concat", embedded),
        ((-1, 0), "concat", np.concatenate([last, embedded], -1)),
        ((1, 0), "sum", last + embedded),
        ((-1, -2), "mean", (last + embedded) / 2),
    ):
        found = bert.features(TEXT, layers=layers, join=join)["vectors"]  # type: ignore[arg-type, call-overload, index]
        np.testing.assert_allclose(found, expected, atol=3e-6)


def test_by_word_is_the_mean_of_its_pieces(bert: Bert) -> None:
    tokens, words = bert.features([TEXT])[0], bert.features([TEXT], words=True)[0]
    rows = tokens["vectors"]
    expected = [rows[1], rows[2:4].mean(0), rows[4:6].mean(0), rows[6], rows[7]]
    np.testing.assert_allclose(words["vectors"], expected, atol=1e-6)
    assert [TEXT[first:past] for first, past in words["word_offsets"]] == ["The", "cats", "played", "on", "!"]


def test_pairs_and_empty_texts(bert: Bert) -> None:
    answer = bert.features(("the cats", "ran"))
    assert answer["segments"] == [0, 0, 0, 0, 0, 1, 1]
    assert answer["words"] == [None, 0, 1, 1, None, 2, None]
    assert answer["offsets"][5] == [0, 3]
    empty = bert.features("")
    assert (empty["tokens"], empty["vectors"].shape) == (["[CLS]", "[SEP]"], (2, 16))
    assert bert.features("", words=True)["vectors"].shape == (0, 16)
    assert bert.features("☃")["tokens"] == ["[CLS]", "[UNK]", "[SEP]"]


def test_windows_and_cuts(bert: Bert) -> None:
    text = " ".join(["the cat sat", "on the mat"] * 10)
    answer = bert.features(text, window=7, max_length=16)
    assert len(answer["tokens"]) == len(answer["vectors"]) == 62
    begin = bert.features(" ".join(text.split()[:14]))["vectors"]
    np.testing.assert_allclose(answer["vectors"][:11], begin[:11], atol=3e-6)
    end = bert.features(" ".join(text.split()[-14:]))["vectors"]
    np.testing.assert_allclose(answer["vectors"][-7:], end[-7:], atol=3e-6)
    cut = bert.features(text, truncate=True, max_length=16)
    assert len(cut["tokens"]) == len(cut["words"]) == len(cut["vectors"]) == 16
    with pytest.raises(BertJaxError, match="input 1 is 67 tokens long .* limit of 64"):
        bert.features("cat " * 65)


def test_layers_that_do_not_exist() -> None:
    assert layer_numbers((-1, -7, 0, 6), 6) == (6, 0, 0, 6)
    for layers in ((7,), (-8,)):
        with pytest.raises(BertJaxError, match=f"there is no layer {layers[0]}: expected 0 .* to 6, or -1"):
            layer_numbers(layers, 6)
    with pytest.raises(BertJaxError, match="no layers"):
        layer_numbers((), 6)


def test_repeated_calls_compile_nothing() -> None:
    bert = small_bert()
    texts = [" ".join(["cat"] * number) for number in range(60)]
    bert.features(texts, layers=(-1, 0))
    (program,) = bert._programs.values()
    compiled = program._cache_size()
    assert compiled <= 8
    for order in (reversed(texts), texts[1:] + texts[:1], texts):
        bert.features(list(order), layers=(-1, 0))
    assert program._cache_size() == compiled and len(bert._programs) == 1
    for text in texts:
        bert.features(text, layers=(-1, 0))
    alone = program._cache_size()
    for text in reversed(texts):
        bert.features(text, layers=(-1, 0))
    assert program._cache_size() == alone <= compiled + 6
