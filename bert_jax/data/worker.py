"""What one process does for `prepare`: the documents of some units become one shard and what is measured of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bert_jax.data.segmented import segmented_word_starts
from bert_jax.data.shard import NpyStream, ShardWriter, hashes_of, is_eval
from bert_jax.data.sources import read_unit
from bert_jax.data.statistics import Statistics
from bert_jax.data.streams import Unit
from bert_jax.errors import BertJaxError
from bert_jax.files import clear_errors, read_json, sha256, write_json
from bert_jax.text.interface import Tokenizer
from bert_jax.text.segmenters import load_segmenter
from bert_jax.text.tokenizer import load_tokenizer

_BATCH_CHARACTERS = 1 << 18


class Hopeless(BertJaxError):
    """What the same call would meet again: no reason to keep what was finished before it."""


@dataclass(frozen=True)
class Job:
    """What a worker needs to know; `root` is the unfinished store, with the tokenizer in it."""

    root: Path
    eval_fraction: float
    segmenter: str | None
    min_document_sentences: int
    drop_repeated_lines: bool

    @property
    def copies(self) -> Path:
        """Where units lie that one process read for all (see one_reader.py)."""
        return self.root / "copies"

    def shard(self, name: str) -> Path:
        """The directory of a shard's arrays."""
        return self.root / "shards" / name

    def record(self, name: str) -> Path:
        """The file whose presence says that a shard is finished; its statistics lie beside it (`.npz`)."""
        return self.root / "records" / f"{name}.json"

    def lines(self, name: str) -> Path:
        """uint64 hashes of a shard's lines, in order."""
        return self.root / "lines" / f"{name}.npy"

    def repeated(self, name: str) -> Path:
        """bool, whether each of a shard's lines is dropped."""
        return self.root / "lines" / f"{name}.repeated.npy"


class _State:
    """A worker's own tools, made once."""

    def __init__(self, job: Job):
        self.job = job
        self.tokenizer: Tokenizer = load_tokenizer(job.root / "tokenizer")
        self.segmenter = None if job.segmenter is None else load_segmenter(job.segmenter)


_state: _State | None = None


def initialise(job: Job) -> None:
    """Make ready for `write_shard` and `hash_lines`."""
    global _state
    _state = _State(job)


def release() -> None:
    """Let go of what `initialise` made in this process."""
    global _state
    _state = None


def write_shard(name: str, units: Sequence[Unit]) -> str:
    """Turn the documents of `units` into the shard `name`; its bytes depend on nothing else. Returns the name."""
    assert _state is not None
    job, tokenizer = _state.job, _state.tokenizer
    directory = job.shard(name)
    with clear_errors("write", directory):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
    statistics = Statistics(tokenizer.vocab_size, tokenizer.unk_id)
    repeated = np.load(job.repeated(name), mmap_mode="r") if job.drop_repeated_lines else None
    line = 0
    with ShardWriter(directory, tokenizer.vocab_size) as writer:
        for documents in _batches(units):
            batch = _Batch(documents)
            if repeated is not None:
                count = len(batch.lines)
                batch.drop_lines(np.asarray(repeated[line : line + count]))
                statistics.counts["dropped_repeated_lines"] += count - len(batch.lines)
                line += count
            _write_batch(batch, writer, statistics, _state)
        record = writer.finish()
    assert repeated is None or line == len(repeated), (name, line)
    path = job.record(name).with_suffix(".npz")
    statistics.save(path)
    write_json(job.record(name), {"shard": {"name": name, **record}, "statistics_sha256": sha256(path)})
    return name


def is_finished(job: Job, name: str) -> bool:
    """Whether a shard's record is there and its files are the ones recorded; removes the record otherwise."""
    path = job.record(name)
    if not path.is_file():
        return False
    record = read_json(path)
    expected = {job.shard(name) / file: entry["sha256"] for file, entry in record["shard"]["files"].items()}
    expected[path.with_suffix(".npz")] = record["statistics_sha256"]
    whole = all(file.is_file() and sha256(file) == digest for file, digest in expected.items())
    if not whole:
        path.unlink()
    return whole


def hash_lines(name: str, units: Sequence[Unit]) -> int:
    """Write the hashes of all lines of `units`, in order, to find the repeated ones. Returns their number."""
    assert _state is not None
    path = _state.job.lines(name)
    partial = path.with_suffix(".partial")
    stream = NpyStream(partial, np.dtype("<u8"))
    try:
        for documents in _batches(units):
            stream.write(_Batch(documents).line_hashes)
        stream.finish()
    finally:
        stream.close()
    with clear_errors("write", path):
        partial.replace(path)
    return stream.size


