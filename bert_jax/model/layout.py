"""Where a sharded run tells the model how its arrays lie over the devices; by default nothing is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Layout(NamedTuple):
    """Functions that return their argument, laid out. The model calls them where the layout would else be guessed."""

    parameters: Callable[[str, Any], Any] = lambda path, params: params
    """(path of a module, its parameters) → the parameters as the module uses them: parts that lie on other devices
    are gathered here, right before use, and their gradients cut again."""
    rows: Callable[[jax.Array], jax.Array] = lambda x: x
    """An array whose first axis is the batch."""
    platform: str | None = None
    """Of the devices (cpu, gpu or tpu), which decides between attention engines (None: of this process's)."""
    by_device: Callable[[Callable[..., jax.Array]], Callable[..., jax.Array]] = lambda attend: attend
    """A function of q, k, v (B, T, N, H) and segments (B, T), made to be run by each device on its rows and heads."""
    drawn: Callable[[Callable[[jax.Array, int], jax.Array], jax.Array, int], jax.Array] = lambda draw, key, rows: draw(
        key, rows
    )
    """`draw(words of a key, rows)` → (rows, …), for a whole batch: each device draws its own rows, with its own key."""
    table: Callable[[jax.Array], jax.Array] = lambda table: table
    """The word table (padded V, D) as the masked language model head reads it."""
