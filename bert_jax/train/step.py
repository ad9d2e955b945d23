"""One training step and one evaluation step: pure functions of (state, batch).

mask → loss and gradients, summed over microbatches → clip → optimizer → skip if not finite → metrics. Layouts are
given to `jax.jit` from outside (see `program`); the step itself is the same on every mesh.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from bert_jax import compat
from bert_jax.batch import EXAMPLES, MASKED, PACKED, check, row_predictions
from bert_jax.compat import threefry_2x32
from bert_jax.config import Config, Optimizer
from bert_jax.errors import BertJaxError
from bert_jax.model.bert import Bert, apply
from bert_jax.model.dropout import Dropout
from bert_jax.model.layout import Layout
from bert_jax.train.losses import Sums, masked_lm_loss, next_sentence_loss, pretraining_sums
from bert_jax.train.masking import Vocabulary, mask_tokens
from bert_jax.train.optimizer import clip, global_norm, make_update_rule
from bert_jax.train.schedule import count_start, make_schedule
from bert_jax.train.sharding import BATCH, REPLICATED, gather_outside_encoder, microbatches
from bert_jax.train.state import State

Tree = Any
Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]

MASK_SEED_OF_EVALUATION = 20181011  # any fixed number: two models see the same masks
"""Seed of the masks of every evaluation, whatever the run's own."""
DROPOUT = 0x44524F50  # "DROP": keeps these bits apart from all others drawn from one seed


def row_places(config: Config, phase_index: int) -> int:
    """M of a packed row of a phase: places for masked positions, as many as asked for, or enough for any row."""
    phase, share = config.phases[phase_index], config.train.masked_share
    return phase.row_predictions or row_predictions(phase.length, phase.packing, phase.predictions, share)


def make_masked(
    config: Config, phase_index: int, vocabulary: Vocabulary, seed: int, epoch: int | None = None
) -> Callable[[Batch], dict[str, jax.Array]]:
    """`masked(batch)`: examples with masks drawn, records that hold masks already as they are.

    Both get what the loss needs besides: `next_sentence_weights` and, where the feed gave none, `example_ids`.
    """
    train, phase = config.train, config.phases[phase_index]
    places = row_places(config, phase_index)

    def masked(batch: Batch) -> dict[str, jax.Array]:
        if "masked_lm_positions" in batch:
            check(batch, MASKED)
            found = dict(batch)
        else:
            packed = "sequence_ids" in batch
            check(batch, EXAMPLES | PACKED if packed else EXAMPLES)
            if packed:  # or masks beyond the places for them would be lost
                length, most = batch["input_ids"].shape[1], batch["cls_positions"].shape[1]
                if (length, most) != (phase.length, phase.packing):
                    raise BertJaxError(
                        f"packed rows of {length} tokens and {most} sequences: phase {phase_index} has rows of "
                        f"{phase.length} and {phase.packing}"
                    )
            found = mask_tokens(
                batch,
                seed,
                epoch,
                vocabulary=vocabulary,
                predictions=phase.predictions,
                masked_share=train.masked_share,
                whole_words=train.whole_words,
                row_predictions=places if packed else None,
            )
        rows = found["input_ids"].shape[0]
        found.setdefault("example_ids", jnp.arange(rows, dtype=jnp.uint32))
        found["next_sentence_labels"] = found["next_sentence_labels"].astype(jnp.int32)
        weights = found.pop("example_weights", jnp.ones(rows, jnp.float32)).astype(jnp.float32)
        found["masked_lm_weights"] = found["masked_lm_weights"].astype(jnp.float32) * weights[:, None]
        found["next_sentence_weights"] = weights
        if "sequence_ids" in found:
            found["next_sentence_weights"] = weights[:, None] * (example_lengths(found) > 0)
        return found

    return masked


def example_lengths(batch: Batch) -> jax.Array:
    """Real tokens of each example: int32 (B, 1), or (B, P) when packed."""
    real = batch["input_mask"].astype(bool)
    if "sequence_ids" not in batch:
        return jnp.sum(real, axis=1, keepdims=True, dtype=jnp.int32)
    places = jnp.arange(1, batch["cls_positions"].shape[1] + 1)
    return jnp.sum((batch["sequence_ids"][:, :, None] == places) & real[:, :, None], axis=1, dtype=jnp.int32)


