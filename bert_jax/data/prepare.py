"""Text → token store: bounded memory, all cores, restartable shard by shard, the same bytes however it was made.

The work is listed first: the sources' units are grouped into shards, and a shard is a pure function of its units. An
unfinished store grows in a hidden directory beside the real one: a finished shard leaves a record there, with size and
checksum of its files, and is used again by the next call with equal sources and settings. When all are finished the
directory is renamed into place, so whatever lies at the given path is whole.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax.console import log, progress, warn
from bert_jax.data.manifest import VERSION, make_manifest
from bert_jax.data.one_reader import one_reader
from bert_jax.data.pool import available_cores, map_unordered
from bert_jax.data.repeats import mark_repeated
from bert_jax.data.sources import WHOLE_BYTES, Source, Sources, open_sources
from bert_jax.data.statistics import CHINESE_LIMIT, Statistics, summarise, table_of, warnings_of
from bert_jax.data.store import Store, load_store, partial_path
from bert_jax.data.streams import EncodingErrors, Unit
from bert_jax.data.worker import Hopeless, Job, hash_lines, initialise, is_finished, release, write_shard
from bert_jax.errors import BertJaxError, UsageError
from bert_jax.files import clear_errors, digest, lock, read_json, require_absent, write_json
from bert_jax.text.interface import Tokenizer
from bert_jax.text.segmenters import load_segmenter
from bert_jax.text.tokenizer import load_tokenizer

_UNIT_BYTES = 2 << 20
_SHARD_BYTES = 16 << 20
_FEW_SHARDS, _MANY_SHARDS = 64, 1024

Shards = list[tuple[str, list[Unit]]]


def prepare(
    sources: Sources,
    tokenizer: str | os.PathLike[str] | Tokenizer,
    out: str | os.PathLike[str],
    *,
    eval_fraction: float = 0.01,
    segmenter: str | None = None,
    workers: int | None = None,
    verify: bool = False,
    min_document_sentences: int = 1,
    drop_repeated_lines: bool = False,
    encoding_errors: EncodingErrors = "strict",
    lengths: Sequence[int] = (128, 512),
) -> dict[str, Any]:
    """Make the token store `out` from text; returns (and logs) a summary of the corpus.

    Args:
      sources: one or several SOURCEs, in the forms of `sources.as_sources`.
      tokenizer: a tokenizer, or its directory; a copy goes into the store.
      eval_fraction: share of documents held out, in [0, 1), chosen by a hash of their text.
      segmenter: `jieba`, `rjieba`, `spaces` or `MODULE:FUNCTION`: takes word starts from a word segmenter.
      workers: number of processes, by default one per core; the result does not depend on it.
      verify: read the finished store once more and compare all checksums.
      min_document_sentences: leave out documents with fewer sentences.
      drop_repeated_lines: keep only the first of equal lines of the whole corpus; reads the sources twice.
      encoding_errors: what to do with bytes that are not UTF-8: `strict` or `replace`.
      lengths: sequence lengths that the share of random pairs is told for.

    Returns a dictionary that is JSON: `documents sentences tokens bytes unknown_rate one_sentence_documents_share
    repeated_lines_share top_lines random_pairs_share unigram_entropy commonest_token commonest_token_share
    dropped_documents dropped_repeated_lines warnings`, then `store fingerprint train eval word_starts shards
    reused_shards workers seconds megabytes_per_second`.

    Errors: `BertJaxError`, one line each, for sources that are missing, empty or not UTF-8, for an `out` that exists,
    a disk that is full, a worker that was killed. `out` then does not exist. What was finished is kept beside it, and
    told, when the same call can go on with it.
    """
    started = time.monotonic()
    target = Path(os.path.abspath(out))
    require_absent(target)
    _check_settings(eval_fraction, min_document_sentences, workers)
    source = open_sources(sources, encoding_errors=encoding_errors, unit_bytes=_UNIT_BYTES)
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = load_tokenizer(tokenizer)
    shards = _group(source.units())
    job = Job(partial_path(target), eval_fraction, segmenter, min_document_sentences, drop_repeated_lines)
    plan = _plan(source, tokenizer, job, encoding_errors, lengths, len(shards))
    workers = workers or available_cores()
    with lock(job.root / "lock", wait=False), _keeping_what_is_finished(job):
        require_absent(target)
        reused = _start_or_continue(job, plan, tokenizer, shards)
        if not (job.root / "manifest.json").is_file():
            _make_shards(job, shards, min(workers, len(shards)))
            _finish(job, plan, tokenizer, [name for name, _ in shards], lengths)
        _check(job.root, verify)
        _rename(job.root, target)
    report = _report(load_store(target), reused, min(workers, len(shards)), time.monotonic() - started)
    _tell(report)
    return report


def _check_settings(eval_fraction: float, min_document_sentences: int, workers: int | None) -> None:
    if not 0 <= eval_fraction < 1:
        raise UsageError(f"eval_fraction is {eval_fraction}: expected a share from 0 to below 1")
    if min_document_sentences < 1:
        raise UsageError(f"min_document_sentences is {min_document_sentences}: expected 1 or more")
    if workers is not None and workers < 1:
        raise UsageError(f"workers is {workers}: expected 1 or more")


def _group(units: list[Unit]) -> Shards:
    """Units as shards, in order: neighbours together while they are small, so that neither many small files make as
    many shards, nor a small corpus one."""
    sizes = [max(unit.size, 1) for unit in units]  # what lies on remote storage may have no size
    total = sum(sizes)
    wanted = max(min(total // _FEW_SHARDS, _SHARD_BYTES), total // _MANY_SHARDS)
    groups: list[list[Unit]] = []
    room = 0
    for unit, size in zip(units, sizes, strict=True):
        if not groups or size > room:
            groups.append([])
            room = wanted
        groups[-1].append(unit)
        room -= size
    return [(f"{index:05d}", group) for index, group in enumerate(groups)]


def _plan(
    source: Source, tokenizer: Tokenizer, job: Job, encoding_errors: str, lengths: Sequence[int], shards: int
) -> dict[str, Any]:
    """Everything that the store's bytes depend on."""
    segmenter = None if job.segmenter is None else load_segmenter(job.segmenter).name
    return {
        "version": VERSION,
        "sources": source.name,
        "source_fingerprint": source.fingerprint(),
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "eval_fraction": job.eval_fraction,
        "segmenter": segmenter,
        "min_document_sentences": job.min_document_sentences,
        "drop_repeated_lines": job.drop_repeated_lines,
        "encoding_errors": encoding_errors,
        "lengths": [int(length) for length in lengths],
        "shards": shards,
    }


