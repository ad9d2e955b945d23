"""`hf:ORG/NAME[@revision]`: models of the Hugging Face hub, through `huggingface_hub` (extra `hub`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bert_jax.errors import BertJaxError

PREFIX = "hf:"

# Names from the time before organisations, as they are still typed, and where each lives today.
_ORGANISATIONS = (
    ("bert-", "google-bert"),
    ("all-minilm", "sentence-transformers"),
    ("all-mpnet", "sentence-transformers"),
    ("paraphrase-", "sentence-transformers"),
    ("chinese-", "hfl"),
)


def hint(path: str) -> str:
    """How a name that is no path is spelt on the hub, to end an error with."""
    parts = path.split("/")
    if path.startswith((".", "/", "~")) or len(parts) > 2 or not all(parts):
        return ""
    if len(parts) == 2:
        return f"; on the Hugging Face hub it would be {PREFIX}{path}"
    for prefix, organisation in _ORGANISATIONS:
        if path.lower().startswith(prefix):
            return f"; on the Hugging Face hub it would be {PREFIX}{organisation}/{path}"
    return f"; on the Hugging Face hub it would be {PREFIX}ORG/{path}"


def fetch(spec: str) -> tuple[Path, dict[str, Any]]:
    """The local directory of `hf:ORG/NAME[@revision]`, fetched where it is not there yet, and where it came from."""
    raise BertJaxError(f"{spec}: the hub is not read by this version of bert_jax")
