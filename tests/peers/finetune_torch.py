"""One seed of fine-tuning in torch: Hugging Face's BertForSequenceClassification on rows of tokens that it is given.

    python finetune_torch.py --rows rows.npz --model MODEL --classes 2 --seed 0 --out logits.npy

The published recipe: AdamW with decay off biases and LayerNorm, linear warm-up and decay, clipping, the model's own
dropout. Rows are shuffled each epoch and padded to the longest of their batch. Writes the dev logits (N, C) after the
last step and prints one line of JSON.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path

import contract
import numpy as np
import torch
from transformers import BertForSequenceClassification, get_linear_schedule_with_warmup, logging


class Rows:
    """One part of the file: rows of ids and segments, and a label or score each."""

    def __init__(self, arrays: dict[str, np.ndarray], name: str):
        ends = np.cumsum(arrays[f"{name}_lengths"])[:-1]
        self.ids, self.segments = (np.split(arrays[f"{name}_{what}"], ends) for what in ("ids", "segments"))
        self.targets = torch.from_numpy(arrays[f"{name}_targets"])
        self.targets = self.targets.float() if self.targets.is_floating_point() else self.targets.long()

    def batch(self, chosen: list[int]) -> dict[str, torch.Tensor]:
        """Some rows, padded to the longest of them."""
        shape = (len(chosen), max(len(self.ids[index]) for index in chosen))
        ids, mask, segments = (torch.zeros(shape, dtype=torch.long) for _ in range(3))
        for place, index in enumerate(chosen):
            used = len(self.ids[index])
            ids[place, :used] = torch.from_numpy(self.ids[index])
            segments[place, :used] = torch.from_numpy(self.segments[index])
            mask[place, :used] = 1
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}


def train(model: BertForSequenceClassification, rows: Rows, arguments: argparse.Namespace) -> float:
    """All epochs; the mean loss of the last tenth of the steps."""
    still, decaying = [], []
    for name, parameter in model.named_parameters():
        (still if name.endswith("bias") or "LayerNorm" in name else decaying).append(parameter)
    groups = [{"params": decaying, "weight_decay": arguments.weight_decay}, {"params": still, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=arguments.learning_rate, eps=arguments.eps)
    each = math.ceil(len(rows.ids) / arguments.batch)
    steps = max(1, round(arguments.epochs * each))
    schedule = get_linear_schedule_with_warmup(optimizer, math.floor(arguments.warmup * steps), steps)
    order: list[int] = []
    losses = []
    for _ in range(steps):
        order = order or torch.randperm(len(rows.ids)).tolist()
        chosen, order = order[: arguments.batch], order[arguments.batch :]
        loss = model(**rows.batch(chosen), labels=rows.targets[chosen]).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), arguments.clip_norm)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    last = losses[-max(1, steps // 10) :]
    return sum(last) / len(last)


@torch.inference_mode()
def logits_of(model: BertForSequenceClassification, rows: Rows, batch: int) -> np.ndarray:
    """The logits of all rows, in their order; those of like length together."""
    order = sorted(range(len(rows.ids)), key=lambda index: -len(rows.ids[index]))
    found = np.zeros((len(order), model.config.num_labels), np.float32)
    for first in range(0, len(order), batch):
        chosen = order[first : first + batch]
        found[chosen] = model(**rows.batch(chosen)).logits.numpy()
    return found


def main() -> None:
    """Train one seed and write what it says of dev."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--classes", type=int, required=True, help="1: a score, squared error")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    for name, default in (("epochs", 3.0), ("learning-rate", 2e-5), ("warmup", 0.1), ("weight-decay", 0.01)):
        parser.add_argument(f"--{name}", type=float, default=default)
    parser.add_argument("--eps", type=float, default=1e-6)
    parser.add_argument("--clip-norm", type=float, default=1.0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    logging.set_verbosity_error()  # that the head is new is no news
    start = time.perf_counter()
    arrays = dict(np.load(arguments.rows))
    model = BertForSequenceClassification.from_pretrained(
        arguments.model, num_labels=arguments.classes, dtype=torch.float32
    )
    loss = train(model.train(), Rows(arrays, "train"), arguments)
    logits = logits_of(model.eval(), Rows(arrays, "dev"), arguments.batch)
    whole = arguments.out.with_suffix(".part.npy")
    np.save(whole, logits)
    os.replace(whole, arguments.out)
    record = {"peer": "finetune_torch", "seed": arguments.seed, "last_losses": loss}
    contract.answer(record | {"seconds": time.perf_counter() - start}, "torch", "transformers")


if __name__ == "__main__":
    main()