# --- what an earlier call left ----------------------------------------------------------------------------------------


def _start_or_continue(job: Job, plan: dict[str, Any], tokenizer: Tokenizer, shards: Shards) -> int:
    """Make the unfinished store ready: keep the finished shards of a call with an equal plan, or begin anew.

    Returns how many shards are kept.
    """
    with clear_errors("write", job.root):
        wanted = {**plan, "modified": _modified(shards)}
        found = read_json(job.root / "plan.json") if (job.root / "plan.json").is_file() else None
        if found is not None and digest(found) == digest(wanted):
            kept = sum(is_finished(job, name) for name, _ in shards)
            if kept:
                log(f"continuing: {kept} of {len(shards)} shards are already there")
            return kept
        if found is not None:
            log("an unfinished store of other sources or settings is thrown away")
        for path in job.root.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()
        for name in ("shards", "records", "lines"):
            (job.root / name).mkdir()
        tokenizer.save(job.root / "tokenizer")
    write_json(job.root / "plan.json", wanted)
    return 0


def _modified(shards: Shards) -> list[list[Any]]:
    """Files of which the sources' fingerprint has not read every byte, with the time they were last written."""
    paths = sorted({unit.path for _, units in shards for unit in units})
    found = [(path, os.stat(path)) for path in paths if os.path.isfile(path)]
    return [[path, state.st_mtime_ns] for path, state in found if state.st_size > WHOLE_BYTES]


# --- the work ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _keeping_what_is_finished(job: Job) -> Iterator[None]:
    """Say after a failure or an interrupt where the work lies; remove what the same call could not go on with."""
    try:
        yield
    except BaseException as error:
        count = len(list((job.root / "records").glob("*.json")))
        if isinstance(error, Hopeless) or not (count or any((job.root / "lines").glob("*.npy"))):
            shutil.rmtree(job.root, ignore_errors=True)
        else:
            log(
                f"{count} finished shards are kept in {job.root}: the same call continues with them; "
                "remove that folder to give their space back"
            )
        raise
    finally:
        release()


def _make_shards(job: Job, shards: Shards, workers: int) -> None:
    if job.drop_repeated_lines:
        _map(job, "reading", hash_lines, [item for item in shards if not job.lines(item[0]).is_file()], workers)
        mark_repeated([job.lines(name) for name, _ in shards], [job.repeated(name) for name, _ in shards])
    _map(job, "preparing", write_shard, [item for item in shards if not job.record(item[0]).is_file()], workers)


def _map(job: Job, description: str, function: Any, shards: Shards, workers: int) -> None:
    """Run `function` on all shards, the large ones first: none of them is alone at the end."""
    sizes = {name: sum(unit.size for unit in units) for name, units in shards}
    tasks = sorted(shards, key=lambda item: (-sizes[item[0]], item[0]))
    done = 0.0
    with clear_errors("write", job.copies):
        shutil.rmtree(job.copies, ignore_errors=True)
        job.copies.mkdir()
    finished = map_unordered(initialise, (job,), function, tasks, workers, one_reader(job.copies))
    with progress(description, sum(sizes.values()) / 1e6, "MB") as advance, contextlib.closing(finished):
        for count, (index, _) in enumerate(finished, start=1):
            done += sizes[tasks[index][0]] / 1e6
            advance(done, f"{count}/{len(tasks)} shards")


