"""Documents from TensorFlow Datasets: `tfds:name[/config]:split[:field]`, one unit per shard of the split.

The sets lie where TFDS keeps them: `TFDS_DATA_DIR`, else `~/tensorflow_datasets`. One that is not there is downloaded
and prepared by TFDS, where that can be done.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import warnings
from collections.abc import Iterator
from typing import Any

from bert_jax.console import log
from bert_jax.data.documents import Document, record_document
from bert_jax.data.streams import EncodingErrors, Unit
from bert_jax.errors import BertJaxError

_SPEC = re.compile(r"tfds:([^:\[\]]+):((?:[^:\[\]]+(?:\[[^\]]*\])?)+)(?::([^:\[\]/]+))?")
_FORM = "tfds:NAME[/CONFIG]:SPLIT[:FIELD]"


def tfds_units(spec: str, encoding_errors: EncodingErrors) -> list[Unit]:
    """One unit for each shard (or the part of a shard) that the split holds; `start` and `end` count its examples.

    Errors: a name not of the form above, no such set, split or field, a set that cannot be fetched.
    """
    match = _SPEC.fullmatch(spec)
    if not match:
        raise BertJaxError(f"source {spec}: expected {_FORM}, for instance tfds:wikipedia/20230601.en:train:text")
    name, split, field = match.groups()
    data_dir = os.environ.get("TFDS_DATA_DIR")
    with _quiet():
        builder = _builder(name, data_dir, spec)
        splits = builder.info.splits
        try:
            parts = splits[split].file_instructions
        except Exception as error:  # TFDS raises KeyError, ValueError and AssertionError of its own
            raise BertJaxError(f"source {spec}: no split {split!r}; it has {', '.join(splits)}") from error
        field = field or _text_field(builder, spec)
        _features(builder, field, spec)
        places = _shard_places(splits)
        units = []
        for part in parts:
            base, first = places[os.fspath(part.filename)]
            start = first + part.skip
            size = _size(part.filename) * part.take // max(part.examples_in_shard, 1)
            units.append(
                Unit(
                    "tfds",
                    os.fspath(part.filename),
                    start,
                    start + part.take,
                    size,
                    field=field,
                    encoding_errors=encoding_errors,
                    label=f"tfds:{name}:{base}",
                    dataset=(name, base, data_dir),
                )
            )
        return units


def tfds_documents(unit: Unit) -> Iterator[Document]:
    """The documents of examples [start, end) of a split, in the order TFDS wrote them."""
    assert unit.dataset is not None
    name, split, data_dir = unit.dataset
    row = unit.start

    def place() -> str:
        return f"{unit.name}, example {row}"

    with _quiet():
        tfds = _tfds()
        builder = _builder(name, data_dir, unit.name)
        dataset = builder.as_dataset(
            split=tfds.core.ReadInstruction(split, from_=unit.start, to=unit.end, unit="abs"),
            decoders=tfds.decode.PartialDecoding(_features(builder, unit.field or "text", unit.name)),
            shuffle_files=False,
            read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
        )
        examples = iter(tfds.as_numpy(dataset))
    while True:
        with _quiet():
            example = next(examples, None)
        if example is None:
            return
        document = record_document(_plain(example), unit, place)
        if document:
            yield document
        row += 1


_ROWS = re.compile(r"tfds:([^:\[\]]+):((?:[^:\[\]]+(?:\[[^\]]*\])?)+)")


def tfds_rows(spec: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, features by name) of each example of `tfds:name[/config]:split`, in the order TFDS wrote them.

    Texts are strings, a class is its name (None where TFDS has −1: not told), everything else plain Python values;
    features that are neither texts nor numbers, such as pictures, are left out.
    Errors: a name not of that form, no such set or split, a set that cannot be fetched, a text that is not UTF-8.
    """
    match = _ROWS.fullmatch(spec)
    if not match:
        raise BertJaxError(f"source {spec}: expected tfds:NAME[/CONFIG]:SPLIT, for instance tfds:glue/sst2:train")
    name, split = match.groups()
    with _quiet():
        tfds = _tfds()
        builder = _builder(name, os.environ.get("TFDS_DATA_DIR"), spec)
        features = builder.info.features
        kept = {key: True for key, feature in features.items() if _is_plain(feature)}
        try:
            dataset = builder.as_dataset(
                split=split,
                decoders=tfds.decode.PartialDecoding(kept),
                shuffle_files=False,
                read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
            )
        except Exception as error:  # TFDS raises KeyError, ValueError and AssertionError of its own
            raise BertJaxError(f"source {spec}: no split {split!r}; it has {', '.join(builder.info.splits)}") from error
        classes = {key: feature for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)}
        examples = iter(tfds.as_numpy(dataset))
    for number in itertools.count():
        with _quiet():
            example = next(examples, None)
        if example is None:
            return
        row = {key: _decoded(_plain(value), f"{spec}, example {number}") for key, value in example.items()}
        for key, feature in classes.items():
            row[key] = None if row[key] < 0 else feature.int2str(row[key])
        yield number, row


