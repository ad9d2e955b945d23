"""Fill-mask answers are the model's own probabilities, whatever shares the batch."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from small_models import WORDS, small_bert

from bert_jax.errors import BertJaxError
from bert_jax.files import to_json
from bert_jax.infer.fill_mask import fill, fill_masks
from bert_jax.infer.loaded import Bert


@pytest.fixture(scope="module")
def bert() -> Bert:
    return small_bert()


def by_hand(bert: Bert, ids: list[int], segments: list[int]) -> np.ndarray:
    """Probabilities (T, V) of one unpadded row."""
    batch = {"input_ids": [ids], "segment_ids": [segments], "input_mask": [[1] * len(ids)]}
    arrays = {name: np.array(rows, np.int32) for name, rows in batch.items()}
    logits = np.asarray(jax.jit(bert.apply)(arrays)["masked_lm_logits"][0], np.float64)
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def test_probabilities_equal_the_models(bert: Bert) -> None:
    tokenizer = bert.tokenizer
    ids = [tokenizer.cls_id, *tokenizer.ids("the"), tokenizer.mask_id, *tokenizer.ids("sat on"), tokenizer.mask_id]
    ids.append(tokenizer.sep_id)
    expected = by_hand(bert, ids, [0] * len(ids))
    answer = bert.fill_mask("The [MASK] sat on [MASK]", top_k=3)
    assert answer["text"] == "The [MASK] sat on [MASK]"
    assert [mask["position"] for mask in answer["masks"]] == [2, 5]
    for mask in answer["masks"]:
        order = np.argsort(-expected[mask["position"]])[:3]
        assert [candidate["token"] for candidate in mask["candidates"]] == tokenizer.pieces(order.tolist())
        found = [candidate["probability"] for candidate in mask["candidates"]]
        np.testing.assert_allclose(found, expected[mask["position"], order], rtol=1e-4)


def test_a_typed_separator_begins_the_second_segment(bert: Bert) -> None:
    tokenizer = bert.tokenizer
    first = [tokenizer.cls_id, *tokenizer.ids("it was"), tokenizer.sep_id]
    ids = [*first, tokenizer.mask_id, tokenizer.sep_id]
    expected = by_hand(bert, ids, [0] * len(first) + [1, 1])[len(first)]
    found = bert.fill_mask("it was [SEP] [MASK]", top_k=1)["masks"][0]["candidates"][0]["probability"]
    np.testing.assert_allclose(found, expected.max(), rtol=1e-4)


def test_answers_do_not_depend_on_what_shares_the_batch(bert: Bert) -> None:
    texts = [" ".join(["cat"] * number) + " [MASK]" * (1 + number % 2) for number in range(8, 18)]
    together = bert.fill_mask(texts, top_k=2)
    assert [answer["text"] for answer in together] == texts
    for number in (0, 9):
        alone = bert.fill_mask(texts[number], top_k=2)
        assert alone["filled"] == together[number]["filled"]
        for one, other in zip(alone["masks"], together[number]["masks"], strict=True):
            values = [[candidate["probability"] for candidate in mask["candidates"]] for mask in (one, other)]
            np.testing.assert_allclose(values[0], values[1], rtol=1e-4)


def test_shapes_are_few_and_repeated_calls_compile_nothing() -> None:
    bert = small_bert()
    texts = [" ".join(["cat"] * (number % 20)) + " [MASK]" for number in range(40)]
    bert.fill_mask(texts)
    program = bert.compiled(("fill_mask", 5), lambda: pytest.fail("made twice"))
    compiled = program._cache_size()
    assert compiled <= 2 * 2  # lengths 16 and 32, a full batch of 32 and a rest
    bert.fill_mask(reversed(texts))
    assert program._cache_size() == compiled


def test_candidates_keep_their_probabilities(bert: Bert) -> None:
    every = bert.fill_mask("the [MASK] ran", top_k=len(WORDS) + 5)["masks"][0]["candidates"]
    probability = {candidate["token"]: candidate["probability"] for candidate in every}
    assert sum(probability.values()) == pytest.approx(1, abs=1e-4)
    some = bert.fill_mask("the [MASK] ran", candidates=["dog", "Cat", "##ing", "dog"])["masks"][0]["candidates"]
    assert {candidate["token"] for candidate in some} == {"dog", "cat", "##ing"}
    for candidate in some:
        assert candidate["probability"] == pytest.approx(probability[candidate["token"]], rel=1e-4)
    assert some == sorted(some, key=lambda candidate: -candidate["probability"])


def test_the_filled_text(bert: Bert) -> None:
    assert fill("I [MASK] play [MASK]!", ["##s", "ing"], "[MASK]") == "Is play ing!"
    assert fill("play[MASK]", ["##ing"], "[MASK]") == "playing"
    assert fill("[MASK] cat", ["▁the"], "[MASK]") == "the cat"
    answer = bert.fill_mask("The [MASK] Ran")
    best = answer["masks"][0]["candidates"][0]["token"]
    assert answer["filled"] == fill("The [MASK] Ran", [best], "[MASK]")
    assert to_json(answer)


def test_inputs_are_streamed(bert: Bert) -> None:
    def endless():
        while True:
            yield "a [MASK]"

    answers = fill_masks(bert, endless())
    assert next(answers)["text"] == "a [MASK]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"input 2 has no \[MASK\]: write \[MASK\] where a word is to be filled in"),
        ("the cat", r"input 2 has no \[MASK\]"),
        ("[mask]", r"input 2 has no \[MASK\]"),
        (
            "[MASK] " + "cat " * 62,
            "input 2 is 65 tokens long with .CLS. and .SEP., more than the limit of 64: give --truncate to cut it$",
        ),
    ],
)
def test_bad_texts(bert: Bert, text: str, message: str) -> None:
    with pytest.raises(BertJaxError, match=message):
        bert.fill_mask(["a [MASK]", text])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k is 0"),
        ({"candidates": []}, "no candidates"),
        ({"candidates": ["playing"]}, "'playing' is play ##ing to this tokenizer: expected a word that is one piece"),
        ({"candidates": ["zebra"]}, r"'zebra' is \[UNK\]"),
        ({"candidates": [""]}, "'' is nothing"),
    ],
)
def test_bad_options(bert: Bert, options: dict, message: str) -> None:
    with pytest.raises(BertJaxError, match=message):
        bert.fill_mask("[MASK]", **options)


def test_unknown_characters_and_specials_alone_have_answers(bert: Bert) -> None:
    for text in ("[MASK]", "[MASK][MASK]", "[SEP] [MASK]", "☃ [MASK] \u0000"):
        answer = bert.fill_mask(text)
        assert len(answer["masks"]) == text.count("[MASK]")
        assert all(np.isfinite(candidate["probability"]) for candidate in answer["masks"][0]["candidates"])


def test_a_long_text_is_cut_only_when_asked_and_keeps_its_masks(bert: Bert, caplog: pytest.LogCaptureFixture) -> None:
    words = ["cat", "dog", "sat", "ran"] * 30
    words[5] = "[MASK]"
    at_front = bert.fill_mask(" ".join(words), truncate=True)
    assert at_front["masks"] == bert.fill_mask(" ".join(words[:62]))["masks"]
    assert "1 of 1 inputs were longer than 64 tokens and were cut" in caplog.text
    words[5], words[70], words[80] = "cat", "[MASK]", "[MASK]"
    long = bert.fill_mask(" ".join(words), truncate=True)
    begin = 70 - (62 - 11) // 2
    kept = bert.fill_mask(" ".join(words[begin : begin + 62]))
    assert [mask["position"] for mask in long["masks"]] == [71, 81]
    for one, other in zip(long["masks"], kept["masks"], strict=True):
        assert one["candidates"] == other["candidates"]
    assert long["filled"].count(" ") == 119 and "[MASK]" not in long["filled"]
    words[119] = "[MASK]"  # all three fit into what ends with the text
    assert len(bert.fill_mask(" ".join(words), truncate=True)["masks"]) == 3
    words[0] = "[MASK]"
    with pytest.raises(BertJaxError, match="its first and last mask lie 120 tokens apart, and 62 can be kept"):
        bert.fill_mask(" ".join(words), truncate=True)
