"""Self-attention: one interface, several engines chosen by name.

An engine computes softmax(q·k/√H + mask)·v for q, k, v (B, T, N, H) and a boolean mask (B, 1, T or 1, S), true where a
query may look. What an engine cannot honour (dropout of the probabilities, handing them out, a device) it refuses by
name; it never ignores it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from bert_jax.errors import BertJaxError
from bert_jax.model.dropout import drop

# Finite, so that a row with nothing to look at stays finite too; far below any score, so that its share is exactly 0.
MASKED = -1e30


class Request(NamedTuple):
    """One call: arrays, and what is asked beside the plain product (`dropped`: a packed mask, see dropout.py)."""

    query: jax.Array
    key: jax.Array
    value: jax.Array
    mask: jax.Array
    dropped: jax.Array | None
    rate: float


class Engine(NamedTuple):
    """An engine and what it can honour."""

    attend: Callable[[Request], tuple[jax.Array, jax.Array | None]]
    dropout: bool
    probabilities: bool
    check: Callable[[Request], str | None] = lambda request: None


def attention_mask(input_mask: jax.Array, sequence_ids: jax.Array | None) -> jax.Array:
    """Who may look at whom: (B, 1, 1, S) at real tokens, or (B, 1, T, S) inside each packed sequence."""
    if sequence_ids is None:
        return input_mask[:, None, None, :].astype(bool)
    return (sequence_ids[:, :, None] == sequence_ids[:, None, :])[:, None]


def attend(name: str, request: Request, probabilities: bool = False) -> tuple[jax.Array, jax.Array | None]:
    """Run engine `name` → (context (B, T, N, H), probabilities (B, N, T, S) when asked for, else None).

    Errors: `BertJaxError` naming the engine and what it cannot honour.
    """
    name = choose(name, request.dropped is not None, probabilities)
    engine = ENGINES[name]
    if request.dropped is not None and not engine.dropout:
        raise BertJaxError(
            f"attention engine {name!r} cannot drop attention probabilities (attention_probs_dropout_prob "
            f"{request.rate}): set that to 0, or choose 'einsum'"
        )
    if probabilities and not engine.probabilities:
        raise BertJaxError(f"attention engine {name!r} does not hand out attention probabilities: choose 'einsum'")
    if trouble := engine.check(request):
        raise BertJaxError(f"attention engine {name!r} {trouble}")
    context, shares = engine.attend(request)
    return context, shares if probabilities else None


def choose(name: str, dropped: bool, probabilities: bool) -> str:
    """The engine that `name` stands for; 'auto' takes the reference wherever another could not do what is asked."""
    if name == "auto":
        return "einsum" if dropped or probabilities else AUTO
    if name not in ENGINES:
        raise BertJaxError(f"no attention engine {name!r}: known are auto, {', '.join(ENGINES)}")
    return name


def _einsum(request: Request) -> tuple[jax.Array, jax.Array | None]:
    """The reference: scores and softmax in float32."""
    scale = 1 / math.sqrt(request.query.shape[-1])
    scores = jnp.einsum("BTNH,BSNH->BNTS", request.query * scale, request.key, preferred_element_type=jnp.float32)
    shares = jax.nn.softmax(jnp.where(request.mask, scores, MASKED), axis=-1).astype(request.value.dtype)
    kept = drop(shares, request.dropped, request.rate, 1)
    return jnp.einsum("BNTS,BSNH->BTNH", kept, request.value), shares


def _matmul(request: Request) -> tuple[jax.Array, jax.Array | None]:
    """The reference with heads brought forward and keys turned before the products.

    XLA on a CPU turns them inside its own products otherwise, slower the longer the rows (forward only, measured with
    12 heads of 32: an eighth to a third of the attention at 16 rows × 32, two fifths at 4 × 128).
    """
    query = (request.query * (1 / math.sqrt(request.query.shape[-1]))).transpose(0, 2, 1, 3)
    scores = jnp.matmul(query, request.key.transpose(0, 2, 3, 1), preferred_element_type=jnp.float32)
    shares = jax.nn.softmax(jnp.where(request.mask, scores, MASKED), axis=-1).astype(request.value.dtype)
    kept = drop(shares, request.dropped, request.rate, 1)
    return jnp.matmul(kept, request.value.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3), shares


def _fused(implementation: Literal["xla", "cudnn"]) -> Callable[[Request], tuple[jax.Array, jax.Array | None]]:
    def attend(request: Request) -> tuple[jax.Array, jax.Array | None]:
        query, key, value = request.query, request.key, request.value
        mask = jnp.broadcast_to(request.mask, (query.shape[0], 1, query.shape[1], key.shape[1]))
        return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation=implementation), None

    return attend


def _check_cudnn(request: Request) -> str | None:
    if jax.default_backend() != "gpu":
        return f"needs an NVIDIA GPU, and this process runs on {jax.default_backend()}: choose 'auto'"
    if request.query.dtype not in (jnp.bfloat16, jnp.float16):
        return f"computes in bfloat16 or float16, and the compute dtype is {request.query.dtype}: choose 'auto'"
    return None


ENGINES: dict[str, Engine] = {
    "einsum": Engine(_einsum, dropout=True, probabilities=True),
    "matmul": Engine(_matmul, dropout=True, probabilities=True),
    "xla": Engine(_fused("xla"), dropout=False, probabilities=False),
    "cudnn": Engine(_fused("cudnn"), dropout=False, probabilities=False, check=_check_cudnn),
}
AUTO = "einsum"  # when nothing but the product is asked for
