"""google's TFRecords, as google-research/bert's `create_pretraining_data.py` writes them: masked examples.

At first use each file is gone over once and checked; what stays is an index of offsets and checksums (see
`records_index`). From then on any record can be read by number, so these records get what a token store has: every one
once per epoch in a keyed permutation, each batch a pure function of its positions, and no price for resuming.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax.batch import MASKED, check
from bert_jax.data.drivers import tensorflow_on_cpu
from bert_jax.data.mixture import Batch, Ints
from bert_jax.data.permutation import EpochOrder
from bert_jax.data.records_index import RecordIndex, fingerprint_of, open_indices, set_aside
from bert_jax.errors import BertJaxError


class RecordsFeed:
    """Examples of TFRecord files, at positions. Make one with `make_records_feed`.

    `length` is T, `predictions` is M: both are what the files were written with.
    """

    def __init__(self, indices: Sequence[RecordIndex], seed: int, vocab_size: int | None = None):
        self._tf = tensorflow_on_cpu()
        self._indices, self._seed, self._vocab_size = list(indices), seed, vocab_size
        self._files = [open(index.path, "rb") for index in indices]  # noqa: SIM115 - closed with this object
        self._stops = np.cumsum([len(index.offsets) for index in indices])
        self._orders: dict[int, EpochOrder] = {}
        first = np.zeros(1, np.int64)
        features = self._tf.io.parse_example(self._read_all(first), self._feature_types(None))
        sizes = {name: len(value.values) for name, value in features.items()}
        missing = sorted(name for name, size in sizes.items() if not size)
        if missing:
            raise BertJaxError(f"{self._name(0)} has no {missing[0]}: expected records of create_pretraining_data.py")
        self.length, self.predictions = sizes["input_ids"], sizes["masked_lm_positions"]
        self._features = self._feature_types(sizes)
        self._parse(self._read_all(first), first)

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 over the records' sizes and checksums in order, wherever the files lie."""
        return fingerprint_of(self._indices)

    @property
    def set_aside(self) -> list[dict[str, Any]]:
        """The damaged records that are not trained on, see `records_index.set_aside`."""
        return set_aside(self._indices)

    def rows_per_epoch(self, epoch: int) -> int:
        """How many records there are."""
        return int(self._stops[-1])

    def locate(self, positions: Ints) -> tuple[Ints, Ints]:
        """(epoch, record), int64 (B,), of int64 (B,) positions; records are numbered through all files."""
        epochs, offsets = np.divmod(np.asarray(positions, np.int64), self._stops[-1])
        rows = np.empty_like(offsets)
        for epoch in np.unique(epochs).tolist():
            here = np.flatnonzero(epochs == epoch)
            if epoch not in self._orders:
                self._orders = {epoch: EpochOrder(int(self._stops[-1]), self._seed, epoch)}
            rows[here] = self._orders[epoch].rows_at(offsets[here])
        return epochs, rows

    def examples(self, positions: Ints) -> Batch:
        """The schema `batch.MASKED` in int32 and float32, with `example_ids` (uint32) and `epochs` (int32) besides."""
        epochs, rows = self.locate(positions)
        batch = self._parse(self._read_all(rows), rows)
        batch["example_ids"] = rows.astype(np.uint32)
        batch["epochs"] = epochs.astype(np.int32)
        return batch

    def describe(self) -> dict[str, Any]:
        """Counts, and from up to 1,000 records the share of random second segments and the mean real length."""
        sample = self.examples(np.arange(min(1_000, self.rows_per_epoch(0))))
        random_share = float(sample["next_sentence_labels"].mean())
        mean_tokens = float(sample["input_mask"].sum(axis=1).mean())
        return {
            "split": "train",
            "length": self.length,
            "predictions": self.predictions,
            "objective": "mlm+nsp",
            "rows_per_epoch": self.rows_per_epoch(0),
            "random_share": random_share,
            "majority_label_share": max(random_share, 1 - random_share),
            "mean_tokens": mean_tokens,
            "padding_share": 1 - mean_tokens / self.length,
        }

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    def __del__(self) -> None:
        for file in getattr(self, "_files", []):
            file.close()

    def _where(self, rows: Ints) -> tuple[list[int], list[int]]:
        """File, and number within it, of each record."""
        files = np.searchsorted(self._stops, rows, side="right")
        return files.tolist(), (rows - np.concatenate([[0], self._stops])[files]).tolist()

    def _name(self, row: int) -> str:
        """A record in words."""
        (file,), (number,) = self._where(np.array([row]))
        return f"{self._indices[file].path}: record {self._indices[file].name(number)}"

    def _read_all(self, rows: Ints) -> list[bytes]:
        places = zip(*self._where(rows), strict=True)
        return [self._indices[file].read(self._files[file], number) for file, number in places]

    def _feature_types(self, sizes: dict[str, int] | None) -> dict[str, Any]:
        tf = self._tf
        types = {name: tf.float32 if key.kind == "f" else tf.int64 for name, key in MASKED.items()}
        if sizes is None:
            return {name: tf.io.VarLenFeature(dtype) for name, dtype in types.items()}
        return {name: tf.io.FixedLenFeature([sizes[name]], dtype) for name, dtype in types.items()}

    def _parse(self, data: list[bytes], rows: Ints) -> Batch:
        try:
            features = self._tf.io.parse_example(data, self._features)
        except self._tf.errors.InvalidArgumentError as error:
            for row, one in zip(rows.tolist(), data, strict=True):
                self._require_parsable(row, one, error)
            raise
        batch = {
            name: value.numpy().astype(np.float32 if MASKED[name].kind == "f" else np.int32)
            for name, value in features.items()
        }
        if len(batch["next_sentence_labels"].shape) == 2:
            batch["next_sentence_labels"] = batch["next_sentence_labels"][:, 0]
        check(batch, MASKED)
        self._require_in_vocabulary(batch, rows)
        return batch

    def _require_in_vocabulary(self, batch: Batch, rows: Ints) -> None:
        for name in ("input_ids", "masked_lm_ids") if self._vocab_size is not None else ():
            ids = batch[name]
            outside = np.flatnonzero(((ids < 0) | (ids >= self._vocab_size)).any(axis=1))
            if len(outside):
                raise BertJaxError(
                    f"{self._name(rows[outside[0]])} has {name} up to {ids[outside[0]].max()}, the "
                    f"tokenizer has {self._vocab_size} entries: name the vocabulary the records were made with"
                )

    def _require_parsable(self, row: int, data: bytes, cause: Exception) -> None:
        try:
            self._tf.io.parse_example([data], self._features)
        except self._tf.errors.InvalidArgumentError:
            sizes = f"length {self.length} and {self.predictions} predictions, as the first record"
            raise BertJaxError(
                f"{self._name(row)} is not an example of {sizes}: write all files with the "
                "same create_pretraining_data.py settings"
            ) from cause


def make_records_feed(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    seed: int,
    index_dir: str | os.PathLike[str],
    vocab_size: int | None = None,
    max_bad_records: int = 0,
    fixed: Sequence[Mapping[str, Any]] | None = None,
) -> RecordsFeed:
    """A feed over TFRecord files written by `create_pretraining_data.py`; needs TensorFlow.

    Indices are kept in `index_dir`. Up to `max_bad_records` damaged records are set aside; or, of a run that goes on,
    just those that it began without (`fixed`, see `RecordsFeed.set_aside`). Errors: `BertJaxError` for a file that is
    missing, compressed or more damaged (naming file, record and byte); while reading, for ids that a vocabulary of
    `vocab_size` entries does not have.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not given:
        raise BertJaxError("no TFRecord files were given: expected at least one")
    indices = open_indices([Path(path) for path in given], Path(index_dir), max_bad_records, fixed)
    return RecordsFeed(indices, seed, vocab_size)
