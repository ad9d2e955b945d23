"""Sentence embeddings: the loss over the whole batch, fillings left out, pooling, and how well texts find theirs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import small_tokenizer

from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import TaskOptions
from bert_jax.tasks.similarity import Similarity, ranks_of, similarities
from bert_jax.tasks.task import SimilarExample

B, K, T, D = 5, 3, 4, 6


def form_of(**options: Any) -> Similarity:
    return Similarity(small_tokenizer(), (), TaskOptions(**{"length": 8, **options}))


def drawn(seed: int = 0, count: int = B) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Outputs of a model and the batch they are of, as many real tokens as the row's number allows."""
    random = np.random.default_rng(seed)
    mask = (np.arange(T) < random.integers(1, T + 1, (count, K, 1))).astype(np.int32)
    outputs = {"sequence_output": jnp.asarray(random.normal(size=(count, K, T, D)), jnp.float32)}
    batch = {"input_mask": jnp.asarray(mask), "sequence_mask": jnp.ones((count, K)), "weights": jnp.ones(count)}
    return outputs, batch


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_rows_hold_one_sequence_per_text() -> None:
    form = form_of()
    row = form.encode(SimilarExample(texts=("the cat", "a dog ran", "rain " * 9), score=0.5))[0]
    assert [form.tokenizer.pieces(ids) for ids in row.ids][:2] == [
        ["[CLS]", "the", "cat", "[SEP]"],
        ["[CLS]", "a", "dog", "ran", "[SEP]"],
    ]
    assert len(row.ids[2]) == 8 and form.cut == 1
    assert row.targets == {"scores": 0.5} and row.segments[0] == (0, 0, 0, 0)
    assert form.encode(SimilarExample(texts=("", "a")))[0].targets == {}
    with pytest.raises(BertJaxError, match="f, line 1 has 1 text: expected two"):
        form.encode(SimilarExample(texts=("a",), place="f, line 1"))


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "pooler"])
def test_pooling_reads_real_tokens_only(pooling: str) -> None:
    form = form_of(pooling=pooling)
    assert form.pooler == (pooling == "pooler")
    outputs, batch = drawn()
    outputs["pooled_output"] = outputs["sequence_output"][:, :, 0] * 2
    x, mask = np.asarray(outputs["sequence_output"]), np.asarray(batch["input_mask"])
    found = form.answers(outputs, batch)
    assert set(found) == {"vectors"} and found["vectors"].shape == (B, K, D)
    for row in range(B):
        for k in range(K):
            real = x[row, k][mask[row, k] > 0]
            expected = {"mean": real.mean(0), "cls": real[0], "max": real.max(0), "pooler": 2 * real[0]}[pooling]
            np.testing.assert_allclose(found["vectors"][row, k], expected, rtol=1e-5, atol=1e-6)


def test_each_first_text_is_to_find_its_second_among_all() -> None:
    form = form_of(scale=20.0)
    outputs, batch = drawn()
    v = unit(np.asarray(form.vectors(outputs, batch), np.float64))
    scores = 20 * np.concatenate([v[:, 0] @ v[:, 1].T, v[:, 0] @ v[:, 2].T], axis=1)
    expected = np.log(np.exp(scores).sum(axis=1)) - np.diagonal(scores)
    np.testing.assert_allclose(form.loss(outputs, batch), expected, rtol=1e-4)


def test_fillings_and_missing_texts_are_nobodys_negatives() -> None:
    form = form_of()
    outputs, batch = drawn()
    few, batch_of_few = drawn(count=B)
    few = {"sequence_output": outputs["sequence_output"][:3]}
    batch_of_few = {name: array[:3] for name, array in batch.items()}
    weights = jnp.array([1.0, 1, 1, 0, 0])

    @jax.jit
    @jax.grad
    def gradient_of(x: jax.Array, batch: dict[str, jax.Array]) -> jax.Array:
        losses = form.loss({"sequence_output": x}, batch)
        return jnp.sum(losses * batch["weights"])

    filled = form.loss(outputs, batch | {"weights": weights})
    np.testing.assert_allclose(filled[:3], form.loss(few, batch_of_few), rtol=1e-5)
    assert np.isfinite(filled).all()
    gradient = gradient_of(outputs["sequence_output"], batch | {"weights": weights})
    assert np.isfinite(gradient).all() and not np.asarray(gradient[3:]).any() and np.asarray(gradient[:3]).any()

    pairs = {"sequence_output": outputs["sequence_output"][:, :2]}
    batch_of_pairs = {name: array[:, :2] if array.ndim > 1 else array for name, array in batch.items()}
    without = batch | {"sequence_mask": jnp.array([[1.0, 1, 0]] * B)}
    np.testing.assert_allclose(form.loss(outputs, without), form.loss(pairs, batch_of_pairs), rtol=1e-5)
    zeros = gradient_of(jnp.zeros_like(outputs["sequence_output"]), batch)
    assert np.isfinite(zeros).all()


