"""Sentence vectors by others: sentence-transformers, or plain Hugging Face torch, sorted by length in both.

    python embed_peer.py st --model MODEL --texts texts.txt
    python embed_peer.py torch --model MODEL --texts texts.txt

One text per line. A first pass is not counted; then `--repeats` passes over all texts and single requests.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import contract
import numpy as np
import torch

Embed = Callable[[list[str]], np.ndarray]
MAX_LENGTH = 256


def make_st(model: str, batch: int) -> Embed:
    """sentence-transformers' `encode`, which sorts by length itself."""
    from sentence_transformers import SentenceTransformer

    loaded = SentenceTransformer(model, device="cpu")
    loaded.max_seq_length = MAX_LENGTH
    return lambda texts: loaded.encode(texts, batch_size=batch, show_progress_bar=False)


def make_torch(model: str, batch: int) -> Embed:
    """transformers' model, mean pooling with the mask, normalised; texts sorted by length, longest first."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, loaded = AutoTokenizer.from_pretrained(model), AutoModel.from_pretrained(model).eval()

    def embed(texts: list[str]) -> np.ndarray:
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        found = np.zeros((len(texts), loaded.config.hidden_size), np.float32)
        for start in range(0, len(order), batch):
            part = order[start : start + batch]
            some = [texts[index] for index in part]
            encoded = tokenizer(some, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
            with torch.inference_mode():
                hidden = loaded(**encoded).last_hidden_state
            mask = encoded["attention_mask"][..., None].float()
            vectors = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
            found[part] = vectors.numpy()
        return found

    return embed


def main() -> None:
    """Time the passes and the requests and print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("st", "torch"))
    parser.add_argument("--model", required=True)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--batch", type=int, default=32, help="sentence-transformers' default")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    texts = arguments.texts.read_text(encoding="utf-8").splitlines()
    embed = {"st": make_st, "torch": make_torch}[arguments.kind](arguments.model, arguments.batch)

    def seconds(some: list[str]) -> float:
        start = time.perf_counter()
        embed(some)
        return time.perf_counter() - start

    first = seconds(texts)
    median = statistics.median(seconds(texts) for _ in range(arguments.repeats))
    asked = texts[:: max(1, len(texts) // arguments.requests)][: arguments.requests]
    for text in asked:
        embed([text])
    p50, p90, p99 = np.percentile([seconds([text]) for text in asked], (50, 90, 99)).tolist()
    record = {
        "peer": f"embed_{arguments.kind}",
        "sequences_per_second": len(texts) / median,
        "seconds_p50": p50,
        "seconds_p90": p90,
        "seconds_p99": p99,
        "compile_seconds": max(0.0, first - median),
        "texts": len(texts),
        "batch": arguments.batch,
        "dtype": "float32",
        "device_kind": "cpu",
        "devices": 1,
    }
    packages = ("torch", "transformers", *(("sentence-transformers",) if arguments.kind == "st" else ()))
    contract.answer(record, *packages)


if __name__ == "__main__":
    main()
