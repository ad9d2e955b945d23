"""Everything a pre-training configuration reads: its stores (made first, from sources), tokenizer, feeds, and chance.

The feeds of a phase depend on (stores, seed, phase) alone, so step → batch needs no state and any number of hosts.
"""

from __future__ import annotations

import glob
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bert_jax.batch import prediction_counts
from bert_jax.config import Config, Data, Phase, Train
from bert_jax.console import log, warn
from bert_jax.data.drivers import batches
from bert_jax.data.feed import AnyFeed, make_feed
from bert_jax.data.from_sources import store_from_sources
from bert_jax.data.packed_feed import Packing
from bert_jax.data.records import RecordsFeed, make_records_feed
from bert_jax.data.sources import open_sources
from bert_jax.data.store import Store, load_store, verify_once
from bert_jax.errors import BertJaxError, UsageError
from bert_jax.text.tokenizer import Tokenizer, load_tokenizer

PAIR_SEED_OF_EVALUATION = 0
"""Pairs and order of held-out examples: the same for every model, so that models can be compared."""
EVALUATED_SPLIT = "eval"
_PHASE_STRIDE = 0x9E3779B9


@dataclass(frozen=True)
class PretrainingData:
    """What a configuration trains and is evaluated on."""

    config: Config
    tokenizer: Tokenizer
    stores: tuple[Store, ...]
    weights: tuple[float, ...]
    records: tuple[str, ...]
    evaluation_stores: dict[str, Store]
    """By name; the training store itself under the empty name, when it holds documents out."""
    plans: Path
    fixed_records: tuple[dict[str, Any], ...] | None = None
    """Of a run that goes on: the damaged records that it began without."""

    @property
    def set_aside(self) -> list[dict[str, Any]]:
        """The damaged records that are not trained on (see `RecordsFeed.set_aside`)."""
        return self._records_feed(0).set_aside if self.records else []

    @property
    def fingerprints(self) -> dict[str, str]:
        """What makes this data what it is, wherever it lies."""
        found = {"tokenizer": self.tokenizer.fingerprint}
        if self.records:
            found["records"] = self._records_feed(0).fingerprint
        for index, store in enumerate(self.stores):
            found["store" if len(self.stores) == 1 else f"store.{index}"] = store.fingerprint
        if len(self.stores) > 1:
            found["weights"] = " ".join(f"{weight:g}" for weight in self.weights)
        return found

    def _records_feed(self, seed: int) -> RecordsFeed:
        return make_records_feed(
            self.records,
            seed=seed,
            index_dir=self.plans,
            vocab_size=self.tokenizer.vocab_size,
            max_bad_records=self.config.data.max_bad_records,
            fixed=self.fixed_records,
        )

    def check_feeds(self) -> None:
        """Open what the first phase reads, and records, or rows with so many places, for every phase.

        Errors: `BertJaxError` for what cannot be.
        """
        for index, phase in enumerate(self.config.phases):
            if self.records or index == 0 or phase.row_predictions is not None:
                self.train_feed(index)
        for name in self.evaluation_stores:
            self.evaluation_feed(name, self.config.phases[0].length)

    def train_feed(self, phase_index: int) -> AnyFeed:
        """The examples of one phase, by position."""
        config, phase = self.config, self.config.phases[phase_index]
        seed = config.train.seed + _PHASE_STRIDE * phase_index
        if self.records:
            feed = self._records_feed(seed)
            if (feed.length, feed.predictions) != (phase.length, phase.predictions):
                raise BertJaxError(
                    f"data.records hold examples of length {feed.length} with {feed.predictions} predictions, phase "
                    f"{phase_index} asks for {phase.length} with {phase.predictions}: records keep what they were made "
                    f"with, so set --train.length {feed.length} --train.predictions {feed.predictions}"
                )
            return feed
        return make_feed(
            self.stores,
            length=phase.length,
            seed=seed,
            objective=config.train.objective,
            short_share=config.train.short_share,
            variants=config.data.variants,
            plan_dir=self.plans,
            weights=self.weights if len(self.stores) > 1 else None,
            packing=packing_of(phase, config.train.masked_share),
        )

    def train_batches(self, phase_index: int, first: int, process_index: int, process_count: int) -> Iterator[Any]:
        """This process's slices of the batches of one phase, from its step `first` to its end."""
        phase = self.config.phases[phase_index]
        return batches(
            self.train_feed(phase_index),
            first,
            phase.steps - first,
            phase.batch,
            process_index=process_index,
            process_count=process_count,
            driver=self.config.data.driver,
        )

    def evaluation_feed(self, name: str, length: int) -> AnyFeed:
        """The held-out examples of one evaluation store, by position.

        Never packed: scores are then the same to the last bit whatever a run packs, and evaluation is a small part.
        """
        return held_out_feed(
            self.evaluation_stores[name], EVALUATED_SPLIT, length, self.config.train.objective, self.plans
        )

    def chance(self) -> dict[str, float | None]:
        """What a model that has learned nothing would score: see `chance_of`."""
        if self.records:
            return {}
        feed = self.train_feed(0)
        each = [chance_of(store, feed) for store in self.stores]
        if len(each) == 1:
            return each[0]
        # Of a mixture the stores' own, by their shares: guessing is never easier than knowing which store it is.
        total = sum(self.weights)
        return {
            name: None
            if any(one[name] is None for one in each)
            else sum(weight / total * (one[name] or 0.0) for weight, one in zip(self.weights, each, strict=True))
            for name in each[0]
        }


