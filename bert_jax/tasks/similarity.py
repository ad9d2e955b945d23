"""Sentence embeddings: vectors that are alike where the texts are.

Letters: B batch, K texts per example (2, or 3 and more with different ones), T position, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import TaskData
from bert_jax.tasks.columns import Cells, Column, number_of, read_examples, text_of
from bert_jax.tasks.glue import column_of
from bert_jax.tasks.metrics import pearson, spearman
from bert_jax.tasks.task import Batch, Form, Outputs, Prediction, Row, Scores, SimilarExample
from bert_jax.text.cutting import cut_single

_LEAST = 1e-12  # what a length is taken for where it is 0: the cosine is then 0, its gradient finite
_NEVER = -1e30
_BLOCK = 1024  # queries whose cosines with all second texts are in memory at once


class Similarity(Form):
    """Pairs or (anchor, alike, different …): K texts, one vector each, pooled as options.pooling says.

    Without scores, each first text has to find its second one among the second texts of the whole batch and whatever
    follows them (multiple negatives ranking); with scores, the cosine is to equal the score.
    """

    head = None
    outputs = ("vectors",)

    @property
    def pooler(self) -> bool:  # type: ignore[override]  # it depends on the options
        """Whether the pooled first token is the vector."""
        return self.options.pooling == "pooler"

    @classmethod
    def labelled(cls, example: SimilarExample) -> bool:
        """Always: texts that belong together are their own label."""
        return True

    def check(self, train: Sequence[SimilarExample], dev: Sequence[SimilarExample]) -> None:
        """Errors: `BertJaxError` where some training examples, or some of dev, have scores and others not; for the task
        `similarity`, whose metric compares with scores, where dev has none."""
        for examples in (train, dev):
            for example in examples:
                if (example.score is None) != (examples[0].score is None):
                    has, not_ = (example, examples[0]) if examples[0].score is None else (examples[0], example)
                    raise BertJaxError(
                        f"{has.place} has a score and {not_.place} has none: give all of them one, or none"
                    )
        if self.options.name == "similarity" and dev and dev[0].score is None:
            raise BertJaxError(
                f"{dev[0].place} has no score, and the task similarity is measured by scores: take --task.name "
                "retrieval, measured by how often the second text is found, or give a --data.dev with scores"
            )

    def encode(self, example: SimilarExample) -> list[Row]:
        """One row of K sequences `[CLS] text [SEP]`, each cut to options.length; with `scores` where there is one."""
        if len(example.texts) < 2:
            raise BertJaxError(f"{example.place} has {len(example.texts)} text: expected two, or three with another")
        cls, sep, room = self.tokenizer.cls_id, self.tokenizer.sep_id, self.options.length - 2
        whole = [self.tokenizer.ids(text) for text in example.texts]
        self.cut += any(len(ids) > room for ids in whole)
        sequences = tuple((cls, *cut_single(ids, room, self.options.head_tail), sep) for ids in whole)
        targets = {} if example.score is None else {"scores": np.float32(example.score)}
        return [Row(sequences, tuple((0,) * len(ids) for ids in sequences), targets)]

    def vectors(self, outputs: Outputs, batch: Batch) -> jax.Array:
        """Pooled vectors, float32 (B, K, D)."""
        if self.pooler:
            return outputs["pooled_output"].astype(jnp.float32)
        x = outputs["sequence_output"].astype(jnp.float32)
        if self.options.pooling == "cls":
            return x[..., 0, :]
        inside = (batch["input_mask"] > 0)[..., None]
        if self.options.pooling == "max":
            return jnp.max(jnp.where(inside, x, _NEVER), axis=-2)
        return jnp.sum(jnp.where(inside, x, 0), axis=-2) / jnp.maximum(jnp.sum(inside, axis=-2), 1)

    def answers(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """`vectors` (B, K, D) alone: token vectors stay on the device."""
        return {"vectors": self.vectors(outputs, batch)}

    def loss(self, outputs: Outputs, batch: Batch) -> jax.Array:
        """Of each row, float32 (B,).

        Filling (`weights` 0) and sequences that an example lacks (`sequence_mask` 0) are nobody's negatives.
        """
        vectors = _normalised(self.vectors(outputs, batch))
        if "scores" in batch:
            return jnp.square(jnp.sum(vectors[:, 0] * vectors[:, 1], axis=-1) - batch["scores"])
        rows = vectors.shape[0]
        # (B, D) against K − 1 blocks of B: all second texts, then all third ones …; row i's own is column i.
        others = vectors[:, 1:].swapaxes(0, 1).reshape(-1, vectors.shape[-1])
        scores = self.options.scale * jnp.einsum("BD,CD->BC", vectors[:, 0], others, precision="highest")
        real = jnp.ones((rows,)) if "weights" not in batch else batch["weights"]
        there = jnp.broadcast_to(real[:, None], (rows, vectors.shape[1] - 1)) > 0
        if "sequence_mask" in batch:
            there &= batch["sequence_mask"][:, 1:] > 0
        own = jnp.eye(rows, scores.shape[1], dtype=bool)
        scores = jnp.where(there.T.reshape(1, -1) | own, scores, _NEVER)
        return jax.nn.logsumexp(scores, axis=-1) - jnp.diagonal(scores)

    def decode(
        self, example: SimilarExample, rows: Sequence[Row], outputs: Sequence[Mapping[str, np.ndarray]]
    ) -> Prediction:
        """`similarity`, the cosine of the first two, and `vectors`, float32 (K, D), for the metric."""
        vectors = np.asarray(outputs[0]["vectors"], np.float32)[: len(example.texts)]
        first, second = _unit(vectors[:2])
        return {"similarity": float(first @ second), "vectors": vectors}


def _normalised(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), _LEAST**2))


def _unit(x: np.ndarray) -> np.ndarray:
    wide = x.astype(np.float64)
    return wide / np.maximum(np.linalg.norm(wide, axis=-1, keepdims=True), _LEAST)


# --- reading ----------------------------------------------------------------------------------------------------------

_STS = frozenset(("genre", "sentence1", "sentence2", "score"))
"""Columns by which STS-B as distributed is known: its scores are of 0 to 5, everybody else's of 0 to 1."""
_STS_MOST = 5.0