def test_scores_are_what_the_cosine_is_to_equal() -> None:
    form = form_of()
    outputs, batch = drawn()
    v = unit(np.asarray(form.vectors(outputs, batch)))
    target = np.linspace(0, 1, B, dtype=np.float32)
    expected = ((v[:, 0] * v[:, 1]).sum(-1) - target) ** 2
    np.testing.assert_allclose(form.loss(outputs, batch | {"scores": jnp.asarray(target)}), expected, atol=1e-6)


def test_the_loss_equals_sentence_transformers() -> None:
    pytest.importorskip("sentence_transformers")
    import torch
    from sentence_transformers import util

    try:
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    except ImportError:
        from sentence_transformers.losses import MultipleNegativesRankingLoss
    form = form_of(scale=20.0)
    outputs, batch = drawn(seed=1)
    v = torch.from_numpy(np.array(form.vectors(outputs, batch)))
    theirs = MultipleNegativesRankingLoss(model=None, scale=20.0, similarity_fct=util.cos_sim)
    expected = float(theirs.compute_loss_from_embeddings([v[:, 0], v[:, 1], v[:, 2]], None))
    assert float(form.loss(outputs, batch).mean()) == pytest.approx(expected, rel=1e-5)


def test_all_or_none_have_scores() -> None:
    without = SimilarExample(texts=("a", "b"), place="f, line 1")
    mixed = [without, SimilarExample(texts=("a", "b"), score=1, place="f, line 2")]
    form_of().check(mixed[:1], mixed[1:])
    with pytest.raises(BertJaxError, match="f, line 2 has a score and f, line 1 has none: give all"):
        form_of().check(mixed, [])


def test_the_task_that_is_measured_by_scores_wants_them_in_dev() -> None:
    without = SimilarExample(texts=("a", "b"), place="f, line 1")
    scored = SimilarExample(texts=("a", "b"), score=1, place="f, line 2")
    form = form_of(name="similarity")
    with pytest.raises(BertJaxError, match="f, line 1 has no score.*--task.name retrieval"):
        form.check([without], [without])
    form.check([without], [scored])  # trained by texts that belong together, measured by scores
    form_of(name="retrieval").check([without], [without])


# --- the metric -------------------------------------------------------------------------------------------------------


def predictions_of(vectors: np.ndarray, examples: list[SimilarExample]) -> list[dict[str, Any]]:
    form = form_of()
    return [form.decode(example, [], [{"vectors": rows}]) for example, rows in zip(examples, vectors, strict=True)]


def test_scored_pairs_are_ranked_by_cosine() -> None:
    angles = np.array([0.1, 0.5, 1.0, 2.0])
    vectors = np.stack([np.tile([1.0, 0.0], (4, 1)), 3 * np.stack([np.cos(angles), np.sin(angles)], 1)], axis=1)
    examples = [SimilarExample(texts=("a", "b"), score=score) for score in (1.0, 0.8, 0.6, 0.0)]
    predictions = predictions_of(vectors, examples)
    np.testing.assert_allclose([p["similarity"] for p in predictions], np.cos(angles), rtol=1e-6)
    assert similarities(predictions, examples)["spearman"] == pytest.approx(1.0)
    constant = similarities(predictions_of(np.ones((4, 2, 2)), examples), examples)
    assert constant == {"spearman": None, "pearson": None}


def test_unscored_pairs_are_looked_for_among_all_second_texts() -> None:
    count = 30
    random = np.random.default_rng(0)
    first, second = random.normal(size=(2, count, D))
    second[:20] = first[:20] + 0.01 * second[:20]  # these are found
    examples = [SimilarExample(texts=("x", str(i))) for i in range(count)]
    vectors = np.stack([first, second], axis=1)
    cosines = unit(first) @ unit(second).T
    ranks = ranks_of(list(vectors), [example.texts[1] for example in examples])
    assert ranks is not None
    assert ranks.tolist() == [1 + int((row > row[i]).sum()) for i, row in enumerate(cosines)]
    scores = similarities(predictions_of(vectors, examples), examples)
    assert scores["recall_at_1"] == pytest.approx(np.mean(ranks == 1))
    assert scores["recall_at_10"] == pytest.approx(np.mean(ranks <= 10))
    assert scores["mean_reciprocal_rank"] == pytest.approx(np.mean(1 / ranks))


def test_a_collapsed_encoder_finds_nothing_and_copies_are_no_rivals() -> None:
    examples = [SimilarExample(texts=("x", str(i))) for i in range(12)]
    same = similarities(predictions_of(np.ones((12, 2, D)), examples), examples)
    assert (same["recall_at_1"], same["recall_at_10"]) == (0, 0)
    copies = [SimilarExample(texts=("x", "same")) for _ in range(3)]
    assert similarities(predictions_of(np.ones((3, 2, D)), copies), copies)["recall_at_1"] is None
    assert ranks_of([], []) is None
    assert ranks_of([np.full((2, D), np.nan)], ["a"]) is None
    ranks = ranks_of([np.eye(2)[[0, 0]], np.eye(2)[[0, 0]], np.eye(2)[[1, 1]]], ["a", "a", "b"])
    assert ranks is not None and ranks.tolist() == [1, 1, 1]
