"""Attention that never writes a (T, S) array to the accelerator's memory: jax's Pallas kernels for TPU.

Both work through blocks of scores in on-chip memory and look at segment numbers, so padding and packed rows cost one
comparison. Rows are lengthened to whole blocks of 128 with padding of a segment of its own, which nothing reads.

Sources: Dao et al. 2022, "FlashAttention"; `jax.experimental.pallas.ops.tpu`. Blocks are as large as the rows allow, up
to 512: the default of 128 leaves a quarter of a v5e's matrix unit idle between them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

LANES = 128
"""Rows are cut into blocks of a multiple of this: the width of a TPU's vector registers."""
LARGEST = 512
_MASKED = -1e30  # finite, so that differences of it are numbers


def block_of(length: int) -> int:
    """The largest block up to 512 that divides `length`, a multiple of 128."""
    return next(size for size in range(LARGEST, 0, -LANES) if length % size == 0)


def splash(query: jax.Array, key: jax.Array, value: jax.Array, segments: jax.Array) -> jax.Array:
    """softmax(q·k/√H)·v inside each segment: q, k, v (B, T, N, H), segments (B, T) → (B, T, N, H).

    One backward kernel computes the gradients of q, k and v together.
    """

    def attend(query: jax.Array, key: jax.Array, value: jax.Array, segments: jax.Array) -> jax.Array:
        from jax.experimental.pallas.ops.tpu.splash_attention import SegmentIds

        kernel = _splash_kernel(query.shape[1], query.shape[2])
        scaled = query * (1 / math.sqrt(query.shape[-1]))
        return jax.vmap(kernel)(scaled, key, value, SegmentIds(segments, segments))

    return _in_blocks(attend, query, key, value, segments)


def flash(query: jax.Array, key: jax.Array, value: jax.Array, segments: jax.Array) -> jax.Array:
    """As `splash`, by the older kernel, whose backward pass is two kernels."""

    def attend(query: jax.Array, key: jax.Array, value: jax.Array, segments: jax.Array) -> jax.Array:
        from jax.experimental.pallas.ops.tpu import flash_attention as library

        block = block_of(query.shape[2])
        names = ("q_major_dkv", "k_major_dkv", "k_dkv", "q_dkv", "q_dq")
        # The kernel for the gradient of q is handed one number per query as an array of T × its key block, in memory:
        # with a block of all T keys that is as much as the scores.
        backward = {f"block_{name}": block for name in names} | {"block_k_major_dq": LANES, "block_k_dq": LANES}
        sizes = library.BlockSizes(block_q=block, block_k_major=block, block_k=block, block_b=1, **backward)
        ids = library.SegmentIds(segments, segments)
        scale = 1 / math.sqrt(query.shape[-1])
        return library.flash_attention(query, key, value, segment_ids=ids, sm_scale=scale, block_sizes=sizes)

    return _in_blocks(attend, query, key, value, segments)


def _in_blocks(attend: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """`attend` on q, k, v as (B, N, T, H), T whole blocks; the added places are segment −1."""
    *heads, segments = arrays
    length = segments.shape[1]
    added = -length % LANES
    padded = [jnp.pad(array, ((0, 0), (0, added), (0, 0), (0, 0))).swapaxes(1, 2) for array in heads]
    segments = jnp.pad(segments.astype(jnp.int32), ((0, 0), (0, added)), constant_values=-1)
    return attend(*padded, segments).swapaxes(1, 2)[:, :length]


def _splash_kernel(heads: int, length: int) -> Any:
    """The kernel of rows of one shape: what every query may see is left to the segments."""
    from jax.experimental.pallas.ops.tpu import splash_attention as library

    block = block_of(length)
    sizes = library.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        use_fused_bwd_kernel=True,
    )
    mask = library.MultiHeadMask([library.FullMask((length, length))] * heads)
    make = functools.partial(library.make_splash_mha, head_shards=1, q_seq_shards=1, mask_value=_MASKED)
    return make(mask=mask, block_sizes=sizes)