def read_similar(source: str, data: TaskData) -> Iterator[SimilarExample]:
    """Pairs or triples: JSONL `{"anchor", "positive", "negative"}`, or `{"a", "b", "score"}` with scores of 0 to 1;
    tables with such columns; STS-B as distributed or as `tfds:glue/stsb`, whose scores of 0 to 5 become 0 to 1.

    `data.text`, `.pair` and `.label` name other columns for the first two texts and the score.
    Errors: as `read_examples`; a score out of range.
    """
    published = source.startswith("tfds:glue/stsb")
    columns = {
        "first": column_of(data.text, Column(("anchor", "a", "sentence1", "query", "question1"))),
        "second": column_of(data.pair, Column(("positive", "b", "sentence2", "passage", "question2"))),
        "third": Column(("negative", "c"), None, required=False),
        "score": column_of(data.label, Column(("label",) if published else ("score",), None, required=False)),
    }
    return read_examples(source, data, columns, lambda cells: _example(cells, published))


def _example(cells: Cells, published: bool) -> SimilarExample:
    texts = [text_of(cells, key) for key in ("first", "second")]
    if cells.values["third"] not in (None, ""):
        texts.append(text_of(cells, "third"))
    score = number_of(cells, "score")
    if published and score == -1:  # so TensorFlow Datasets has what it does not tell
        score = None
    most = _STS_MOST if published or cells.table >= _STS else 1.0
    if score is not None and not 0 <= score <= most:
        raise BertJaxError(f"{cells.place} has score {score:g}: expected 0 to {most:g}")
    return SimilarExample(
        texts=tuple(texts), score=None if score is None else score / most, place=cells.place, id=cells.id
    )


# --- the metric -------------------------------------------------------------------------------------------------------


def similarities(predictions: Sequence[Prediction], examples: Sequence[SimilarExample]) -> Scores:
    """Of pairs with scores `spearman` and `pearson` of the cosines; of pairs without `recall_at_1`, `recall_at_10` and
    `mean_reciprocal_rank` of the second text among all second texts."""
    if examples and all(example.score is not None for example in examples):
        cosines = [float(prediction["similarity"]) for prediction in predictions]
        scores = [float(example.score or 0) for example in examples]
        return {"spearman": spearman(cosines, scores), "pearson": pearson(cosines, scores)}
    ranks = ranks_of([p["vectors"] for p in predictions], [example.texts[1] for example in examples])
    if ranks is None:
        return {"recall_at_1": None, "recall_at_10": None, "mean_reciprocal_rank": None}
    count = len({example.texts[1] for example in examples})
    return {
        "recall_at_1": float(np.mean(ranks <= 1)) if count > 1 else None,
        "recall_at_10": float(np.mean(ranks <= 10)) if count > 10 else None,
        "mean_reciprocal_rank": float(np.mean(1 / ranks)) if count > 1 else None,
    }


def ranks_of(vectors: Sequence[np.ndarray], seconds: Sequence[str]) -> np.ndarray | None:
    """The rank from 1 of each example's second text by its cosine with the first one, int64 (n,).

    A text that is as near counts as nearer (vectors that are all the same find nothing), but a text is no rival of its
    own copies. None of no examples, and where a vector is not finite.
    """
    if not vectors:
        return None
    first, second = (_unit(np.stack([rows[side] for rows in vectors])) for side in (0, 1))
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        return None
    texts: dict[str, int] = {}
    numbers = np.array([texts.setdefault(text, len(texts)) for text in seconds])
    kept = np.unique(numbers, return_index=True)[1]  # one copy of each text, in the order of their numbers
    ranks = []
    for begin in range(0, len(vectors), _BLOCK):
        block = slice(begin, begin + _BLOCK)
        cosines = first[block] @ second[kept].T
        own = np.arange(len(cosines)), numbers[block]
        nearer = cosines >= cosines[own][:, None]
        nearer[own] = False
        ranks.append(1 + nearer.sum(axis=1))
    return np.concatenate(ranks)
