"""One self-contained page that shows attention: no network, no fonts or scripts from elsewhere, works from a file.

The page's own parts lie in `attention_assets/`. What it shows is embedded as numbers in base64: weights as unsigned
integers of 1/65535 (1/255 where there are very many), vectors as 16-bit integers with one float32 scale per vector,
which is finer than half precision. What was rounded, or left out because of its size, the page says itself.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bert_jax.errors import BertJaxError
from bert_jax.files import atomic_writer
from bert_jax.infer.attention import Attention, TextOrPair, attentions
from bert_jax.infer.attention_walk import Vectors

if TYPE_CHECKING:
    from bert_jax.infer.loaded import Bert

SCRIPTS = ("state.js", "lines.js", "heat.js", "panel.js", "main.js")
VECTOR_BYTES = 16 << 20
"""Most bytes of vectors in one page, before base64; the inputs after that have none."""
FINE_WEIGHT_BYTES = 24 << 20
"""Weights that would be larger than this at two bytes each are kept at one."""


def write_page(
    bert: Bert,
    inputs: Iterable[TextOrPair],
    path: Path,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    truncate: bool = False,
) -> None:
    """Write the page of all `inputs` to `path`, whole or not at all, one input in memory at a time.

    Errors: `BertJaxError` as `attentions`, for no input at all, and for a file that cannot be written.
    """
    with atomic_writer(path, "w") as file:
        answers = attentions(bert, inputs, layers, heads, vectors=True, truncate=truncate)
        for part in page_parts("/".join(bert.source.path.parts[-2:]), answers):
            file.write(part)


def page_parts(model: str, answers: Iterable[Attention]) -> Iterator[str]:
    """The page's text in order; `model` is its name. Errors: `BertJaxError` without answers."""
    before, after = asset("page.html").split("<!-- inputs -->")
    script = "\n".join(asset(name) for name in SCRIPTS)
    yield before.replace("/* style */", asset("page.css"))
    left = VECTOR_BYTES
    names: list[str] = []
    for answer in answers:
        vectors = answer.vectors
        if vectors is not None and _size(vectors) > left:
            vectors = None
        left -= 0 if vectors is None else _size(vectors)
        names.append(" | ".join([answer.source] if isinstance(answer.source, str) else answer.source)[:60])
        yield data_block(packed(answer, vectors), "input")
    if not names:
        raise BertJaxError("no input: give a text, --input FILE.jsonl, or lines on stdin")
    yield data_block({"model": model, "inputs": names}, "facts")
    yield after.replace("/* script */", f"(() => {{\n'use strict';\n{script}\n}})();")


def asset(name: str) -> str:
    """The text of one file of the page."""
    return (resources.files("bert_jax.infer") / "attention_assets" / name).read_text("utf-8")


def data_block(value: Any, kind: str) -> str:
    """A script element holding `value` as JSON in which nothing can end the element, whatever was typed."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text = text.encode("utf-8", "replace").decode("utf-8")  # half of a surrogate pair is no character
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" class="{kind}">{text}</script>\n'


def packed(answer: Attention, vectors: Vectors | None) -> dict[str, Any]:
    """One input as JSON values for the page; arrays as base64 of little-endian numbers."""
    bits = 16 if 2 * answer.weights.size <= FINE_WEIGHT_BYTES else 8
    found = answer.facts() | {"bits": bits, "weights": _base64(quantised_weights(answer.weights, bits))}
    if vectors is None:
        return found
    found["width"] = vectors.query.shape[-1]
    for name in ("query", "key", "value"):
        numbers, scales = quantised_vectors(getattr(vectors, name))
        found[name] = {"numbers": _base64(numbers), "scales": _base64(scales)}
    found["hiddenWidth"] = vectors.hidden.shape[-1]
    found["outputLengths"] = _base64(vectors.output_lengths(answer.weights).astype("<f4"))
    found["hiddenLengths"] = _base64(np.linalg.norm(vectors.hidden, axis=-1).astype("<f4"))
    return found


def quantised_weights(weights: np.ndarray, bits: int) -> np.ndarray:
    """Weights 0 … 1 as unsigned integers of 8 or 16 bits; the largest integer stands for 1."""
    return np.round(np.nan_to_num(weights) * (2**bits - 1)).astype("<u2" if bits == 16 else "u1")


def quantised_vectors(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (…, H) as int16 of the same shape and float32 scales (…): vector ≈ integers × scale."""
    vectors = np.nan_to_num(vectors, posinf=0, neginf=0)  # of a model that diverged
    scales = np.abs(vectors).max(axis=-1).astype("<f4") / np.float32(32767)
    safe = np.where(scales > 0, scales, 1)
    return np.round(vectors / safe[..., None]).astype("<i2"), scales


def _size(vectors: Vectors) -> int:
    return 3 * 2 * vectors.query.size


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