def packing_of(phase: Phase, masked_share: float) -> Packing:
    """How the rows of a phase are packed."""
    counts = prediction_counts(phase.length, phase.predictions, masked_share)
    return Packing(phase.packing, phase.row_predictions, counts)


def open_pretraining_data(
    config: Config,
    run: Path,
    local: bool,
    known_store: str | None = None,
    fixed_records: Sequence[dict[str, Any]] | None = None,
) -> PretrainingData:
    """Open (and, from `data.sources`, first make) what `config` reads; `local`: one process and a local run.

    `known_store`: the fingerprint of the store that a run began with; one made from sources is not made again.
    `fixed_records`: the damaged records that a run began without.
    Every file that is trained on, and the held-out files of stores that are only evaluated, are read once and their
    checksums compared. Errors: `BertJaxError` when nothing or too much is named, stores do not fit each other, a mask
    needs word starts that a store does not have, or a file was altered.
    """
    data = config.data
    named = [name for name in ("store", "sources", "records") if getattr(data, name)]
    if len(named) != 1:
        found = "none" if not named else " and ".join(f"data.{name}" for name in named)
        raise BertJaxError(
            f"the configuration names {found}: name exactly one of data.store (made by bert-jax prepare), "
            "data.sources, data.records"
        )
    cache = Path(data.cache) if data.cache else run / "data"
    specs = data.store
    if data.sources:
        if not local:
            raise BertJaxError(
                "data.sources makes a store on one machine only: with several processes run bert-jax prepare first and "
                "name its store with --data.store"
            )
        specs = (str(_made_before(data, cache, known_store) or store_from_sources(data, cache)),)
    stores, weights = zip(*(_open(spec) for spec in specs), strict=True) if specs else ((), ())
    if data.records and data.tokenizer is None:
        raise BertJaxError("data.records needs --data.tokenizer: the vocabulary its ids were made with")
    tokenizer = load_tokenizer(data.tokenizer if data.records else stores[0].tokenizer_path)  # type: ignore[arg-type]
    _check_stores(config, stores, tokenizer)
    if data.records:
        _check_records(config)
    elif data.max_bad_records:
        raise BertJaxError("data.max_bad_records is for data.records: a token store is whole or refused; leave it out")
    records = tuple(path for pattern in data.records for path in sorted(glob.glob(pattern)) or [pattern])
    evaluated = _evaluation_stores(config, stores, tokenizer)
    for store in stores:
        verify_once(store, cache / "plans")
    for store in evaluated.values():
        if store not in stores:
            verify_once(store, cache / "plans", EVALUATED_SPLIT)
    fixed = None if fixed_records is None else tuple(fixed_records)
    return PretrainingData(config, tokenizer, stores, weights, records, evaluated, cache / "plans", fixed)


def _made_before(data: Data, cache: Path, fingerprint: str | None) -> Path | None:
    """The store of a fingerprint among those that were made from sources, if it is there.

    Errors: `BertJaxError` when the files that `data.sources` names hold another text than it was made from.
    """
    for place in sorted(cache.glob("store-*")) if fingerprint else ():
        if (place / "manifest.json").is_file():
            store = load_store(place)
            if store.fingerprint == fingerprint:
                _check_same_text(data, store)
                return place
    return None


