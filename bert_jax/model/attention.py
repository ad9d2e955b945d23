"""Self-attention: one interface, several engines chosen by name.

An engine computes softmax(q·k/√H + mask)·v for q, k, v (B, T, N, H). Who may look at whom is given twice, and each
engine reads what suits it: as a boolean mask (B, 1, T or 1, S), true where a query may look, and as segment numbers
(B, T), equal where tokens see each other. They agree at real tokens; of padding nothing is promised, since nothing
reads it. What an engine cannot honour (dropout of the probabilities, handing them out, a device) it refuses by name; it
never ignores it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from bert_jax.errors import BertJaxError
from bert_jax.model import attention_pallas
from bert_jax.model.dropout import drop
from bert_jax.model.layout import Layout

# Finite, so that a row with nothing to look at stays finite too; far below any score, so that its share is exactly 0.
MASKED = -1e30


class Visible(NamedTuple):
    """Who may look at whom, in both forms."""

    mask: jax.Array
    """(B, 1, 1, S) at real tokens, or (B, 1, T, S) inside each packed sequence."""
    segments: jax.Array
    """int32 (B, T): the sequence that a token belongs to, 0 at padding."""


class Request(NamedTuple):
    """One call: arrays, and what is asked beside the plain product (`dropped`: a packed mask, see dropout.py)."""

    query: jax.Array
    key: jax.Array
    value: jax.Array
    visible: Visible
    dropped: jax.Array | None
    rate: float
    platform: str
    """Of the devices it is for: cpu, gpu or tpu."""


class Choice(NamedTuple):
    """The engine that a name stands for, and why."""

    engine: str
    reason: str


class Engine(NamedTuple):
    """An engine and what it can honour."""

    attend: Callable[[Request, Layout], tuple[jax.Array, jax.Array | None]]
    dropout: bool
    probabilities: bool
    check: Callable[[Request], str | None] = lambda request: None


def visible_from(input_mask: jax.Array, sequence_ids: jax.Array | None) -> Visible:
    """Who may look at whom: all real tokens of a row at each other, or those of one packed sequence."""
    if sequence_ids is None:
        return Visible(input_mask[:, None, None, :].astype(bool), input_mask.astype(jnp.int32))
    mask = (sequence_ids[:, :, None] == sequence_ids[:, None, :])[:, None]
    return Visible(mask, sequence_ids.astype(jnp.int32))


def attend(
    name: str, request: Request, probabilities: bool = False, layout: Layout | None = None
) -> tuple[jax.Array, jax.Array | None]:
    """Run engine `name` → (context (B, T, N, H), probabilities (B, N, T, S) when asked for, else None).

    Errors: `BertJaxError` naming the engine and what it cannot honour.
    """
    _, length, _, head_size = request.query.shape
    name = choose(name, request.platform, length, head_size, request.dropped is not None, probabilities).engine
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
    context, shares = engine.attend(request, layout or Layout())
    return context, shares if probabilities else None


def choose(name: str, platform: str, length: int, head_size: int, dropped: bool, probabilities: bool = False) -> Choice:
    """The engine that `name` stands for; 'auto' takes the reference wherever another could not do what is asked.

    On TPUs scores of T × T per head weigh as much as the query, key, value and result of 4 · T × H they are made from
    at T = 4 · H: from there on they are worth keeping out of the chip's memory. (XLA's count for a v5e, 16 heads of 64,
    4,096 tokens, forward and backward, `tests/tpu_attention.py 128 256 512`: einsum 417, 710 and 1,211 MB, splash 352
    MB at each.)
    Errors: `BertJaxError` for a name that is none.
    """
    if name != "auto":
        if name not in ENGINES:
            raise BertJaxError(f"no attention engine {name!r}: known are auto, {', '.join(ENGINES)}")
        return Choice(name, "as configured")
    if dropped:
        free = "; without it splash would keep the scores on the chip" if platform == "tpu" else ""
        return Choice("einsum", f"auto: attention dropout is on, which only the reference has{free}")
    if probabilities:
        return Choice("einsum", "auto: attention probabilities are asked for")
    if platform == "tpu" and length >= 4 * head_size:
        return Choice("splash", f"auto: rows of {length} tokens on a TPU, scores stay on the chip")
    why = f"scores of {length} tokens are small" if platform == "tpu" else f"the reference, on {platform}"
    return Choice("einsum", f"auto: {why}")


def _einsum(request: Request, layout: Layout) -> tuple[jax.Array, jax.Array | None]:
    """The reference: scores and softmax in float32."""
    scale = 1 / math.sqrt(request.query.shape[-1])
    scores = jnp.einsum("BTNH,BSNH->BNTS", request.query * scale, request.key, preferred_element_type=jnp.float32)
    shares = jax.nn.softmax(jnp.where(request.visible.mask, scores, MASKED), axis=-1).astype(request.value.dtype)
    kept = drop(shares, request.dropped, request.rate, 1)
    return jnp.einsum("BNTS,BSNH->BTNH", kept, request.value), shares


def _matmul(request: Request, layout: Layout) -> tuple[jax.Array, jax.Array | None]:
    """The reference with heads brought forward and keys turned before the products.

    XLA on a CPU turns them inside its own products otherwise, slower the longer the rows (forward only, measured with
    12 heads of 32: an eighth to a third of the attention at 16 rows × 32, two fifths at 4 × 128).
    """
    query = (request.query * (1 / math.sqrt(request.query.shape[-1]))).transpose(0, 2, 1, 3)
    scores = jnp.matmul(query, request.key.transpose(0, 2, 3, 1), preferred_element_type=jnp.float32)
    shares = jax.nn.softmax(jnp.where(request.visible.mask, scores, MASKED), axis=-1).astype(request.value.dtype)
    kept = drop(shares, request.dropped, request.rate, 1)
    return jnp.matmul(kept, request.value.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3), shares


def _fused(implementation: Literal["xla", "cudnn"]) -> Callable[..., tuple[jax.Array, jax.Array | None]]:
    def attend(request: Request, layout: Layout) -> tuple[jax.Array, jax.Array | None]:
        query, key, value = request.query, request.key, request.value
        mask = jnp.broadcast_to(request.visible.mask, (query.shape[0], 1, query.shape[1], key.shape[1]))
        return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation=implementation), None

    return attend


def _kernel(kernel: Callable[..., jax.Array]) -> Callable[..., tuple[jax.Array, jax.Array | None]]:
    """A Pallas kernel, run by each device on its own rows and heads: the partitioner cannot cut it."""

    def attend(request: Request, layout: Layout) -> tuple[jax.Array, jax.Array | None]:
        run = layout.by_device(kernel)
        return run(request.query, request.key, request.value, request.visible.segments), None

    return attend


def _check_tpu(request: Request) -> str | None:
    if request.platform != "tpu":
        return f"needs a TPU, and this program is for {request.platform}: choose 'auto'"
    head_size = request.query.shape[-1]
    if head_size > attention_pallas.LANES and head_size % attention_pallas.LANES:
        return f"cannot do heads of {head_size}: at most 128, or a multiple of it; choose 'einsum'"
    return None


def _check_cudnn(request: Request) -> str | None:
    if request.platform != "gpu":
        return f"needs an NVIDIA GPU, and this program is for {request.platform}: choose 'auto'"
    if request.query.dtype not in (jnp.bfloat16, jnp.float16):
        return f"computes in bfloat16 or float16, and the compute dtype is {request.query.dtype}: choose 'auto'"
    return None


KERNELS = ("flash", "splash")
"""Engines that only `Layout.by_device` can cut along a mesh."""
ENGINES: dict[str, Engine] = {
    "einsum": Engine(_einsum, dropout=True, probabilities=True),
    "matmul": Engine(_matmul, dropout=True, probabilities=True),
    "xla": Engine(_fused("xla"), dropout=False, probabilities=False),
    "cudnn": Engine(_fused("cudnn"), dropout=False, probabilities=False, check=_check_cudnn),
    "flash": Engine(_kernel(attention_pallas.flash), dropout=False, probabilities=False, check=_check_tpu),
    "splash": Engine(_kernel(attention_pallas.splash), dropout=False, probabilities=False, check=_check_tpu),
}
