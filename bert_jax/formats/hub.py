"""`hf:ORG/NAME[@revision]`: models of the Hugging Face hub, through `huggingface_hub` (extra `hub`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bert_jax.errors import BertJaxError
from bert_jax.formats import pooling
from bert_jax.formats.file_names import CONFIG_FILE, FLAX_FILE, INDEX_FILE, SHARDS, WEIGHTS_FILE
from bert_jax.text import tokenizer

PREFIX = "hf:"
_REASON_CHARACTERS = 160

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


def _anywhere(*names: str) -> tuple[str, ...]:
    """Patterns of the hub for files at the root, whose names are exact there so that other folders (onnx/, …) stay
    where they are, and in the folder of a module of sentence-transformers (0_Transformer/)."""
    return (*names, *(f"[0-9]_*/{name}" for name in names))


# What is fetched: whatever the readers of a directory look for, by their own names of it.
_SMALL = _anywhere(CONFIG_FILE, *pooling.FILES, pooling.MODULE_CONFIG_FILE, *tokenizer.FILES)
_SAFETENSORS = _anywhere(WEIGHTS_FILE, INDEX_FILE, SHARDS)
_FLAX = _anywhere(FLAX_FILE)


def parse(spec: str) -> tuple[str, str | None]:
    """`hf:ORG/NAME[@revision]` → ORG/NAME and the revision. Errors: `BertJaxError` when it is spelt otherwise."""
    repository, at, revision = spec.removeprefix(PREFIX).partition("@")
    parts = repository.split("/")
    if len(parts) != 2 or not all(parts) or (at and not revision):
        raise BertJaxError(f"{spec} is no model of the hub: expected {PREFIX}ORG/NAME[@revision]{hint(repository)}")
    return repository, revision or None


def fetch(spec: str) -> tuple[Path, dict[str, Any]]:
    """The local directory of `hf:ORG/NAME[@revision]`, fetched where it is not there yet, and where it came from.

    Only configuration, tokenizer and weights (safetensors, else Flax's msgpack; never a pickle) are fetched, into the
    hub's own cache, with its own token. A connection that breaks is taken up where it broke, files that are whole are
    not fetched again, and without a network the cache is used. Errors: `BertJaxError` in one line for whatever is
    missing, closed or out of reach.
    """
    repository, revision = parse(spec)
    folder = _snapshot(spec, repository, revision, (*_SMALL, *_SAFETENSORS))
    if not any((folder / name).is_file() for name in (CONFIG_FILE, pooling.MODULES_FILE)):
        raise BertJaxError(f"{spec} has no config.json: only models in Hugging Face's layout are read from the hub")
    if not any(folder.rglob("*.safetensors")):
        folder = _snapshot(spec, repository, revision, (*_SMALL, *_SAFETENSORS, *_FLAX))
        if not any(folder.rglob(FLAX_FILE)):
            raise BertJaxError(
                f"{spec} has neither safetensors nor {FLAX_FILE}, and a pickle is never fetched: look among its pull "
                f"requests for a converted revision ({PREFIX}{repository}@refs/pr/NUMBER), or download it yourself and "
                "give the directory: the way to convert it is printed then"
            )
    return folder, {"repository": repository, "revision": revision or "main", "commit": folder.name}


def _snapshot(spec: str, repository: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    try:
        import huggingface_hub
        from huggingface_hub import constants, errors
    except ImportError as error:
        raise BertJaxError(f"{spec} needs huggingface_hub: pip install 'bert-jax[hub]'") from error
    # A gated repository is one that is not found to their classes: the more special comes first.
    known: tuple[tuple[type[Exception], str], ...] = (
        (errors.HFValidationError, f"is no model of the hub: expected {PREFIX}ORG/NAME[@revision]"),
        (errors.GatedRepoError, "is gated: ask for access on its page, then log in with: hf auth login"),
        (
            errors.RepositoryNotFoundError,
            "is not on the hub, or private: check the name, or log in with: hf auth login",
        ),
        (errors.RevisionNotFoundError, f"has no revision {revision!r}: expected a branch, a tag or a commit of it"),
    )
    try:
        return Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))
    except errors.LocalEntryNotFoundError as error:
        cache = constants.HF_HUB_CACHE
        raise BertJaxError(
            f"{spec} is not whole in the cache {cache}, and the hub is out of reach ({_reason(error)}): connect to it "
            "once, or copy the cache of a machine that has it"
        ) from error
    except Exception as error:  # the classes of network errors differ between versions of the library
        for kind, message in known:
            if isinstance(error, kind):
                raise BertJaxError(f"{spec} {message}") from error
        raise BertJaxError(
            f"{spec} could not be fetched ({_reason(error)}): start again: files that are whole are kept"
        ) from error


def _reason(error: BaseException) -> str:
    """The beginning of what lies at the bottom of `error`, with its class."""
    while error.__cause__ is not None:
        error = error.__cause__
    if type(error).__name__ == "OfflineModeIsEnabled":
        return "HF_HUB_OFFLINE is set"
    text = " ".join(str(error).split())[:_REASON_CHARACTERS]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
