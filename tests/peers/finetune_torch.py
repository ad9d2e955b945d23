"""One seed of fine-tuning in torch: a model of Hugging Face's transformers on rows of tokens that it is given.

    python finetune_torch.py --rows rows.npz --model MODEL --head sequence --classes 2 --seed 0 --out logits.npz

The published recipe: AdamW with decay off biases and LayerNorm, linear warm-up and decay, clipping, the model's own
dropout and the loss that transformers has for the head. Rows are shuffled each epoch and padded to the longest of
their batch. Writes the logits of every part but `train` after the last step, and prints one line of JSON.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import contract
import numpy as np
import torch
import transformers
from transformers import get_linear_schedule_with_warmup, logging

IGNORED = {"token": -100, "span": 10**6}
"""Of words that are not scored, and of answers without a place (transformers takes what is past the row for that)."""


class Rows:
    """One part of the file: N rows of K sequences, and its targets by name."""

    def __init__(self, arrays: dict[str, np.ndarray], name: str):
        self.lengths = arrays[f"{name}_lengths"]
        self.ends = np.cumsum(self.lengths)[:-1]
        self.ids, self.segments = (np.split(arrays[f"{name}_{what}"], self.ends) for what in ("ids", "segments"))
        self.targets = {key.removeprefix(f"{name}_"): arrays[key] for key in arrays if key.startswith(f"{name}_")}

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, chosen: list[int]) -> dict[str, torch.Tensor]:
        """Some rows, (B, T) or (B, K, T), padded to the longest of their sequences."""
        sequences = self.lengths.shape[1]
        shape = (len(chosen), sequences, int(self.lengths[chosen].max()))
        ids, mask, segments = (torch.zeros(shape, dtype=torch.long) for _ in range(3))
        for place, index in enumerate(chosen):
            for own in range(sequences):
                at, used = index * sequences + own, int(self.lengths[index, own])
                ids[place, own, :used] = torch.from_numpy(self.ids[at].astype(np.int64))
                segments[place, own, :used] = torch.from_numpy(self.segments[at].astype(np.int64))
                mask[place, own, :used] = 1
        found = {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}
        return found if sequences > 1 else {name: array[:, 0] for name, array in found.items()}


# --- heads ------------------------------------------------------------------------------------------------------------


def row_targets(rows: Rows, chosen: list[int]) -> dict[str, torch.Tensor]:
    """A class or a score per row, or which of its sequences is right."""
    name = next(name for name in ("labels", "label", "scores") if name in rows.targets)
    values = torch.from_numpy(rows.targets[name][chosen])
    return {"labels": values.float() if name == "scores" else values.long()}


def token_targets(rows: Rows, chosen: list[int]) -> dict[str, torch.Tensor]:
    """A class per token."""
    labels = torch.full((len(chosen), int(rows.lengths[chosen].max())), IGNORED["token"], dtype=torch.long)
    whole = np.split(rows.targets["labels"], rows.ends)
    for place, index in enumerate(chosen):
        own = torch.from_numpy(whole[index].astype(np.int64))
        labels[place, : len(own)] = torch.where(own < 0, IGNORED["token"], own)
    return {"labels": labels}


def span_targets(rows: Rows, chosen: list[int]) -> dict[str, torch.Tensor]:
    """The first and last token of the answer."""
    found = {}
    for theirs, ours in (("start_positions", "answer_begin"), ("end_positions", "answer_end")):
        places = torch.from_numpy(rows.targets[ours][chosen]).long()
        found[theirs] = torch.where(places < 0, IGNORED["span"], places)
    return found


class Head(NamedTuple):
    """A class of transformers, what its loss is given, and its logits as an array (B, C), (B, K, 1) or (B, T, C)."""

    model: str
    targets: Callable[[Rows, list[int]], dict[str, torch.Tensor]]
    logits: Callable[[Any], torch.Tensor]
    per_token: bool = False


HEADS = {
    "sequence": Head("BertForSequenceClassification", row_targets, lambda found: found.logits),
    "token": Head("BertForTokenClassification", token_targets, lambda found: found.logits, per_token=True),
    "choice": Head("BertForMultipleChoice", row_targets, lambda found: found.logits[..., None]),
    "span": Head(
        "BertForQuestionAnswering",
        span_targets,
        lambda found: torch.stack([found.start_logits, found.end_logits], dim=-1),
        per_token=True,
    ),
}


# --- one run ----------------------------------------------------------------------------------------------------------


def train(model: Any, head: Head, rows: Rows, arguments: argparse.Namespace) -> float:
    """All epochs; the mean loss of the last tenth of the steps."""
    still, decaying = [], []
    for name, parameter in model.named_parameters():
        (still if name.endswith("bias") or "LayerNorm" in name else decaying).append(parameter)
    groups = [{"params": decaying, "weight_decay": arguments.weight_decay}, {"params": still, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=arguments.learning_rate, eps=arguments.eps)
    each = math.ceil(len(rows) / arguments.batch)
    steps = max(1, round(arguments.epochs * each))
    schedule = get_linear_schedule_with_warmup(optimizer, math.floor(arguments.warmup * steps), steps)
    order: list[int] = []
    losses = []
    for _ in range(steps):
        order = order or torch.randperm(len(rows)).tolist()
        chosen, order = order[: arguments.batch], order[arguments.batch :]
        loss = model(**rows.batch(chosen), **head.targets(rows, chosen)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), arguments.clip_norm)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    last = losses[-max(1, steps // 10) :]
    return sum(last) / len(last)


@torch.inference_mode()
def logits_of(model: Any, head: Head, rows: Rows, batch: int) -> np.ndarray:
    """The logits of all rows, in their order, those of tokens end to end; rows of like length are computed together."""
    order = np.argsort(-rows.lengths.max(axis=1), kind="stable").tolist()
    found: list[Any] = [None] * len(rows)
    for first in range(0, len(order), batch):
        chosen = order[first : first + batch]
        logits = head.logits(model(**rows.batch(chosen))).numpy()
        for own, index in zip(logits, chosen, strict=True):
            found[index] = own[: rows.lengths[index, 0]].copy() if head.per_token else own
    return np.concatenate(found) if head.per_token else np.stack(found)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--head", choices=HEADS, default="sequence")
    parser.add_argument("--classes", type=int, required=True, help="of a sequence 1: a score, squared error")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    for name, default in (("epochs", 3.0), ("learning-rate", 2e-5), ("warmup", 0.1), ("weight-decay", 0.01)):
        parser.add_argument(f"--{name}", type=float, default=default)
    parser.add_argument("--eps", type=float, default=1e-6)
    parser.add_argument("--clip-norm", type=float, default=1.0)
    return parser.parse_args()


def main() -> None:
    """Train one seed and write what it says of the other parts."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    logging.set_verbosity_error()  # that the head is new is no news
    start = time.perf_counter()
    arrays, head = dict(np.load(arguments.rows)), HEADS[arguments.head]
    kind = getattr(transformers, head.model)
    model = kind.from_pretrained(arguments.model, num_labels=arguments.classes, dtype=torch.float32)
    loss = train(model.train(), head, Rows(arrays, "train"), arguments)
    trained = time.perf_counter() - start
    parts = [key.removesuffix("_lengths") for key in arrays if key.endswith("_lengths") and key != "train_lengths"]
    logits = {name: logits_of(model.eval(), head, Rows(arrays, name), arguments.batch) for name in parts}
    whole = arguments.out.with_suffix(".part.npz")
    np.savez(whole, **logits)
    os.replace(whole, arguments.out)
    record = {"peer": "finetune_torch", "seed": arguments.seed, "last_losses": loss, "training_seconds": trained}
    contract.answer(record | {"seconds": time.perf_counter() - start}, "torch", "transformers")


if __name__ == "__main__":
    main()
