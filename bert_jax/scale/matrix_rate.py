"""How fast a device multiplies matrices: the most that a training step can reach where no peak is published."""

from __future__ import annotations

import statistics
import time

import jax
import jax.numpy as jnp

_SIZE = 2048
_REPEATS = 5


def matrix_rate(device: jax.Device, dtype: str = "float32", size: int = _SIZE) -> float:
    """FLOP/s of `size` × `size` matrices multiplied on one device (a CPU device has all cores): the median of several.

    A multiplication counts 2·size³ FLOPs.
    """
    multiply = jax.jit(lambda a, b: a @ b)
    matrix = jax.device_put(jnp.full((size, size), 1 / size, dtype), device)
    multiply(matrix, matrix).block_until_ready()
    seconds = []
    for _ in range(_REPEATS):
        begun = time.perf_counter()
        multiply(matrix, matrix).block_until_ready()
        seconds.append(time.perf_counter() - begun)
    return 2 * size**3 / statistics.median(seconds)
