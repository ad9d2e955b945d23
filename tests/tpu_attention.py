"""What attention engines read and write on a TPU that is not there: `python tpu_attention.py LENGTH …` prints JSON.

4,096 tokens, 16 heads of 64, bfloat16, forward and backward pass, compiled by libtpu for one v5e chip: by length and
engine the bytes that the compiler counts (`accessed`), its temporaries (`temporaries`), and how many arrays over pairs
of tokens lie in device memory (`over_pairs`).
"""

from __future__ import annotations

import json
import os
import sys

from tpu_programs import arrays_over_pairs

from bert_jax.scale.plan_compile import ENVIRONMENT

TOKENS, HEADS, HEAD_SIZE = 4096, 16, 64


def figures(engine: str, length: int) -> dict[str, float]:
    """Of one engine at one length."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import SingleDeviceSharding

    from bert_jax import compat
    from bert_jax.model.attention import Request, attend, visible_from

    device = compat.topology_devices("v5e:2x2", (2, 2), "v5e")[0]
    shape = (TOKENS // length, length)

    def abstract(shape: tuple[int, ...], dtype: object) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=SingleDeviceSharding(device))

    def loss(query: jax.Array, key: jax.Array, value: jax.Array, ids: jax.Array) -> jax.Array:
        visible = visible_from(ids > 0, ids)  # packed rows: each token sees its own sequence
        context, _ = attend(engine, Request(query, key, value, visible, None, 0.0, "tpu"))
        return jnp.sum(context.astype(jnp.float32))

    heads = abstract((*shape, HEADS, HEAD_SIZE), jnp.bfloat16)
    lowered = jax.jit(jax.value_and_grad(loss, (0, 1, 2))).lower(heads, heads, heads, abstract(shape, jnp.int32))
    compiled = compat.compile_program(lowered)
    return {
        "accessed": compat.cost_bytes(compiled) or 0.0,
        "temporaries": compat.memory_figures(compiled)["temporaries"],
        "over_pairs": arrays_over_pairs(compiled.as_text(), length),
    }


if __name__ == "__main__":
    os.environ.update(ENVIRONMENT)  # before jax is imported
    engines = ("einsum", "flash", "splash")
    print(json.dumps({length: {name: figures(name, int(length)) for name in engines} for length in sys.argv[1:]}))
