"""Model directories in Hugging Face's layout: `config.json`, weights, tokenizer; read and written.

Weights are read from `model.safetensors`, from several files with an index, or from `flax_model.msgpack`, the layout of
the Flax models that transformers v5 can no longer read. A pickle is never read.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from bert_jax.bert_config import BertConfig
from bert_jax.console import warn
from bert_jax.errors import BertJaxError
from bert_jax.files import atomic_writer, clear_errors, is_inside, read_json, write_json
from bert_jax.formats.adopt import Adopted, Report, Tensor, adopt
from bert_jax.formats.file_names import (
    CONFIG_FILE,
    FLAX_FILE,
    INDEX_FILE,
    KERAS_FILE,
    PICKLE_FILE,
    PICKLE_INDEX_FILE,
    WEIGHTS_FILE,
)
from bert_jax.formats.names import Layout, names, to_theirs
from bert_jax.formats.pooling import Pooling, write_pooling
from bert_jax.model.bert import init_parameters, make_model
from bert_jax.model.parameters import flatten, restore_flax_file
from bert_jax.text.interface import Tokenizer
from bert_jax.text.tokenizer_files import CONFIG_FILE as TOKENIZER_CONFIG
from bert_jax.text.tokenizer_files import read_config

# Classes of Hugging Face and our heads; of those that share a name for their head, which one is meant.
CLASSES: dict[str, tuple[str, ...]] = {
    "BertForPreTraining": ("masked_lm", "next_sentence"),
    "BertForMaskedLM": ("masked_lm",),
    "BertForNextSentencePrediction": ("next_sentence",),
    "BertForSequenceClassification": ("classification",),
    "BertForTokenClassification": ("tagging",),
    "BertForQuestionAnswering": ("question_answering",),
    "BertForMultipleChoice": ("multiple_choice",),
    "BertModel": (),
}
_WITHOUT_POOLER = ("BertForMaskedLM", "BertForTokenClassification", "BertForQuestionAnswering")


def is_model_directory(path: Path) -> bool:
    """Whether `config.json` there names a `model_type`."""
    config = path / CONFIG_FILE
    if not config.is_file():
        return False
    values = read_json(config)
    return isinstance(values, dict) and "model_type" in values


def read_model_directory(folder: Path) -> tuple[BertConfig, Adopted, tuple[str, ...] | None]:
    """The configuration, the weights (matched, not read yet) and the labels of a directory.

    Errors: `BertJaxError` when it has no weights, or when they do not fit the configuration.
    """
    config = BertConfig.from_json_file(folder / CONFIG_FILE, "huggingface")
    architectures = config.extra.get("architectures") or ["BertModel"]
    if not isinstance(architectures, list):
        raise BertJaxError(
            f"{folder / CONFIG_FILE}: architectures is {str(architectures)[:60]!r}: expected a list of names of classes"
        )
    name = str(architectures[0]).replace("Flax", "").removeprefix("TF")
    tensors, layout = _weights(folder, name)
    heads = CLASSES.get(name, ("classification",))
    adopted = adopt(tensors, layout, config, folder, (heads or ("classification",))[0])
    if "classification" in adopted.heads and not config.extra.get("architectures"):
        warn(f"{folder / CONFIG_FILE} names no architectures: the classifier is taken as one of whole texts")
    labelled = any(head in ("classification", "tagging") for head in adopted.heads)
    return config, adopted, _labels(config, adopted.classes, folder) if labelled else None


def _labels(config: BertConfig, classes: int, folder: Path) -> tuple[str, ...] | None:
    """Names of the classes, in order, of `id2label`."""
    named = config.extra.get("id2label")
    if named is None:
        return None
    labels = named if isinstance(named, Mapping) else {}
    if sorted(labels) != sorted(map(str, range(classes))):
        raise BertJaxError(
            f"{folder / CONFIG_FILE}: id2label is {str(named)[:60]}: expected a name for each of the {classes} classes "
            f"of the head, from '0' to '{classes - 1}'"
        )
    return tuple(str(labels[str(number)]) for number in range(classes))


def _weights(folder: Path, architecture: str) -> tuple[dict[str, Tensor], Layout]:
    if (folder / WEIGHTS_FILE).is_file():
        return _safetensors([folder / WEIGHTS_FILE]), "torch"
    if (folder / INDEX_FILE).is_file():
        files = _shards(folder / INDEX_FILE)
        with clear_errors("read", folder / INDEX_FILE):  # names that no system takes
            missing = [name for name in files if not (folder / name).is_file()]
        if missing:
            raise BertJaxError(f"{folder} lacks {', '.join(missing)}, which {INDEX_FILE} names: fetch them again")
        return _safetensors([folder / name for name in files]), "torch"
    if (folder / FLAX_FILE).is_file():
        return _flax(folder / FLAX_FILE), "flax"
    if (folder / PICKLE_FILE).is_file():
        raise BertJaxError(
            f"{folder / PICKLE_FILE} is a pickle, which may run anything when read: {pickle_remedy(folder)}"
        )
    if (folder / PICKLE_INDEX_FILE).is_file():
        parts = _shards(folder / PICKLE_INDEX_FILE)
        raise BertJaxError(
            f"{folder} holds {len(parts)} pickles ({parts[0]}, …), which may run anything when read: "
            f"{pickle_remedy(folder, parts)}"
        )
    if (folder / KERAS_FILE).is_file():
        raise BertJaxError(
            f"{folder / KERAS_FILE} is for the TensorFlow models of transformers 4, not read here: take a revision "
            f"with {WEIGHTS_FILE} (hf:ORG/NAME@refs/pr/NUMBER), or convert it where transformers 4, tensorflow and "
            f"torch are installed: {_keras_remedy(folder, architecture)}"
        )
    raise BertJaxError(f"{folder} has no weights: expected {WEIGHTS_FILE}, {INDEX_FILE} or {FLAX_FILE}")


def _shards(index: Path) -> list[str]:
    values = read_json(index)
    named = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(named, dict) or not named:
        raise BertJaxError(f"{index} has no weight_map (array → file): fetch it again")
    files = set(map(str, named.values()))
    outside = next((name for name in sorted(files) if not is_inside(name)), None)
    if outside is not None:
        raise BertJaxError(f"{index} names the file {outside!r}: expected names inside its directory")
    return sorted(files)


def _keras_remedy(folder: Path, architecture: str) -> str:
    known = architecture if architecture in CLASSES else "BertForPreTraining"
    code = (
        f"import sys; from transformers import {known} as B; "
        "B.from_pretrained(sys.argv[1], from_tf=True).save_pretrained(sys.argv[1], safe_serialization=True)"
    )
    return f"python -c '{code}' {shlex.quote(str(folder))}"


def pickle_remedy(folder: Path, parts: Sequence[str] = (PICKLE_FILE,)) -> str:
    """What to type where torch is installed, to turn a pickle one trusts, or its parts, into what is read here.

    Arrays that share memory, as a decoder tied to the word embeddings does, are cloned: safetensors takes them apart.
    """
    code = (
        "import sys, torch; from safetensors.torch import save_file; d = {}; "
        '[d.update(torch.load(p, map_location="cpu", weights_only=True)) for p in sys.argv[2:]]; '
        "save_file({k: v.clone().contiguous() for k, v in d.items() if torch.is_tensor(v)}, sys.argv[1], "
        '{"format": "pt"})'
    )
    paths = " ".join(shlex.quote(str(folder / name)) for name in (WEIGHTS_FILE, *parts))
    return (
        f"take a converted revision of the hub (hf:ORG/NAME@refs/pr/NUMBER) or, if you trust it, convert it with: "
        f"python -c '{code}' {paths}"
    )


def _safetensors(paths: Sequence[Path]) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    found: dict[str, Tensor] = {}
    for path in paths:
        try:
            file = safe_open(path, framework="np")
        except (SafetensorError, OSError) as error:
            raise BertJaxError(f"{path} cannot be read as safetensors ({error}): fetch it again") from error
        for name in file.keys():  # noqa: SIM118 - not a dict
            part = file.get_slice(name)
            kind = _DTYPES.get(part.get_dtype(), part.get_dtype().lower())

            def read(file: Any = file, name: str = name, path: Path = path, kind: str = kind) -> np.ndarray:
                try:
                    return cast(np.ndarray, file.get_tensor(name))
                except (SafetensorError, TypeError) as error:
                    raise BertJaxError(f"{path}: {name} ({kind}) cannot be read: {error}") from error

            found[name] = Tensor(tuple(part.get_shape()), kind, read)
    return found


_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


def _flax(path: Path) -> dict[str, Tensor]:
    leaves = {name: np.asarray(value) for name, value in flatten(restore_flax_file(path)).items()}
    return {
        name: Tensor(value.shape, str(value.dtype), lambda value=value: value)  # type: ignore[misc]
        for name, value in leaves.items()
    }


def write_model_directory(
    folder: Path,
    config: BertConfig,
    params: Mapping[str, Any],
    heads: Sequence[str],
    *,
    labels: Sequence[str] | None = None,
    pooling: Pooling | None = None,
) -> tuple[str, Report]:
    """Write `config.json` and `model.safetensors`; returns the class that reads them, and what became of each array.

    Of several heads that no class has at once the fine-tuned one is written, since it is what the model was made for.
    """
    name = class_of(heads)
    leaves = flatten(params)
    report = Report()
    for path in [path for path in leaves if path.split("/")[0] in set(heads) - set(CLASSES[name])]:
        report.ignored[path] = f"{name} has no such head"
        del leaves[path]
    if name in _WITHOUT_POOLER:
        for path in [path for path in leaves if path.startswith("pooler/")]:
            report.ignored[path] = f"{name} has no pooler"
            del leaves[path]
    elif "pooler" not in params:
        leaves |= _fresh_pooler(config)
        report.initialised = [path for path in leaves if path.startswith("pooler/")]
    table = names("torch", {path: tuple(leaf.shape) for path, leaf in leaves.items()})
    prefix = "bert." if name == "BertModel" else ""
    arrays = {table[path].theirs.removeprefix(prefix): to_theirs(leaf, table[path]) for path, leaf in leaves.items()}
    save_tensors(arrays, folder / WEIGHTS_FILE)
    report.taken = len(arrays) - len(report.initialised)
    values = config.to_dict("huggingface") | {"architectures": [name], "dtype": "float32", "tie_word_embeddings": True}
    values.pop("torch_dtype", None)
    classes = next((len(params[head]["bias"]) for head in ("classification", "tagging") if head in CLASSES[name]), None)
    if labels is None and classes is not None:
        labels = [f"LABEL_{index}" for index in range(classes)]
    if labels is not None:
        values["id2label"] = {str(index): label for index, label in enumerate(labels)}
        values["label2id"] = {label: index for index, label in enumerate(labels)}
    write_json(folder / CONFIG_FILE, values)
    if pooling is not None:
        write_pooling(folder, pooling, config.hidden_size)
    return name, report


def class_of(heads: Sequence[str]) -> str:
    """The class of Hugging Face that has these heads, or the fine-tuned one of them."""
    for name, theirs in CLASSES.items():
        if set(theirs) == set(heads):
            return name
    return next(name for name, theirs in reversed(CLASSES.items()) if theirs and set(theirs) <= set(heads))


def save_tokenizer(folder: Path, tokenizer: Tokenizer, longest: int) -> None:
    """The tokenizer's files, and `model_max_length`, without which Hugging Face's never truncates."""
    tokenizer.save(folder)
    write_json(folder / TOKENIZER_CONFIG, {**read_config(folder), "model_max_length": longest})


def save_tensors(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Write float32 arrays, or views of them, as a safetensors file. Errors: `BertJaxError` when it cannot be written.

    The same bytes as the library's, which takes all arrays at once and each contiguous: for a model whose kernels are
    transposed that is the model again, in memory. Here one is copied at a time.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in sorted(arrays):
        begin, end = end, end + 4 * arrays[name].size
        header[name] = {"dtype": "F32", "shape": list(arrays[name].shape), "data_offsets": [begin, end]}
    said = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    said += b" " * (-len(said) % 8)
    with atomic_writer(path) as file:
        file.write(len(said).to_bytes(8, "little") + said)
        for name in sorted(arrays):
            file.write(np.ascontiguousarray(arrays[name], "<f4").data)


def _fresh_pooler(config: BertConfig) -> dict[str, Any]:
    import jax

    fresh = init_parameters(make_model(config, heads=()), jax.random.key(0))
    return {path: leaf for path, leaf in flatten(fresh).items() if path.startswith("pooler/")}
