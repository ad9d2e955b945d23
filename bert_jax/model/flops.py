"""How much arithmetic the model asks for: an analytic count of multiply-adds, two operations each.

XLA's own count takes the body of a scan once and includes what is recomputed or padded, so utilisation is measured
against this formula instead: real tokens only, attention at each example's own length, heads where they are applied.
Training is three times the forward pass (the backward pass multiplies once for the inputs and once for the weights).
Element-wise work (LayerNorm, softmax, GELU, dropout, the optimizer) is not counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bert_jax.bert_config import BertConfig

# Dense bfloat16 operations per second of one device as jax counts them; substring of `device_kind` → rate.
# Sources: cloud.google.com/tpu/docs (v2 to 7x, per chip; v2, v3, 7x show each of two cores), NVIDIA's datasheets.
_PEAKS: tuple[tuple[str, float], ...] = (
    ("TPU7x", 1153.5e12),
    ("TPU v6 lite", 918e12),
    ("TPU v6e", 918e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5e", 197e12),
    ("TPU v5p", 459e12),
    ("TPU v5", 459e12),
    ("TPU v4", 275e12),
    ("TPU v3", 61.5e12),
    ("TPU v2", 22.5e12),
    ("B200", 2250e12),
    ("H200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("A10G", 70e12),
    ("L40S", 362e12),
    ("L40", 181e12),
    ("L4", 121e12),
)


def forward_flops(config: BertConfig, sums: Mapping[str, Any]) -> Any:
    """Operations of the forward pass over the examples whose sums are given (numbers or arrays, as they come).

    `sums`: `real_tokens`, `real_tokens_squared` (Σ length², tokens each example attends over), `mlm_count`
    (predictions), `sequences` and, if it differs, `nsp_count` (pooled vectors).
    """
    d, f, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    per_token = layers * (4 * d * d + 2 * d * f)  # query, key, value, output; in and out of the feed-forward layer
    per_token_pair = layers * 2 * d  # scores, and the weighted sum of values
    per_prediction = d * d + d * config.known_vocab_size
    per_pooled = d * d + 2 * d
    return 2.0 * (
        per_token * sums["real_tokens"]
        + per_token_pair * sums["real_tokens_squared"]
        + per_prediction * sums["mlm_count"]
        + per_pooled * sums.get("nsp_count", sums["sequences"])
    )


def training_flops(config: BertConfig, sums: Mapping[str, Any]) -> Any:
    """Operations of forward and backward pass over the examples whose sums are given, see `forward_flops`."""
    return 3.0 * forward_flops(config, sums)


def flops_per_example(
    config: BertConfig, length: Any, predictions: Any, heads: Sequence[str] = ("masked_lm", "next_sentence")
) -> Any:
    """Operations of the forward pass for one example (× 3 for training), numbers or arrays that broadcast.

    length: real tokens. predictions: masked positions that the head runs on. The pooler is counted with the
    `next_sentence` head, which is all it serves in pre-training.
    """
    sums = {
        "real_tokens": length,
        "real_tokens_squared": length * length,
        "mlm_count": predictions if "masked_lm" in heads else 0,
        "sequences": 1 if "next_sentence" in heads else 0,
    }
    return forward_flops(config, sums)


def peak_flops(device_kind: str, devices: int = 1) -> float | None:
    """Dense bfloat16 peak of `devices` devices in operations per second; None where it is not known (CPUs)."""
    for name, rate in _PEAKS:
        if name.lower() in device_kind.lower():
            return rate * devices
    return None