def dropout_key(seed: int, step: jax.typing.ArrayLike) -> jax.Array:
    """The dropout key of one step: uint32 (2,). The model folds example, layer and place into it."""
    key = threefry_2x32(seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF, step, DROPOUT)
    return jnp.stack(key)


class _Totals(NamedTuple):
    """Denominators of the losses, over the whole batch: so microbatch gradients simply add up."""

    mlm: jax.Array
    nsp: jax.Array


def joint_loss(sums: Sums, totals: _Totals) -> jax.Array:
    """MLM loss plus NSP loss, as published: of a whole batch, or a microbatch's share of it."""
    return masked_lm_loss(sums.mlm_loss, totals.mlm) + next_sentence_loss(sums.nsp_loss, totals.nsp)


def make_gradients(
    model: Bert, config: Config, mesh: jax.sharding.Mesh
) -> Callable[[Tree, Batch, jax.Array], tuple[Tree, Sums]]:
    """`gradients(params, masked_batch, key) -> (gradients of the joint loss, sums)`.

    With accumulation the batch is cut into microbatches, one after the other, whose gradients are summed. On a mesh of
    `data` alone each device sums its own, and they are exchanged once: left to itself the partitioner exchanges them
    after every microbatch.
    """
    accumulation = config.train.accumulation
    exact = config.train.dropout == "exact"  # its bits belong to the example; fast draws by place, anew each time
    next_sentence = config.train.objective != "mlm"

    alone = accumulation > 1 and mesh.size > 1 and mesh.shape["data"] == mesh.size  # each device sums its own
    model = model.clone(layout=Layout(platform=model.layout.platform)) if alone else model

    def loss(params: Tree, batch: Batch, totals: _Totals, key: jax.Array) -> tuple[jax.Array, Sums]:
        dropout = Dropout(key, batch["example_ids"], config.train.dropout)
        sums = pretraining_sums(
            apply(model, gather_outside_encoder(params, model.layout), batch, dropout), batch, next_sentence
        )
        return joint_loss(sums, totals), sums

    part = jax.grad(loss, has_aux=True)

    def accumulated(params: Tree, batch: Batch, totals: _Totals, key: jax.Array) -> tuple[Tree, Sums]:
        device = jax.lax.axis_index("data") if alone else 0

        def add(carry: tuple[Tree, Sums], indexed: tuple[jax.Array, Batch]) -> tuple[tuple[Tree, Sums], None]:
            index, microbatch = indexed
            own = key if exact else jnp.stack(threefry_2x32(key[0], key[1], index, device))
            return jax.tree.map(jnp.add, carry, part(params, microbatch, totals, own)), None

        indexed = (jnp.arange(accumulation), microbatches(batch, accumulation, None if alone else mesh))
        zeros = (jax.tree.map(jnp.zeros_like, params), Sums(*[jnp.zeros((), jnp.float32)] * len(Sums._fields)))
        found = jax.lax.scan(add, zeros, indexed)[0]
        return jax.lax.psum(found, "data") if alone else found

    def gradients(params: Tree, batch: Batch, key: jax.Array) -> tuple[Tree, Sums]:
        totals = _Totals(jnp.sum(batch["masked_lm_weights"]), jnp.sum(batch["next_sentence_weights"]))
        if accumulation == 1:
            return part(params, batch, totals, key)
        if not alone:
            return accumulated(params, batch, totals, key)
        specs = (REPLICATED, BATCH, REPLICATED, REPLICATED)
        run = compat.shard_map(accumulated, mesh=mesh, in_specs=specs, out_specs=REPLICATED)
        return cast(tuple[Tree, Sums], run(params, dict(batch), totals, key))

    return gradients


