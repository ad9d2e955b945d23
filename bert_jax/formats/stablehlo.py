"""A model as a StableHLO program that runs without this package.

The directory holds `model.stablehlo` (what `jax.export` serialises: any batch size and any length up to the position
table, for CPU, CUDA and TPU), `model.safetensors` (the parameters, its first argument) and `signature.json`:

    import jax
    from jax import export
    from safetensors.numpy import load_file

    program = export.deserialize(bytearray(Path("OUT/model.stablehlo").read_bytes()))
    batch = {"input_ids": ids, "input_mask": mask, "segment_ids": segments}  # int32 (B, T), see signature.json
    outputs = jax.jit(program.call)(load_file("OUT/model.safetensors"), batch)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from bert_jax.bert_config import BertConfig
from bert_jax.files import atomic_writer, write_json
from bert_jax.formats.hugging_face import save_tensors
from bert_jax.model.bert import apply, make_model
from bert_jax.model.parameters import flatten, unflatten

PLATFORMS = ("cpu", "cuda", "tpu")
INPUTS = ("input_ids", "input_mask", "segment_ids")


def write_stablehlo(
    folder: Path, config: BertConfig, params: Mapping[str, Any], heads: Sequence[str], classes: int = 2
) -> dict[str, Any]:
    """Write the three files; returns the signature: inputs, outputs and platforms as JSON values."""
    model = make_model(config, heads=heads, classes=classes, pooler="pooler" in params)
    leaves = {path: np.asarray(leaf, np.float32) for path, leaf in flatten(params).items()}

    def program(leaves: dict[str, jax.Array], batch: dict[str, jax.Array]) -> dict[str, Any]:
        return apply(model, unflatten(leaves), batch)

    longest = config.max_position_embeddings
    shape = export.symbolic_shape("batch, length", constraints=["batch >= 1", "length >= 1", f"length <= {longest}"])
    batch = {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name in INPUTS}
    if "relation" in heads:
        batch["entity_positions"] = jax.ShapeDtypeStruct((shape[0], 2), jnp.int32)
    abstract = {path: jax.ShapeDtypeStruct(leaf.shape, jnp.float32) for path, leaf in leaves.items()}
    exported = export.export(jax.jit(program), platforms=PLATFORMS)(abstract, batch)
    with atomic_writer(folder / "model.stablehlo") as file:
        file.write(exported.serialize())
    save_tensors(leaves, folder / "model.safetensors")
    outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    signature = {
        "platforms": list(exported.platforms),
        "inputs": {
            name: {"shape": [size if isinstance(size, int) else str(size) for size in array.shape], "dtype": "int32"}
            for name, array in batch.items()
        },
        "longest": longest,
        "outputs": {
            name: {"shape": [size if isinstance(size, int) else str(size) for size in value.shape], "dtype": "float32"}
            for name, value in outputs.items()
        },
    }
    write_json(folder / "signature.json", signature)
    return signature