def _batches(units: Sequence[Unit]) -> Iterator[list[list[str]]]:
    """Documents in order, some at a time: enough to share the price of each numpy call, few enough to stay small."""
    batch: list[list[str]] = []
    characters = 0
    for unit in units:
        for document in _documents(unit):
            batch.append(document)
            characters += sum(map(len, document))
            if characters >= _BATCH_CHARACTERS:
                yield batch
                batch, characters = [], 0
    if batch:
        yield batch


def _documents(unit: Unit) -> Iterator[list[str]]:
    """Errors: `Hopeless` for text that is not as its kind says; `BertJaxError` where the system refused to read it."""
    try:
        yield from read_unit(unit)
    except BertJaxError as error:
        raise error if isinstance(error.__cause__, OSError) else Hopeless(str(error)) from error


class _Batch:
    """Some documents as one list of lines."""

    def __init__(self, documents: list[list[str]]):
        self.lines = [line for document in documents for line in document]
        self.sizes = np.fromiter(map(len, documents), np.int64, len(documents))  # documents' lengths in lines
        encoded = [line.encode("utf-8", "surrogatepass") for line in self.lines]
        self.line_bytes = np.fromiter(map(len, encoded), np.int64, len(encoded))
        self.line_hashes = hashes_of(encoded)
        ends = np.cumsum(self.sizes).tolist()
        texts = [b"\n".join(encoded[end - size : end]) for end, size in zip(ends, self.sizes.tolist(), strict=True)]
        self.document_hashes = hashes_of(texts)

    def drop_lines(self, dropped: np.ndarray) -> None:
        """Leave out lines, bool (lines,); documents stay what they are by their hashes, and may become empty."""
        if dropped.any():
            keep = ~dropped
            self.lines = [line for line, kept in zip(self.lines, keep.tolist(), strict=True) if kept]
            self.line_bytes, self.line_hashes = self.line_bytes[keep], self.line_hashes[keep]
            self.sizes = np.bincount(np.repeat(np.arange(len(self.sizes)), self.sizes)[keep], minlength=len(self.sizes))


def _write_batch(batch: _Batch, writer: ShardWriter, statistics: Statistics, state: _State) -> None:
    """Tokenize a batch, leave out empty lines and short documents, hand on the rest by split."""
    ids, lengths = state.tokenizer.bulk_ids(batch.lines)
    document_of = np.repeat(np.arange(len(batch.sizes)), batch.sizes)
    keep = lengths > 0
    sizes = np.bincount(document_of[keep], minlength=len(batch.sizes))
    good = sizes >= state.job.min_document_sentences
    statistics.counts["dropped_documents"] += int(len(good) - good.sum())
    keep &= good[document_of]
    lines = batch.lines
    if not keep.all():
        ids = ids[np.repeat(keep, lengths)]
        lengths, document_of = lengths[keep], document_of[keep]
        lines = [line for line, kept in zip(lines, keep.tolist(), strict=True) if kept]
    if not lines:
        return
    starts = _word_starts(ids, lengths, lines, state)
    sizes, hashes = sizes[good], batch.document_hashes[good]
    statistics.add(
        ids,
        lengths,
        sizes.tolist(),
        hashes.tolist(),
        lines,
        batch.line_hashes[keep],
        int(batch.line_bytes[keep].sum()),
    )
    held_out = is_eval(hashes, state.job.eval_fraction)
    for split, chosen in (("train", ~held_out), ("eval", held_out)):
        if chosen.all():
            writer.add(split, ids, lengths, starts, sizes)
        elif chosen.any():
            chosen_lines = np.repeat(chosen, sizes)
            tokens = np.repeat(chosen_lines, lengths)
            writer.add(split, ids[tokens], lengths[chosen_lines], starts[tokens], sizes[chosen])


def _word_starts(ids: np.ndarray, lengths: np.ndarray, lines: list[str], state: _State) -> np.ndarray:
    """bool (tokens,): where words begin, by the segmenter if there is one; every line begins with one."""
    if state.segmenter is None:
        starts = state.tokenizer.word_starts(ids)
    else:
        starts = segmented_word_starts(ids, lengths, lines, state.tokenizer, state.segmenter)
    starts[np.cumsum(lengths) - lengths] = True
    return starts