def make_train_step(
    model: Bert, config: Config, phase_index: int, vocabulary: Vocabulary, mesh: jax.sharding.Mesh
) -> Callable[[State, Batch], tuple[State, Metrics]]:
    """`train_step(state, batch) -> (state, metrics)`; `metrics` are float32 or int32 scalars, still on the device."""
    masked = make_masked(config, phase_index, vocabulary, config.train.seed)
    gradients = make_gradients(model, config, mesh)
    update = make_update(config.optimizer)
    schedule = make_schedule(config)
    first = count_start(config, phase_index)

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        batch = masked(batch)
        grads, sums = gradients(state.params, batch, dropout_key(config.train.seed, state.step))
        losses = {
            "mlm_loss": masked_lm_loss(sums.mlm_loss, sums.mlm_count),
            "nsp_loss": next_sentence_loss(sums.nsp_loss, sums.nsp_count),
        }
        loss = losses["mlm_loss"] + losses["nsp_loss"]
        state, norms = update(state, grads, loss, schedule(state.step), state.step - first + 1)
        counts = {
            "mlm_correct": sums.mlm_correct,
            "mlm_count": sums.mlm_count,
            "nsp_correct": sums.nsp_correct,
            "nsp_count": sums.nsp_count,
        }
        return state, losses | {"loss": loss} | counts | norms | token_counts(batch)

    return train_step


Update = Callable[..., tuple[State, Metrics]]


def make_update(optimizer: Optimizer) -> Update:
    """`update(state, grads, loss, rate, count, factors=None) -> (state, metrics)`: clip, step, skip if not finite.

    `count` is 1 at the first update of a stretch; `factors` is a tree of numbers by which the updates are multiplied.
    """
    rule = make_update_rule(optimizer)

    def update(
        state: State, grads: Tree, loss: jax.Array, rate: jax.Array, count: jax.Array, factors: Tree | None = None
    ) -> tuple[State, Metrics]:
        grad_norm = global_norm(grads)
        grads = clip(grads, grad_norm, optimizer.clip_norm)
        updates, moments = rule.update(grads, state.opt_state, state.params, rate, count)
        if factors is not None:
            updates = jax.tree.map(jnp.multiply, updates, factors)

        update_norm = global_norm(updates)
        # The update's own norm stands in the condition for one more reason: what reads the old state has then been
        # computed before any of it is overwritten, and XLA needs no copy of the whole state to keep it.
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm) & jnp.isfinite(update_norm)
        params, moments = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (optax.apply_updates(state.params, updates), moments),
            (state.params, state.opt_state),
        )
        missed = 1 - finite.astype(jnp.int32)
        metrics = {
            "learning_rate": rate,
            "grad_norm": grad_norm,
            "param_norm": global_norm(params),
            "update_norm": jnp.where(finite, update_norm, 0.0),
            "nonfinite": missed,
        }
        state = State(
            step=state.step + 1,
            params=params,
            opt_state=moments,
            skipped=state.skipped + missed,
            skipped_in_a_row=(state.skipped_in_a_row + 1) * missed,
        )
        return state, metrics

    return update


def token_counts(batch: Batch) -> Metrics:
    """What a batch holds: examples, real tokens, the sum of their squares (for attention's FLOPs), places."""
    lengths = example_lengths(batch)
    return {
        "sequences": jnp.sum(lengths > 0, dtype=jnp.int32),
        "real_tokens": jnp.sum(lengths),
        "real_tokens_squared": jnp.sum(jnp.square(lengths.astype(jnp.float32))),
        "tokens": jnp.asarray(batch["input_ids"].size, jnp.int32),
    }


def make_evaluate_step(
    model: Bert, config: Config, phase_index: int, vocabulary: Vocabulary
) -> Callable[[Tree, Batch], Metrics]:
    """`evaluate_step(params, batch) -> sums` over the rows whose `example_weights` (default 1) are not 0."""
    masked = make_masked(config, phase_index, vocabulary, MASK_SEED_OF_EVALUATION, epoch=0)
    next_sentence = config.train.objective != "mlm"

    def evaluate_step(params: Tree, batch: Batch) -> Metrics:
        batch = masked(batch)
        sums = pretraining_sums(apply(model, gather_outside_encoder(params, model.layout), batch), batch, next_sentence)
        weights = batch["next_sentence_weights"]
        rows = weights.reshape(weights.shape[0], -1)
        return {
            "mlm_loss_sum": sums.mlm_loss,
            "mlm_correct": sums.mlm_correct,
            "mlm_count": sums.mlm_count,
            "nsp_loss_sum": sums.nsp_loss,
            "nsp_correct": sums.nsp_correct,
            "nsp_count": sums.nsp_count,
            "nsp_positives": jnp.sum(weights * batch["next_sentence_labels"]) if next_sentence else jnp.float32(0),
            "sequences": jnp.sum(weights),
            "real_tokens": jnp.sum(rows * example_lengths(batch)),
        }

    return evaluate_step
