"""Scores of a model on held-out documents, put together from the rooms: model → store → feed → evaluation."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from bert_jax.arguments import require_at_least
from bert_jax.config import Config, Train
from bert_jax.config import Mesh as MeshConfig
from bert_jax.config_files import check_values
from bert_jax.console import progress
from bert_jax.data.drivers import batches
from bert_jax.data.pretraining import chance_of, held_out_feed
from bert_jax.data.store import Store, load_store
from bert_jax.errors import BertJaxError, bad_usage
from bert_jax.formats.model import LoadedModel, load_model
from bert_jax.train.evaluation import Evaluation, make_evaluation
from bert_jax.train.masking import vocabulary_of
from bert_jax.train.program import make_program
from bert_jax.train.run import open_run
from bert_jax.train.sharding import make_mesh
from bert_jax.train.starting import starting_parameters


def pass_over(
    feed: Any,
    sequences: int,
    batch: int,
    chance: Mapping[str, float | None],
    advance: Callable[[int], None] | None = None,
) -> Evaluation:
    """One pass over the first `sequences` examples of a feed, in batches that are no larger than needed."""
    sequences = min(sequences, feed.rows_per_epoch(0))
    count, index = jax.process_count(), jax.process_index()
    devices = jax.device_count()
    batch = min(batch, -(-sequences // devices) * devices)
    steps = -(-sequences // batch)
    return make_evaluation(
        lambda: batches(feed, 0, steps, batch, process_index=index, process_count=count, driver="thread"),
        sequences,
        batch,
        chance,
        advance,
    )


def evaluate(
    model: str,
    store: str | None,
    *,
    split: str,
    length: int | None,
    batch: int,
    sequences: int,
    whole_words: bool,
    masked_share: float,
) -> dict[str, Any]:
    """Score a MODEL on one split of a token store; the arguments are those of `bert_jax.evaluate`."""
    with bad_usage():
        require_at_least(1, sequences=sequences)
        check_values(Train(length=5 if length is None else length, batch=batch, masked_share=masked_share))
    loaded = load_model(model)
    if "masked_lm" not in loaded.heads:
        raise BertJaxError(
            f"{model} has no masked_lm head (it has {', '.join(loaded.heads) or 'none'}) that could be scored: "
            "give a pre-trained model that was published with its heads"
        )
    opened = load_store(store) if store is not None else _own_store(loaded)
    if opened.tokenizer_fingerprint != loaded.tokenizer.fingerprint:
        raise BertJaxError(
            f"store {opened.path} was made by another tokenizer ({opened.tokenizer_fingerprint[:12]}) than "
            f"{loaded.path}'s ({loaded.tokenizer.fingerprint[:12]}): prepare one with {loaded.path}/tokenizer"
        )
    longest = loaded.config.max_position_embeddings
    length = length if length is not None else min(128, longest)
    if length > longest:
        raise BertJaxError(f"--length {length}: {loaded.path} has {longest} positions; give no more")
    usual = Train(objective="mlm+nsp" if "next_sentence" in loaded.heads else "mlm")
    own = open_run(loaded.path).pretraining.train if loaded.kind == "run" else usual
    train = Train(
        objective=own.objective,
        length=length,
        batch=batch,
        predictions=math.ceil(masked_share * length),
        steps=1,
        masked_share=masked_share,
        whole_words=whole_words,
    )
    settings = Config(model=loaded.config, train=train, mesh=MeshConfig())
    check_values(settings)
    if whole_words and not opened.has_word_starts:
        raise BertJaxError(
            f"--whole-words: store {opened.path} does not know where words begin: prepare it with --segmenter"
        )
    program = make_program(settings, 0, make_mesh(settings.mesh), vocabulary_of(loaded.tokenizer))
    opened.verify(split)
    with tempfile.TemporaryDirectory(prefix="bert_jax_") as plans:
        feed = held_out_feed(opened, split, length, train.objective, Path(plans))
        params = program.place_params(starting_parameters(loaded.params, program.model, 0))
        sequences = min(sequences, feed.rows_per_epoch(0))
        with progress("evaluating", sequences, "sequences") as advance:
            scores = pass_over(feed, sequences, batch, chance_of(opened, feed), advance)(program, params)
    made = {"model": str(loaded.path), "store": str(opened.path), "length": length}
    return {**scores, "step": loaded.step, **made, "masked_share": masked_share, "whole_words": whole_words}


def _own_store(loaded: LoadedModel) -> Store:
    """The token store a run was trained on, where it still lies."""
    if loaded.kind != "run":
        raise BertJaxError(f"{loaded.path} names no store: give one with --store")
    run = open_run(loaded.path)
    wanted = run.fingerprints.get("store")
    if wanted is None:
        raise BertJaxError(f"{run.path} was not trained on one token store: name the one to evaluate with --store")
    data = run.pretraining.data
    cache = Path(data.cache) if data.cache else run.path / "data"
    places = [*(Path(spec.rpartition("=")[0] or spec) for spec in data.store), *sorted(cache.glob("store-*"))]
    for place in places:
        if (place / "manifest.json").is_file():
            store = load_store(place)
            if store.fingerprint == wanted:
                return store
    raise BertJaxError(
        f"the store that {run.path} was trained on (fingerprint {str(wanted)[:12]}) was not found: name it with --store"
    )