def _is_plain(feature: Any) -> bool:
    """Whether a feature is a text, a number, a class, or a list."""
    import tensorflow_datasets as tfds

    plain = tfds.features.Text, tfds.features.ClassLabel, tfds.features.Sequence
    return isinstance(feature, plain) or (isinstance(feature, tfds.features.Tensor) and feature.shape == ())


def _decoded(value: Any, place: str) -> Any:
    """Bytes as text, in lists as well."""
    if isinstance(value, list):
        return [_decoded(item, place) for item in value]
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BertJaxError(f"{place} is not UTF-8 at byte {error.start}: make the set anew from UTF-8 texts") from error


def _plain(value: Any) -> Any:
    """Numpy arrays of bytes as lists, in nested dicts as well."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value


def _tfds() -> Any:
    try:
        import tensorflow as tf
    except ImportError:
        raise BertJaxError("a tfds: source needs TensorFlow: pip install 'bert-jax[tf]'") from None
    with contextlib.suppress(RuntimeError):  # already initialised by the caller: then it is theirs to decide
        for kind in ("GPU", "TPU"):
            tf.config.set_visible_devices([], kind)
    import tensorflow_datasets as tfds

    return tfds


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings that TFDS and its dependencies raise about themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _builder(name: str, data_dir: str | None, spec: str) -> Any:
    tfds = _tfds()
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except Exception as error:  # DatasetNotFoundError, ValueError for a config, ImportError of an optional package
        reason = str(error).strip().splitlines()[0]
        raise BertJaxError(f"source {spec}: no data set {name!r} in {_place(data_dir)}: {reason}") from error
    if not builder.info.splits:
        log(f"fetching {name} with TensorFlow Datasets into {builder.data_dir}")
        try:
            builder.download_and_prepare()
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise BertJaxError(
                f"source {spec}: {name} is not in {_place(data_dir)} and cannot be fetched: {reason}; set "
                "TFDS_DATA_DIR to where it lies, or fetch it elsewhere with tfds build"
            ) from error
    return builder


def _place(data_dir: str | None) -> str:
    return data_dir or "~/tensorflow_datasets (TFDS_DATA_DIR is not set)"


def _text_field(builder: Any, spec: str) -> str:
    """`text` when the set has it, else its only text feature."""
    import tensorflow_datasets as tfds

    names = [name for name, feature in builder.info.features.items() if isinstance(feature, tfds.features.Text)]
    if "text" in names:
        return "text"
    if len(names) == 1:
        return str(names[0])
    raise BertJaxError(f"source {spec}: name its field, {_FORM}; texts there are {', '.join(names) or 'none'}")


def _features(builder: Any, field: str, spec: str) -> dict[str, Any]:
    """The part of the features that `field` needs, as TFDS's partial decoding wants it."""
    wanted: dict[str, Any] = {}
    for name in field.split("+"):
        features, node = builder.info.features, wanted
        parts = [name] if name in features else name.split(".")
        for depth, part in enumerate(parts):
            if not hasattr(features, "keys") or part not in features:
                raise BertJaxError(
                    f"source {spec}: no field {name!r}; it has {', '.join(sorted(builder.info.features))}"
                )
            features = features[part]
            if depth == len(parts) - 1:
                node[part] = True
            else:
                node = node.setdefault(part, {})
    return wanted


def _shard_places(splits: Any) -> dict[str, tuple[str, int]]:
    """Shard file → (its split, number of the split's examples before it)."""
    places = {}
    for name, split in splits.items():
        first = 0
        for path, length in zip(split.filepaths, split.shard_lengths, strict=True):
            places[os.fspath(path)] = (name, first)
            first += length
    return places


def _size(path: Any) -> int:
    try:
        return os.path.getsize(os.fspath(path))
    except OSError:
        return 0  # on remote storage