def _check_same_text(data: Data, store: Store) -> None:
    """Files only: what stdin gave is gone, `stdlib` is another text in each Python, a data set would be fetched."""
    if any(name in ("-", "stdlib") or name.startswith("tfds:") for name in data.sources):
        return
    try:
        found = open_sources(data.sources, encoding_errors=data.encoding_errors).fingerprint()
    except BertJaxError as error:
        warn(f"{error}; going on with the store that was made of the text, {store.path}")
        return
    if found != store.manifest["settings"]["source_fingerprint"]:
        raise BertJaxError(
            f"data.sources {' '.join(data.sources)} is not the text that the run's store {store.path} was made from: "
            "give that text, or another --run"
        )


def _check_records(config: Config) -> None:
    """Refuse what masks and pairs that are drawn already cannot follow."""
    train, usual = config.train, Train()
    if train.objective == "mlm+sop":
        raise BertJaxError("train.objective mlm+sop: data.records hold next-sentence pairs; prepare a token store")
    if max(train.packing, *(phase.packing for phase in train.later_phases), 1) > 1:
        raise BertJaxError(
            "train.packing: data.records hold one example per row, with its masks drawn; leave it out, or prepare a "
            "token store from the text"
        )
    for name in ("whole_words", "masked_share", "short_share"):
        if getattr(train, name) != getattr(usual, name):
            raise BertJaxError(
                f"train.{name} cannot be set for data.records: their masks and pairs were drawn when they were "
                "written; leave it out, or prepare a token store from the text"
            )


def _open(spec: str) -> tuple[Store, float]:
    """A store written PATH or PATH=WEIGHT."""
    if not spec:
        raise UsageError("data.store '': expected PATH or PATH=WEIGHT")
    path, separator, weight = spec.rpartition("=")
    if not separator or Path(spec).exists():
        return load_store(spec), 1.0
    try:
        share = float(weight)
    except ValueError:
        share = math.nan
    if not 0 < share < math.inf:
        raise UsageError(f"data.store {spec!r}: expected PATH or PATH=WEIGHT with a positive number")
    return load_store(path), share


def _check_stores(config: Config, stores: tuple[Store, ...], tokenizer: Tokenizer) -> None:
    if config.data.tokenizer is not None and stores:
        named = load_tokenizer(config.data.tokenizer)
        if named.fingerprint != tokenizer.fingerprint:
            raise BertJaxError(
                f"store {stores[0].path} was made by another tokenizer ({tokenizer.fingerprint[:12]}) than "
                f"data.tokenizer {config.data.tokenizer} ({named.fingerprint[:12]}): prepare it with that one"
            )
    for store in stores:
        if config.train.whole_words and not store.has_word_starts:
            raise BertJaxError(
                f"train.whole_words: store {store.path} does not know where words begin "
                f"({store.manifest.get('word_starts')}): prepare it with --segmenter jieba (or another)"
            )


def _evaluation_stores(config: Config, stores: tuple[Store, ...], tokenizer: Tokenizer) -> dict[str, Store]:
    found: dict[str, Store] = {}
    if stores and stores[0].split("eval").documents:
        found[""] = stores[0]
        if len(stores) > 1:
            log(f"evaluating on the held-out documents of {stores[0].path}, the first store of the mixture")
    for spec in config.evaluate.stores:
        name, separator, path = spec.partition("=")
        if not separator or not name.isidentifier() or name in (*found, "eval") or not path:
            raise UsageError(f"evaluate.stores {spec!r}: expected NAME=PATH with a plain NAME of its own, not eval")
        found[name] = load_store(path)
    for name, store in found.items():
        if store.tokenizer_fingerprint != tokenizer.fingerprint:
            raise BertJaxError(
                f"evaluate.stores {name}={store.path} was made by another tokenizer: prepare it with this one"
            )
    return found


def held_out_feed(store: Store, split: str, length: int, objective: str, plans: Path) -> AnyFeed:
    """The examples a model is evaluated on: one variant of the pairs under a fixed seed."""
    return make_feed(
        [store],
        split=split,
        length=length,
        seed=PAIR_SEED_OF_EVALUATION,
        objective=objective,
        variants=1,
        plan_dir=plans,
    )


def chance_of(store: Store, feed: AnyFeed) -> dict[str, float | None]:
    """What can be scored without reading: unigram entropy (nats), the commonest token's share, the commoner label's."""
    described = feed.describe()
    summary = store.manifest.get("summary", {})
    return {
        "chance_mlm_loss": summary.get("unigram_entropy"),
        "chance_mlm_accuracy": summary.get("commonest_token_share"),
        "chance_nsp_accuracy": described.get("majority_label_share"),
    }
