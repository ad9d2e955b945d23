"""Training steps compiled for a TPU that is not there: `python tpu_programs.py [--layers N] [--quick] [NAME …]`.

Prints JSON. By step: `accessed`, the bytes of device memory (HBM) that one step reads and writes, and `flops`, both as
XLA counts them (layers unrolled, or it would count one of them; `--quick`, or what a program holds on the chip would
count as well); `temporaries` in bytes; `kernels`, calls of Pallas kernels; `over_pairs`, arrays over pairs of tokens
that lie in device memory. Each step is that of `plan`, for one v5e chip, with all layers unless `--layers` cuts them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import sys
from typing import Any, NamedTuple

from bert_jax.bert_config import BertConfig
from bert_jax.config import Config, Train
from bert_jax.scale.plan_compile import ENVIRONMENT, kernel_calls, lowered_step
from bert_jax.scale.topologies import parse_topology

TOPOLOGY, VOCABULARY = "v5e:1x1", 30522


class Step(NamedTuple):
    """A preset, its attention dropout, and settings of `train`."""

    preset: str
    attention_dropout: float
    train: dict[str, Any]


_ROWS_OF_512 = {"length": 512, "predictions": 77, "batch": 8, "dropout": "fast"}
STEPS = {
    "base_128": Step("base", 0.1, {"length": 128, "predictions": 20, "batch": 64}),
    "base_512_packed": Step("base", 0.0, _ROWS_OF_512 | {"packing": 4}),
    "large_512": Step("large", 0.0, _ROWS_OF_512),
    "large_512_packed": Step("large", 0.0, _ROWS_OF_512 | {"packing": 4}),
}


def configuration(name: str, layers: int | None = None) -> Config:
    """Of a step, with all layers or so many."""
    step = STEPS[name]
    model = BertConfig.preset(step.preset, attention_probs_dropout_prob=step.attention_dropout)
    model = dataclasses.replace(model, vocab_size=VOCABULARY, num_hidden_layers=layers or model.num_hidden_layers)
    return Config(model=model, train=Train(**{"steps": 1000, "scan_layers": False} | step.train))


def figures(name: str, layers: int | None, quick: bool) -> dict[str, float]:
    """Of one step. Loads libtpu."""
    from bert_jax import compat

    config = configuration(name, layers)
    lowered = lowered_step(parse_topology(TOPOLOGY), config, VOCABULARY, 0, config.train.batch, {})[1]
    compiled = compat.compile_program(lowered, quick)
    text = compiled.as_text()
    return {
        "accessed": compat.cost_bytes(compiled) or 0.0,
        "flops": compat.cost_flops(compiled) or 0.0,
        "temporaries": compat.memory_figures(compiled)["temporaries"],
        "kernels": kernel_calls(text),
        "over_pairs": arrays_over_pairs(text, config.train.length),
    }


_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_FUSED = re.compile(r" fusion\(.*\bcalls=%?([\w.\-]+)")
_RESULT = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.*?) [\w\-]+\(")
_ARRAY = re.compile(r"\w+\[([\d,]+)\](\{[^}]*\})?")


def arrays_over_pairs(text: str, length: int) -> int:
    """How many arrays with two dimensions of `length` a compiled TPU program makes in device memory.

    What lies inside a fusion is never there, nor what the program keeps in the chip's own memory (layout `S(1)`).
    """
    fused = set(_FUSED.findall(text))
    inside, found = False, 0
    for line in text.splitlines():
        if opened := _COMPUTATION.match(line):
            inside = opened[1] in fused
        elif not inside and (result := _RESULT.match(line)):
            found += sum(
                dimensions.split(",").count(str(length)) >= 2 and "S(1)" not in layout
                for dimensions, layout in _ARRAY.findall(result[1])
            )
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(STEPS)} (default: all)")
    parser.add_argument("--layers", type=int, help="so many instead of the preset's")
    parser.add_argument("--quick", action="store_true", help="with the compiler's least effort")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in STEPS]:
        parser.error(f"no step {', '.join(unknown)}: expected some of {', '.join(STEPS)}")
    for name in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR"):
        os.environ.pop(name, None)
    os.environ.update(ENVIRONMENT)  # before jax is imported
    found = {}
    for name in given.names or STEPS:
        print(f"compiling {name}", file=sys.stderr, flush=True)
        found[name] = figures(name, given.layers, given.quick)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
