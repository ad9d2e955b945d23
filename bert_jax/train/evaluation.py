"""Evaluation on held-out examples: masks from a fixed seed, so that two models, or two steps, are comparable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import numpy as np

from bert_jax.errors import BertJaxError
from bert_jax.train.signals import interrupt_if_asked

Batches = Callable[[], Iterable[Mapping[str, np.ndarray]]]
Evaluation = Callable[[Any, Any], dict[str, Any]]


_Item = TypeVar("_Item")


@contextmanager
def opened(batches: Iterable[_Item]) -> Iterator[Iterator[_Item]]:
    """An iterator over a feed; what the feed has running ends with the block, wherever it stands."""
    iterator = iter(batches)
    try:
        yield iterator
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


def make_evaluation(
    batches: Batches,
    sequences: int,
    batch_size: int,
    chance: Mapping[str, float | None] | None = None,
    advance: Callable[[int], None] | None = None,
) -> Evaluation:
    """`evaluation(program, params) -> dict` over the first `sequences` examples of a feed.

    `batches()` begins the feed anew and yields host batches: this process's rows of a global batch of `batch_size`
    (process p has rows [p·B/P, (p+1)·B/P)). It may end early, with a short last batch, or go on for ever; rows past
    `sequences` and rows added to fill a batch have weight 0. `advance(n)` is told after every batch that n sequences
    are done.

    The dict: `mlm_loss mlm_accuracy nsp_loss nsp_accuracy sequences tokens` and the chance baselines
    `chance_mlm_loss chance_mlm_accuracy` (as given) and `chance_nsp_accuracy` (counted from these labels).
    Errors: `BertJaxError` when the feed is empty; `Interrupted` when the training it belongs to was asked to stop.
    """
    if sequences < 1 or batch_size < 1:
        raise BertJaxError(f"evaluation of {sequences} sequences in batches of {batch_size}: expected at least 1 each")
    local = batch_size // jax.process_count()
    count = -(-sequences // batch_size)

    def evaluation(program: Any, params: Any) -> dict[str, Any]:
        sums: list[Mapping[str, jax.Array]] = []
        with opened(batches()) as feed:
            for index in range(count):
                interrupt_if_asked()
                batch = next(feed, None)
                if batch is None:
                    break
                first = index * batch_size + jax.process_index() * local
                sums.append(program.evaluate_step(params, program.place(filled(batch, local, sequences - first))))
                if index >= 2:
                    jax.block_until_ready(sums[index - 2])  # no more than three batches on the device
                if advance is not None:
                    advance(min((index + 1) * batch_size, sequences))
        if not sums:
            raise BertJaxError("nothing to evaluate: the held-out part is empty; prepare with a larger --eval-fraction")
        return _summary(sums, chance or {})

    return evaluation


def filled(batch: Mapping[str, np.ndarray], rows: int, wanted: int) -> dict[str, np.ndarray]:
    """`batch` with exactly `rows` rows, the first row repeated where there are fewer, and its `example_weights`.

    Rows from `wanted` on, and repeated ones, weigh 0.
    """
    have = len(batch["input_ids"])
    if have > rows:
        raise BertJaxError(f"an evaluation batch has {have} rows: expected at most {rows}")
    picked = np.where(np.arange(rows) < have, np.arange(rows), 0)
    weights = (np.arange(rows) < min(have, wanted)).astype(np.float32)
    if "example_weights" in batch:
        weights = weights * np.asarray(batch["example_weights"], np.float32)[picked]
    full = {name: np.asarray(array)[picked] for name, array in batch.items()} if have < rows else dict(batch)
    return {**full, "example_weights": weights}


def _summary(sums: list[Mapping[str, jax.Array]], chance: Mapping[str, float | None]) -> dict[str, Any]:
    fetched = jax.device_get(sums)
    total = {name: sum(float(part[name]) for part in fetched) for name in fetched[0]}
    pairs, positives = total["nsp_count"], total["nsp_positives"]
    return {
        "mlm_loss": _ratio(total["mlm_loss_sum"], total["mlm_count"]),
        "mlm_accuracy": _ratio(total["mlm_correct"], total["mlm_count"]),
        "nsp_loss": _ratio(total["nsp_loss_sum"], pairs),
        "nsp_accuracy": _ratio(total["nsp_correct"], pairs),
        "sequences": int(total["sequences"]),
        "tokens": int(total["real_tokens"]),
        "chance_mlm_loss": chance.get("chance_mlm_loss"),
        "chance_mlm_accuracy": chance.get("chance_mlm_accuracy"),
        "chance_nsp_accuracy": _ratio(max(positives, pairs - positives), pairs),
    }


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