def _finish(job: Job, plan: dict[str, Any], tokenizer: Tokenizer, names: list[str], lengths: Sequence[int]) -> None:
    """Write the manifest of a store whose shards are all there, with the summary in it."""
    statistics = Statistics(tokenizer.vocab_size, tokenizer.unk_id)
    for name in names:
        statistics.merge(Statistics.load(job.record(name).with_suffix(".npz"), tokenizer.unk_id))
    if not statistics.counts["documents"]:
        dropped = statistics.counts["dropped_documents"]
        why = f": all {dropped:,} were left out (too short, or nothing but repeated lines)" if dropped else ""
        raise Hopeless(f"{plan['sources']} gives no documents{why}; lower --min-document-sentences or give more text")
    summary = summarise(statistics, lambda number: tokenizer.pieces([number])[0], lengths)
    records = [read_json(job.record(name))["shard"] for name in names]
    if not sum(record["train"]["documents"] for record in records):
        raise Hopeless(
            f"all {summary['documents']} documents fell into the held-out part: lower --eval-fraction or give more text"
        )
    word_starts = _word_starts(tokenizer, statistics, plan["segmenter"])
    manifest = make_manifest(
        tokenizer, job.root / "tokenizer", records, word_starts=word_starts, settings=plan, summary=summary
    )
    write_json(job.root / "manifest.json", manifest)


def _word_starts(tokenizer: Tokenizer, statistics: Statistics, segmenter: str | None) -> str:
    """Where word starts come from. Pieces say nothing about words in a script that does not space them: `none` when
    more than 30 % of the tokens are made of Chinese characters or kana alone."""
    if segmenter is not None:
        return f"segmenter:{segmenter}"
    if tokenizer.kind == "words":
        return "pieces"
    pieces = tokenizer.pieces(range(tokenizer.vocab_size))
    unspaced = np.array([_is_unspaced(piece.removeprefix("##").removeprefix("▁")) for piece in pieces])
    return "none" if statistics.share_of(unspaced) > CHINESE_LIMIT else "pieces"


def _is_unspaced(piece: str) -> bool:
    return piece[:1] >= "\u3040" and all(
        "\u3400" <= character <= "\u9fff"
        or "\u3040" <= character <= "\u30ff"
        or "\uf900" <= character <= "\ufaff"
        or "\U00020000" <= character <= "\U0003ffff"
        for character in piece
    )


def _check(root: Path, verify: bool) -> None:
    """Open the finished store before it gets its name; if it is not good, the next call looks at every shard again."""
    try:
        store = load_store(root)
        if verify:
            store.verify()
    except BertJaxError:
        (root / "manifest.json").unlink(missing_ok=True)
        raise


def _rename(root: Path, target: Path) -> None:
    with clear_errors("write", target):
        for name in ("records", "lines", "copies"):
            shutil.rmtree(root / name, ignore_errors=True)
        for name in ("plan.json", "lock"):
            (root / name).unlink(missing_ok=True)
        if target.is_dir():
            target.rmdir()
        root.rename(target)


def _report(store: Store, reused: int, workers: int, seconds: float) -> dict[str, Any]:
    manifest = store.manifest
    summary = manifest["summary"]
    return {
        **summary,
        "warnings": warnings_of(summary) + _held_out_warning(manifest),
        "store": str(store.path),
        "fingerprint": store.fingerprint,
        "train": manifest["train"],
        "eval": manifest["eval"],
        "word_starts": store.word_starts,
        "shards": len(manifest["shards"]),
        "reused_shards": reused,
        "workers": workers,
        "seconds": round(seconds, 3),
        "megabytes_per_second": round(summary["bytes"] / 1e6 / max(seconds, 1e-9), 3),
    }


def _held_out_warning(manifest: dict[str, Any]) -> list[str]:
    fraction = manifest["settings"]["eval_fraction"]
    if not fraction or manifest["eval"]["documents"]:
        return []
    return [f"no document was held out for evaluation at --eval-fraction {fraction}: give a larger one, or more text"]


def _tell(report: dict[str, Any]) -> None:
    train, held_out = report["train"]["documents"], report["eval"]["documents"]
    log(f"{report['store']}: {train:,} documents to train on, {held_out:,} held out")
    for line in table_of(report):
        log(line)
    if report["word_starts"] == "none":
        log("  no word starts: most of the text does not space its words; whole-word masking needs --segmenter")
    for line in report["warnings"]:
        warn(line)
