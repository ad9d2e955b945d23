"""A training that costs milliseconds: a bag-of-words model with the interface of the real program.

Run as a script it trains in a process of its own, so that tests can kill it:
`python tiny_training.py RUN [--steps N] [--seconds-per-step S]`.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.bert_config import BertConfig
from bert_jax.config import Checkpoint, Config, Evaluate, Log, Optimizer, Phase, Train
from bert_jax.console import set_up_logging
from bert_jax.errors import EXIT_FAILED, EXIT_STOPPED, BertJaxError
from bert_jax.train.evaluation import make_evaluation
from bert_jax.train.loop import train
from bert_jax.train.run import Run, create_run, is_run, open_run

VOCABULARY, WIDTH, LENGTH, BATCH = 32, 8, 16, 8


class TinyState(NamedTuple):
    step: Any
    params: Any
    opt_state: Any
    skipped: Any
    skipped_in_a_row: Any


class Moments(NamedTuple):
    mean: Any


def _losses(params: Any, batch: Any, noise: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    hidden = params["embeddings"]["word_embeddings"][batch["input_ids"]] * noise
    logits = hidden @ params["embeddings"]["word_embeddings"].T + params["masked_lm"]["bias"]
    losses = -jax.nn.log_softmax(logits)
    wanted = batch["input_ids"]  # guess the token that stands there
    picked = jnp.take_along_axis(losses, wanted[..., None], -1)[..., 0]
    return jnp.mean(picked) + jnp.sum(batch["poison"]), (jnp.argmax(logits, -1) == wanted, picked)


@jax.jit
def _tiny_step(state: TinyState, batch: Any) -> tuple[TinyState, dict[str, jax.Array]]:
    noise = jax.random.bernoulli(jax.random.fold_in(jax.random.key(7), state.step), 0.9, (BATCH, LENGTH, WIDTH))
    (loss, (hits, _)), grads = jax.value_and_grad(_losses, has_aux=True)(state.params, batch, noise)
    finite = jnp.isfinite(loss)
    missed = 1 - finite.astype(jnp.int32)
    mean = jax.tree.map(lambda m, g: jnp.where(finite, 0.9 * m + 0.1 * g, m), state.opt_state.mean, grads)
    params = jax.tree.map(lambda p, m: jnp.where(finite, p - 2.0 * m, p), state.params, mean)
    state = TinyState(
        state.step + 1, params, Moments(mean), state.skipped + missed, (state.skipped_in_a_row + 1) * missed
    )
    tokens = jnp.int32(BATCH * LENGTH)
    metrics = {
        "loss": loss,
        "mlm_loss": loss,
        "mlm_correct": jnp.sum(hits),
        "mlm_count": tokens,
        "nsp_loss": jnp.float32(0),
        "nsp_correct": jnp.float32(0),
        "nsp_count": jnp.float32(0),
        "sequences": jnp.int32(BATCH),
        "real_tokens": jnp.sum(batch["input_mask"].astype(jnp.int32)),
        "real_tokens_squared": jnp.float32(0),
        "tokens": tokens,
        "learning_rate": jnp.float32(2.0),
        "grad_norm": jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads))),
        "param_norm": jnp.sqrt(sum(jnp.sum(p**2) for p in jax.tree.leaves(params))),
        "update_norm": jnp.float32(0),
        "nonfinite": missed,
    }
    return state, metrics


@jax.jit
def _tiny_evaluation(params: Any, batch: Any) -> dict[str, jax.Array]:
    _, (hits, losses) = _losses(params, batch, 1.0)
    weights = batch["example_weights"]
    return {
        "mlm_loss_sum": jnp.sum(losses * weights[:, None]),
        "mlm_correct": jnp.sum(hits * weights[:, None]),
        "mlm_count": jnp.sum(weights) * LENGTH,
        "nsp_loss_sum": jnp.sum(weights),
        "nsp_correct": jnp.sum(weights),
        "nsp_count": jnp.sum(weights),
        "nsp_positives": jnp.sum(weights * batch["next_sentence_labels"]),
        "sequences": jnp.sum(weights),
        "real_tokens": jnp.sum(weights) * LENGTH,
    }


@dataclasses.dataclass(frozen=True)
class TinyProgram:
    """The interface of `bert_jax.train.program.Program` that the loop uses."""

    phase_index: int = 0

    def init_state(self, params: Any = None) -> TinyState:
        if params is None:
            table = 0.02 * jax.random.normal(jax.random.key(0), (VOCABULARY, WIDTH))
            params = {"embeddings": {"word_embeddings": table}, "masked_lm": {"bias": jnp.zeros(VOCABULARY)}}
        zero = jnp.int32(0)
        return TinyState(zero, params, Moments(jax.tree.map(jnp.zeros_like, params)), zero, zero)

    def abstract_state(self) -> TinyState:
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shapes = jax.eval_shape(self.init_state)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)

    def train_step(self, state: TinyState, batch: Any) -> Any:
        return _tiny_step(state, batch)

    def evaluate_step(self, params: Any, batch: Any) -> Any:
        return _tiny_evaluation(params, batch)

    def place(self, batch: Any) -> Any:
        return {name: jnp.asarray(array) for name, array in batch.items()}


def tiny_config(steps: int = 24, **sections: Any) -> Config:
    """A configuration that logs, saves and evaluates at steps that do not fall together."""
    config = Config(
        model=BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=LENGTH,
        ),
        train=Train(steps=steps, batch=BATCH, length=LENGTH, predictions=3, nonfinite_limit=3, objective="mlm"),
        optimizer=Optimizer(learning_rate=1e-3, warmup=2.0),
        evaluate=Evaluate(every=12, sequences=20),
        checkpoint=Checkpoint(every=5, keep=2),
        log=Log(every=4, tensorboard=False),
    )
    return dataclasses.replace(config, **sections)


def two_phases(steps: int = 12) -> Config:
    """The same with a second phase."""
    config = tiny_config(steps)
    later = (Phase(length=LENGTH, batch=BATCH, steps=steps, predictions=3),)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, later_phases=later))


def examples(index: int, rows: int = BATCH, poisoned: bool = False) -> dict[str, np.ndarray]:
    """Batch `index`, a pure function of it, in the examples schema (and a number that makes the tiny loss NaN)."""
    random = np.random.default_rng(index)
    ids = np.minimum(random.geometric(0.2, (rows, LENGTH)) + 4, VOCABULARY - 1).astype(np.int32)
    return {
        "input_ids": ids,
        "input_mask": np.ones((rows, LENGTH), np.int8),
        "segment_ids": np.zeros((rows, LENGTH), np.int8),
        "word_starts": np.ones((rows, LENGTH), np.int8),
        "example_ids": np.arange(index * rows, (index + 1) * rows, dtype=np.uint32),
        "epochs": np.zeros(rows, np.int32),
        "next_sentence_labels": np.zeros(rows, np.int32),
        "poison": np.full(rows, np.nan if poisoned else 0.0, np.float32),
    }


class TinyFeed:
    """`feed(step)`; remembers where it was asked to begin."""

    def __init__(
        self, config: Config, poisoned: tuple[int, ...] = (), seconds: float = 0.0, progress: Path | None = None
    ):
        self.config, self.poisoned, self.seconds, self.progress = config, poisoned, seconds, progress
        self.begun: list[int] = []
        self.closed = 0

    def __call__(self, step: int) -> Iterator[dict[str, np.ndarray]]:
        self.begun.append(step)
        return self._batches(step)

    def _batches(self, step: int) -> Iterator[dict[str, np.ndarray]]:
        end = self.config.span_at(step).end
        try:
            for index in range(step, end):
                time.sleep(self.seconds)
                if self.progress is not None:
                    with open(self.progress, "a") as file:
                        file.write(f"{index}\n")
                yield examples(index, poisoned=index in self.poisoned)
        finally:
            self.closed += 1


class TinyTokenizer:
    """What `create_run` needs of a tokenizer."""

    fingerprint = "a" * 64

    def save(self, directory: Path) -> None:
        (directory / "vocab.txt").write_text("[PAD]\n")


FINGERPRINTS = {"tokenizer": "a" * 64, "store": "b" * 64}


def open_or_create(path: Path, config: Config) -> Run:
    """The run at `path`."""
    if is_run(path):
        return open_run(path)
    return create_run(path, config, TinyTokenizer(), FINGERPRINTS, {"dtype": "float32"})


def held_out(rows: int = 20) -> Any:
    """An evaluation over `rows` examples, the last batch short."""
    whole = [examples(1000 + index) for index in range(-(-rows // BATCH))]
    return make_evaluation(lambda: iter(whole), rows, BATCH)


def run_tiny(path: Path, config: Config, feed: TinyFeed | None = None, **options: Any) -> dict[str, Any]:
    """Train with the tiny program."""
    run = open_or_create(path, config)
    options.setdefault("evaluations", {"": held_out()})
    return train(config, run, TinyProgram, feed or TinyFeed(config), **options)


def bert_program(config: Config) -> Any:
    from bert_jax.train.masking import Vocabulary
    from bert_jax.train.program import make_program
    from bert_jax.train.sharding import make_mesh

    mesh = make_mesh(config.mesh, jax.devices()[:1])
    return lambda phase: make_program(config, phase, mesh, Vocabulary(VOCABULARY, 4, (0, 1, 2, 3, 4)))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--seconds-per-step", type=float, default=0.0)
    arguments = parser.parse_args()
    set_up_logging()
    config = tiny_config(arguments.steps)
    feed = TinyFeed(config, (), arguments.seconds_per_step, arguments.run.with_suffix(".steps"))
    try:
        run = open_or_create(arguments.run, config)
        found = train(config, run, TinyProgram, feed, {"": held_out()})
    except BertJaxError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED
    return EXIT_STOPPED if found["stopped"] else 0


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.exit(main())
