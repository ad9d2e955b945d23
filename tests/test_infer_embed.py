"""Sentence vectors equal what others compute, whatever shares the batch, the window or the devices."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from minilm import minilm_directory
from small_models import small_bert

from bert_jax.errors import BertJaxError
from bert_jax.formats.pooling import Pooling
from bert_jax.infer.embed import embeddings
from bert_jax.infer.loaded import Bert, load

TEXT = "the cat sat on the mat . it was tired , rain ran on the road !"


@pytest.fixture(scope="module")
def bert() -> Bert:
    return small_bert()


def states(bert: Bert, a: str, b: str | None = None) -> dict[str, np.ndarray]:
    batch = {name: array[None] for name, array in bert.tokenizer.encode(a, b).items()}
    outputs = jax.jit(bert.apply)(batch)
    return {"x": np.asarray(outputs["sequence_output"][0]), "pooled": np.asarray(outputs["pooled_output"][0])}


def test_pooling_by_hand(bert: Bert) -> None:
    found = states(bert, TEXT)
    expected = {"mean": found["x"].mean(0), "max": found["x"].max(0), "cls": found["x"][0], "pooler": found["pooled"]}
    for mode, vector in expected.items():
        answer = bert.embed(TEXT, pooling=mode)  # type: ignore[arg-type]
        assert (answer.dtype, answer.shape) == (np.float32, (16,))
        np.testing.assert_allclose(answer, vector, atol=2e-6)
    np.testing.assert_array_equal(bert.embed(TEXT), bert.embed(TEXT, pooling="mean"))
    unit = bert.embed([TEXT], normalize=True)[0]
    np.testing.assert_allclose(unit, expected["mean"] / np.linalg.norm(expected["mean"]), atol=2e-6)


def test_a_tuple_is_a_pair_and_a_list_is_several(bert: Bert) -> None:
    pair = bert.embed(("the cat", "it sat"))
    np.testing.assert_allclose(pair, states(bert, "the cat", "it sat")["x"].mean(0), atol=2e-6)
    both = bert.embed([("the cat", "it sat"), "rain"])
    assert both.shape == (2, 16)
    np.testing.assert_allclose(both[0], pair, atol=2e-6)
    assert bert.embed([]).shape == (0, 16)
    answers = list(embeddings(bert, [("a", "b"), "c"]))
    assert [set(answer) for answer in answers] == [{"a", "b", "embedding"}, {"text", "embedding"}]


def test_empty_unknown_and_typed_specials(bert: Bert) -> None:
    empty = {name: array[None] for name, array in bert.tokenizer.encode("").items()}
    assert empty["input_ids"].tolist() == [[bert.tokenizer.cls_id, bert.tokenizer.sep_id]]
    np.testing.assert_allclose(bert.embed(""), states(bert, "")["x"].mean(0), atol=2e-6)
    np.testing.assert_array_equal(bert.embed("\u0000 \n"), bert.embed(""))
    typed = bert.embed("[MASK] [SEP]")
    np.testing.assert_allclose(typed, states(bert, "[MASK] [SEP]")["x"].mean(0), atol=2e-6)
    assert bert.tokenizer.mask_id not in bert.tokenizer.ids("[MASK] [SEP]")
    assert np.isfinite(bert.embed("☃ 机")).all()


def test_the_models_own_recipe_is_the_default() -> None:
    bert = small_bert()
    bert.source = dataclasses.replace(bert.source, pooling=Pooling("cls", True, 10))
    np.testing.assert_allclose(np.linalg.norm(bert.embed("the cat")), 1, rtol=1e-6)
    np.testing.assert_allclose(bert.embed("cat", normalize=False), states(bert, "cat")["x"][0], atol=2e-6)
    with pytest.raises(BertJaxError, match="input 1 is 19 tokens long with .CLS. and .SEP., more than the limit of 10"):
        bert.embed(TEXT)
    assert bert.embed(TEXT, max_length=30).shape == (16,)


def test_prompts(bert: Bert) -> None:
    plain = bert.embed("the cat")
    np.testing.assert_allclose(bert.embed("cat", prompt="the "), plain, atol=2e-6)
    np.testing.assert_allclose(bert.embed(("cat", "ran"), prompt="the "), bert.embed(("the cat", "ran")), atol=2e-6)
    bert = small_bert()
    recipe = Pooling("mean", False, None, {"query": "the "}, "query")
    bert.source = dataclasses.replace(bert.source, pooling=recipe)
    np.testing.assert_allclose(bert.embed("cat"), plain, atol=2e-6)
    np.testing.assert_allclose(bert.embed("the cat", prompt=""), plain, atol=2e-6)
    (answer,) = embeddings(bert, ["cat"])
    assert answer["text"] == "cat"
    bert.source = dataclasses.replace(bert.source, pooling=dataclasses.replace(recipe, include_prompt=False))
    x = states(bert, "the cat")["x"]
    np.testing.assert_allclose(bert.embed("cat"), x[2:].mean(0), atol=2e-6)  # without [CLS] and the
    np.testing.assert_allclose(bert.embed("cat", pooling="max"), x[2:].max(0), atol=2e-6)
    for mode in ("mean", "max"):  # cut, nothing but the prompt would be left
        with pytest.raises(BertJaxError, match="input 1: of 3 tokens the prompt takes all, .* nothing of the text"):
            bert.embed("cat", pooling=mode, max_length=3, truncate=True, prompt="the cat ")
    assert np.isfinite(bert.embed("cat", pooling="cls", max_length=3, truncate=True, prompt="the cat ")).all()
    long = bert.embed(TEXT.removeprefix("the "), window=4, max_length=12)
    rows = bert.features(TEXT, window=4, max_length=12)["vectors"]
    np.testing.assert_allclose(long, rows[2:].mean(0), atol=2e-6)


def test_windows_pool_every_token_once(bert: Bert) -> None:
    ids = bert.tokenizer.ids(TEXT)
    text, limit = TEXT, 12
    assert len(ids) == 17
    cls, sep = bert.tokenizer.cls_id, bert.tokenizer.sep_id
    rows = []
    for begin in (0, 5, 7):  # 10 tokens a window, the last ends with the text
        row = np.array([[cls, *ids[begin : begin + 10], sep]], np.int32)
        batch = {"input_ids": row, "segment_ids": row * 0, "input_mask": row * 0 + 1}
        rows.append(np.asarray(jax.jit(bert.apply)(batch)["sequence_output"][0]))
    # Borders in the text: tokens 0-7 | 8-10 | 11-16, as rows of each window.
    kept = np.concatenate([rows[0][:9], rows[1][4:7], rows[2][5:]])
    assert len(kept) == 19
    found = bert.embed(text, window=5, max_length=limit)
    np.testing.assert_allclose(found, kept.mean(0), atol=2e-6)
    largest = bert.embed(text, pooling="max", window=5, max_length=limit)
    np.testing.assert_allclose(largest, kept.max(0), atol=2e-6)
    first = bert.embed(text, pooling="cls", window=5, max_length=limit)
    np.testing.assert_allclose(first, np.mean([row[0] for row in rows], axis=0), atol=2e-6)
    short = bert.embed(["the cat", text], window=5, max_length=limit)
    np.testing.assert_allclose(short, [bert.embed("the cat"), found], atol=2e-6)


def test_truncation_is_that_of_a_shorter_text(bert: Bert) -> None:
    words = TEXT.split()
    cut = bert.embed(TEXT, truncate=True, max_length=12)
    np.testing.assert_allclose(cut, bert.embed(" ".join(words[:10])), atol=2e-6)


def test_a_recipe_of_very_short_inputs() -> None:
    bert = small_bert()
    bert.source = dataclasses.replace(bert.source, pooling=Pooling("mean", False, 4))
    np.testing.assert_allclose(bert.embed(TEXT, truncate=True), bert.embed("the cat"), atol=2e-6)
    assert bert.embed(TEXT, window=1).shape == bert.embed("").shape == (16,)
    np.testing.assert_allclose(bert.embed((TEXT, TEXT), truncate=True), bert.embed(("", "the")), atol=2e-6)


def test_repeated_calls_compile_nothing() -> None:
    bert = small_bert()
    texts = [" ".join(["cat"] * number) for number in range(60)]
    bert.embed(texts)
    program = bert.compiled(("embed", "mean"), lambda: pytest.fail("made twice"))
    compiled = program._cache_size()
    assert compiled <= 8  # one per length (16 … 64), and the last batches
    for order in (reversed(texts), texts[1:] + texts[:1], texts):
        bert.embed(list(order))
    assert program._cache_size() == compiled
    for text in texts:
        bert.embed(text)
    alone = program._cache_size()
    bert.embed(texts[30])
    assert program._cache_size() == alone <= compiled + 6


def test_rows_are_spread_over_devices(bert: Bert) -> None:
    spread = Bert(bert.source, devices=8)
    texts = [" ".join(["cat", "ran"] * number) for number in range(20)]
    np.testing.assert_allclose(spread.embed(texts), bert.embed(texts), atol=2e-6)
    placed = spread.place(np.zeros((16, 3), np.int32))
    assert {shard.data.shape for shard in placed.addressable_shards} == {(2, 3)}
    assert len(placed.addressable_shards) == 8
    assert spread.fill_mask("the [MASK]")["filled"] == bert.fill_mask("the [MASK]")["filled"]
    with pytest.raises(BertJaxError, match="devices is 9: expected 1 to 8"):
        Bert(bert.source, devices=9)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"pooling": "last"}, "pooling is 'last': expected one of mean, cls, max, pooler"), ({"window": 99}, "window is")],
)
def test_bad_options(bert: Bert, options: dict, message: str) -> None:
    with pytest.raises(BertJaxError, match=message):
        bert.embed("cat", **options)


def test_no_pooler() -> None:
    bert = small_bert(heads=())
    bert.source = dataclasses.replace(bert.source, pooler=False)
    with pytest.raises(BertJaxError, match="has no pooler: choose mean, cls or max"):
        bert.embed("cat", pooling="pooler")


def test_minilm_equals_the_reference(data_dir: Path) -> None:
    """Input 6 has [MASK] typed in it, which Hugging Face takes for the special piece and this package for text."""
    bert = load(minilm_directory())
    folder = data_dir / "golden" / "minilm"
    given = json.loads((folder / "golden_sentences.json").read_text("utf-8"))
    texts = [tuple(item) if isinstance(item, list) else item for item in given]
    expected = np.load(folder / "golden_hf.npz")["sentence_embedding"]
    same = [index for index, text in enumerate(texts) if "[MASK]" not in text]
    assert len(same) == 8
    np.testing.assert_allclose(bert.embed(texts)[same], expected[same], atol=2e-5)


def test_sentence_transformers_agrees(data_dir: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    directory = minilm_directory()
    text = (data_dir / "corpus" / "sample_text.txt").read_text("utf-8")
    texts = [*[line for line in text.splitlines() if line][:30], "", " ".join(["words"] * 300)]
    expected = library.SentenceTransformer(str(directory), device="cpu").encode(texts, show_progress_bar=False)
    np.testing.assert_allclose(load(directory).embed(texts, truncate=True), expected, atol=2e-5)


@pytest.mark.parametrize("include", [True, False])
def test_sentence_transformers_agrees_on_prompts(tmp_path: Path, include: bool) -> None:
    library = pytest.importorskip("sentence_transformers")
    folder = tmp_path / "model"
    shutil.copytree(minilm_directory(), folder)
    prompts = {"prompts": {"query": "Query of a user: ", "document": "text: "}, "default_prompt_name": "query"}
    path = folder / "config_sentence_transformers.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | prompts))
    path = folder / "1_Pooling" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"include_prompt": include}))
    theirs, ours = library.SentenceTransformer(str(folder), device="cpu"), load(folder)
    texts = ["The animal was too tired.", "", "What is a bank?", ("a pair", "of texts")]

    def check(expected: np.ndarray, found: np.ndarray) -> None:
        np.testing.assert_allclose(found, expected, atol=2e-5)

    check(theirs.encode(texts, show_progress_bar=False), ours.embed(texts))
    check(theirs.encode(texts, prompt_name="document", show_progress_bar=False), ours.embed(texts, prompt="document"))
    check(theirs.encode(texts, prompt="as is ", show_progress_bar=False), ours.embed(texts, prompt="as is "))
    check(theirs.encode(texts, prompt="", show_progress_bar=False), ours.embed(texts, prompt=""))


SHORT = [TEXT, "cat", ("the dog", "it sat !"), "", *(" ".join(TEXT.split()[:number]) for number in range(2, 15))]


@pytest.mark.parametrize("mode", ["mean", "max", "cls", "pooler"])
def test_packed_vectors_are_the_same(bert: Bert, mode: str) -> None:
    one, packed = (bert.embed(SHORT, pooling=mode, packing=packing) for packing in (1, 5))  # type: ignore[arg-type]
    np.testing.assert_allclose(packed, one, atol=1e-5)
    np.testing.assert_allclose(bert.embed("cat", pooling=mode, packing=3), one[1], atol=1e-5)  # type: ignore[arg-type]


def test_packed_windows_prompts_and_devices(bert: Bert) -> None:
    long = " ".join([TEXT] * 4)
    options: dict = {"window": 7, "max_length": 16, "prompt": "rain "}
    texts = [long, "cat", TEXT]
    expected = bert.embed(texts, **options, packing=1)
    np.testing.assert_allclose(bert.embed(texts, **options, packing=4), expected, atol=1e-5)
    spread = Bert(bert.source, devices=8)
    np.testing.assert_allclose(spread.embed(SHORT, packing=4), bert.embed(SHORT, packing=1), atol=1e-5)
    left_out = small_bert()
    recipe = Pooling("mean", False, None, {"query": "the "}, "query", include_prompt=False)
    left_out.source = dataclasses.replace(left_out.source, pooling=recipe)
    texts = ["cat", "dog ran", "rain on the mat"]
    np.testing.assert_allclose(left_out.embed(texts, packing=4), left_out.embed(texts, packing=1), atol=1e-5)


def test_a_row_of_all_positions_holds_one_text(bert: Bert) -> None:
    whole = " ".join(["cat", "ran"] * 31)  # 64 tokens with [CLS] and [SEP], as many as the model has positions
    texts = ["the cat", whole, "rain", whole]
    np.testing.assert_allclose(bert.embed(texts, packing=4), bert.embed(texts, packing=1), atol=1e-5)
