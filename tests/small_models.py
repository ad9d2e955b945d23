"""A BERT small enough to run in milliseconds, with a vocabulary of real words, in memory and as a run directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.bert_config import BertConfig
from bert_jax.config import Config, Train
from bert_jax.formats.model import LoadedModel
from bert_jax.infer.loaded import Bert
from bert_jax.model.bert import abstract_parameters, make_model
from bert_jax.text.tokenizer import SPECIAL_PIECES, WordPieceTokenizer
from bert_jax.train.checkpoint import Checkpoints
from bert_jax.train.run import Run, create_run
from bert_jax.train.state import init_state

WORDS = (
    *("the", "a", "cat", "dog", "sat", "ran", "on", "mat", "road", "it", "was", "tired", "happy", "rain", "street"),
    *("wet", "play", "##ing", "##ed", "##s", ".", ",", "!", "?"),
)
HEADS = ("masked_lm", "next_sentence")


def small_tokenizer() -> WordPieceTokenizer:
    return WordPieceTokenizer([*SPECIAL_PIECES.values(), *WORDS], cased=False)


def small_config(positions: int = 64) -> BertConfig:
    return BertConfig(
        vocab_size=len(SPECIAL_PIECES) + len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=positions,
    )


def small_parameters(seed: int = 0, heads: Sequence[str] = HEADS) -> dict[str, Any]:
    """Drawn by numpy, which compiles nothing; large enough that answers differ."""
    random = np.random.default_rng(seed)
    shapes = abstract_parameters(make_model(small_config(), heads=heads))
    return jax.tree.map(lambda leaf: jnp.asarray(random.normal(0, 0.5, leaf.shape), leaf.dtype), shapes)


def small_bert(seed: int = 0, heads: tuple[str, ...] = HEADS) -> Bert:
    params = small_parameters(seed, heads)
    return Bert(
        LoadedModel(
            config=small_config(),
            params=params,
            tokenizer=small_tokenizer(),
            kind="run",
            path=Path("small"),
            step=0,
            heads=heads,
        )
    )


def small_run(path: Path, scores: dict[int, float | None], objective: str = "mlm+nsp", second: int = 10**9) -> Run:
    """A run directory with a checkpoint per entry: step → score; the parameters of step s are drawn from seed s.

    From step `second` on they are of the second phase.
    """
    train = Train(length=32, batch=8, predictions=5, steps=100, objective=objective)  # type: ignore[arg-type]
    tokenizer = small_tokenizer()
    fingerprints = {"tokenizer": tokenizer.fingerprint, "store": "b" * 64}
    run = create_run(path, Config(model=small_config(), train=train), tokenizer, fingerprints, {"dtype": "float32"})
    heads = HEADS if objective != "mlm" else HEADS[:1]
    with Checkpoints(run.checkpoints, keep=10) as checkpoints:
        for step, score in scores.items():
            checkpoints.save(step, init_state(small_parameters(step, heads)), {}, score, phase=int(step >= second))
            checkpoints.wait()
    return run
