"""From the sources a configuration names to a vocabulary and a token store, made once and found again.

Both lie in a cache folder under a name made of the sources' content and the settings, so that another text, another
vocabulary size or another segmenter is another store. Made under a lock and renamed into place when whole.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from bert_jax.config import Data
from bert_jax.console import log
from bert_jax.data.counting import vocabulary_from_source
from bert_jax.data.prepare import prepare
from bert_jax.data.sources import Source, open_sources
from bert_jax.errors import BertJaxError
from bert_jax.files import digest, lock
from bert_jax.text.tokenizer import load_tokenizer


@contextlib.contextmanager
def leaving_no_empty_cache(run: Path, cache: str | None) -> Iterator[None]:
    """After an error before there is a run: remove the plans, locks and folders that its start made under `run`.

    What was made from sources stays, for the next start to find; so does a `cache` of the user's own.
    """
    existed = run.is_dir()
    try:
        yield
    except BaseException:
        if cache is None and not (run / "run.json").exists():
            _remove_empty(run, existed)
        raise


def _remove_empty(run: Path, existed: bool) -> None:
    data = run / "data"
    shutil.rmtree(data / "plans", ignore_errors=True)
    with contextlib.suppress(OSError):
        if {path.name for path in data.iterdir()} <= {".lock"}:
            shutil.rmtree(data)
        if not existed:
            run.rmdir()


def store_from_sources(data: Data, cache: str | os.PathLike[str]) -> Path:
    """The token store for `data.sources`, made first if it is not there yet.

    Errors: `BertJaxError` when neither a tokenizer nor a vocabulary size is named, or the sources cannot be read.
    """
    if data.tokenizer is None and data.vocab_size is None:
        raise BertJaxError(
            "data.sources needs a tokenizer: name a directory with --data.tokenizer, "
            "or give --data.vocab_size to make one"
        )
    folder = Path(cache)
    with lock(folder / ".lock"):
        source = open_sources(data.sources, encoding_errors=data.encoding_errors)
        tokenizer = Path(data.tokenizer) if data.tokenizer else _vocabulary(data, folder, source)
        settings = {
            "sources": source.fingerprint(),
            "tokenizer": load_tokenizer(tokenizer).fingerprint,
            "segmenter": data.segmenter,
            "eval_fraction": data.eval_fraction,
            "min_document_sentences": data.min_document_sentences,
            "drop_repeated_lines": data.drop_repeated_lines,
            "encoding_errors": data.encoding_errors,
        }
        store = folder / f"store-{digest(settings)[:12]}"
        if not (store / "manifest.json").is_file():
            log(f"making a token store from {', '.join(data.sources)}: {store}")
            prepare(
                list(data.sources),
                tokenizer,
                store,
                eval_fraction=data.eval_fraction,
                segmenter=data.segmenter,
                workers=data.workers,
                min_document_sentences=data.min_document_sentences,
                drop_repeated_lines=data.drop_repeated_lines,
                encoding_errors=data.encoding_errors,
            )
    return store


def _vocabulary(data: Data, folder: Path, source: Source) -> Path:
    assert data.vocab_size is not None
    settings = {"sources": source.fingerprint(), "size": data.vocab_size, "kind": data.vocab_kind, "cased": data.cased}
    directory = folder / f"tokenizer-{digest(settings)[:12]}"
    if not directory.is_dir():
        log(f"making a vocabulary of {data.vocab_size:,} entries from {', '.join(data.sources)}: {directory}")
        vocabulary_from_source(source, directory, data.vocab_size, data.vocab_kind, data.cased, workers=data.workers)
    return directory
