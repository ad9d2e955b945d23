"""`show`: the very examples a step trains on, made by the functions the step itself uses.

The feed gives the examples of the step's positions, the step's own masking draws the masks from the same seed and
epoch. Both are pure functions, so nothing is replayed or skipped: any step is shown at once.
"""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from bert_jax.config import Config, Data, Train
from bert_jax.config_files import check_values
from bert_jax.data.feed import AnyFeed
from bert_jax.data.pretraining import open_pretraining_data
from bert_jax.errors import BertJaxError, UsageError, bad_usage
from bert_jax.files import to_json
from bert_jax.formats.model import find_model
from bert_jax.text.tokenizer import Tokenizer
from bert_jax.train.masking import vocabulary_of
from bert_jax.train.run import open_run
from bert_jax.train.step import make_masked

_LABELS = {"mlm+nsp": ("next", "random"), "mlm+sop": ("in order", "swapped")}


class Shown(NamedTuple):
    """What `show` looks at: a configuration, the feed of one of its phases, and the tokenizer of its ids."""

    config: Config
    phase_index: int
    feed: AnyFeed
    tokenizer: Tokenizer
    fingerprints: dict[str, str]


def shown_examples(shown: Shown, step: int, count: int) -> Iterator[dict[str, Any]]:
    """The first `count` examples of global step `step` as JSON values.

    Each: `step row position epoch example_id label b_is a b tokens masks`. `tokens` are the original pieces, specials
    included, without padding; `masks` has `position original input change` for every prediction, `change` being
    `mask` (80 %), `random` or `kept` (10 % each; a random draw that happens to be the original counts as kept).
    Of packed rows each example is shown by itself, its `place` in the row and the token it begins at (`begin`) besides.
    """
    span = shown.config.span_at(step)
    assert span.phase == shown.phase_index, (step, span, shown.phase_index)
    phase_index, inside = span.phase, step - span.begin
    batch = shown.config.phases[phase_index].batch
    positions = np.arange(inside * batch, inside * batch + min(count, batch), dtype=np.int64)
    examples = shown.feed.examples(positions)
    masked = jax.jit(make_masked(shown.config, phase_index, vocabulary_of(shown.tokenizer), shown.config.train.seed))
    arrays = {name: np.asarray(array) for name, array in masked(examples).items()}
    for row, place in _first(arrays, count):
        where: dict[str, Any] = {"step": step, "row": row, "position": int(positions[row])}
        for name, key in (("epochs", "epoch"), ("example_ids", "example_id")):
            if name in examples:
                where[key] = int(examples[name][row] if place is None else examples[name][row, place])
        if place is not None:
            where |= {"place": place, "begin": int(arrays["cls_positions"][row, place])}
        yield where | _example(shown, arrays, row, place)


def _first(arrays: Mapping[str, np.ndarray], count: int) -> list[tuple[int, int | None]]:
    """The first `count` examples of a batch: row, and the place in it where rows are packed."""
    if "sequence_ids" not in arrays:
        return [(row, None) for row in range(len(arrays["input_ids"]))]
    found: list[tuple[int, int | None]] = []
    for row, held in enumerate(arrays["sequence_ids"].max(axis=1).tolist()):
        found += [(row, place) for place in range(held)]
    return found[:count]


def _example(shown: Shown, arrays: Mapping[str, np.ndarray], row: int, place: int | None) -> dict[str, Any]:
    """Label, texts, tokens and masks of one row of a masked batch, or of one example of a packed row."""
    tokenizer, objective = shown.tokenizer, shown.config.train.objective
    own = arrays["input_mask"][row].astype(bool) if place is None else arrays["sequence_ids"][row] == place + 1
    begin, end = int(own.argmax()), int(own.argmax() + own.sum())
    inputs = arrays["input_ids"][row, begin:end]
    places = arrays["masked_lm_positions"][row]
    counted = (arrays["masked_lm_weights"][row] > 0) & (places >= begin) & (places < end)
    places = places[counted] - begin
    original = inputs.copy()
    original[places] = arrays["masked_lm_ids"][row][counted]
    second = arrays["segment_ids"][row, begin:end].astype(bool)
    label = int(arrays["next_sentence_labels"][row] if place is None else arrays["next_sentence_labels"][row, place])
    pieces = tokenizer.pieces(original.tolist())
    shown_pieces = tokenizer.pieces(inputs[places].tolist())
    masks = [
        {
            "position": at,
            "original": pieces[at],
            "input": piece,
            "change": _change(int(inputs[at]), int(original[at]), tokenizer.mask_id),
        }
        for at, piece in zip(places.tolist(), shown_pieces, strict=True)
    ]
    return {
        "label": None if objective == "mlm" else label,
        "b_is": _LABELS[objective][label] if objective in _LABELS else None,
        "a": tokenizer.decode(original[~second].tolist()),
        "b": tokenizer.decode(original[second].tolist()) if second.any() else None,
        "tokens": pieces,
        "masks": masks,
    }


def _change(shown: int, original: int, mask_id: int) -> str:
    if shown == mask_id:
        return "mask"
    return "kept" if shown == original else "random"


def as_text(example: Mapping[str, Any]) -> Iterator[str]:
    """One example for a person to read: where it stands, its pieces with the masks marked, and a blank line."""
    pair = "" if example["b_is"] is None else f", B is {example['b_is']} (label {example['label']})"
    where = ", ".join(f"{name} {example[name]}" for name in ("epoch", "example_id") if name in example)
    changes = [mask["change"] for mask in example["masks"]]
    tally = ", ".join(f"{changes.count(kind)} {kind}" for kind in ("mask", "random", "kept"))
    packed = f" place {example['place']} from token {example['begin']}" if "place" in example else ""
    yield (
        f"step {example['step']} row {example['row']}{packed} ({where or 'record'}): "
        f"{len(example['tokens'])} tokens{pair}; "
        f"{len(changes)} predictions: {tally}"
    )
    marked = list(example["tokens"])
    for mask in example["masks"]:
        arrow = mask["input"] if mask["change"] != "kept" else "kept"
        marked[mask["position"]] = f"{{{mask['original']}→{arrow}}}"
    yield f"  {' '.join(marked)}"
    yield ""


def show(
    store_or_run: str | os.PathLike[str],
    step: int = 0,
    count: int = 3,
    *,
    json: bool = False,
    store: str | None = None,
    length: int | None = None,
    batch: int | None = None,
    seed: int | None = None,
    whole_words: bool = False,
    packing: int | None = None,
) -> Iterator[str]:
    """Lines that show the first `count` examples of `step`: text for a person, or a JSON object each with `json`.

    A run has its settings; `store` says where its store lies now. Of a token store, `length` (128), `batch` (256),
    `seed` (0), `whole_words` and `packing` (1) say how it would be trained on. Errors: `UsageError` for an option of
    the other kind, `BertJaxError` for a step past the end, a run whose store is not there or is another one.
    """
    if step < 0 or count < 1:
        raise UsageError(f"step {step}, count {count}: expected a step from 0 and a count from 1")
    path = Path(store_or_run)
    is_store = (path / "manifest.json").is_file()
    of_a_store = {"length": length, "batch": batch, "seed": seed, "whole-words": whole_words or None}
    of_a_store |= {"packing": packing}
    misplaced = [name for name, value in ({"store": store} if is_store else of_a_store).items() if value is not None]
    if misplaced:
        kind, other = ("a token store", "a run") if is_store else ("a run, which has its own", "a token store")
        raise UsageError(f"--{misplaced[0]} is for {other}, and {path} is {kind}: leave it out")
    with tempfile.TemporaryDirectory() as plans:
        if is_store:
            train = Train(
                length=128 if length is None else length,
                batch=256 if batch is None else batch,
                seed=0 if seed is None else seed,
                steps=step + 1,
                whole_words=whole_words,
                packing=1 if packing is None else packing,
            )
            train = dataclasses.replace(train, predictions=math.ceil(train.masked_share * train.length))
            with bad_usage():
                check_values(train)
            shown = shown_step(Config(data=Data(store=(str(path),), cache=plans), train=train), path, step)
        else:
            shown = shown_run(path, step, store)
        for example in shown_examples(shown, step, count):
            yield from [to_json(example)] if json else as_text(example)


def shown_run(path: Path, step: int, store: str | None = None) -> Shown:
    """A run as it trains at `step`, on its own store or on the same one at `store`."""
    kind, path, _ = find_model(path)
    if kind.name != "run":
        raise BertJaxError(f"{path} is {kind.title}: give a token store or a run directory")
    run = open_run(path)
    config = run.pretraining
    for spec in config.data.store if store is None else ():
        if not (Path(spec).exists() or Path(spec.rpartition("=")[0] or spec).exists()):
            raise BertJaxError(f"the store of {path}, {spec}, is not there: say with --store where it lies now")
    if store is not None:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, store=(store,), sources=()))
    shown = shown_step(config, path, step, run.fingerprints.get("store"), run.facts.get("set_aside", []))
    for name, fingerprint in shown.fingerprints.items():
        expected = run.fingerprints.get(name)
        if expected != fingerprint:
            raise BertJaxError(
                f"{path} was trained on {name} {str(expected)[:12]}, found is {fingerprint[:12]}: "
                "name the store it was trained on with --store"
            )
    return shown


def shown_step(
    config: Config,
    folder: Path,
    step: int,
    known_store: str | None = None,
    fixed_records: Sequence[dict[str, Any]] | None = None,
) -> Shown:
    """What `config` trains on at `step`; `folder` is where a run of it would keep its data."""
    if step >= config.total_steps:
        raise BertJaxError(f"step {step} is not one of this run's: it has steps 0 to {config.total_steps - 1}")
    phase_index = config.span_at(step).phase
    data = open_pretraining_data(config, folder, local=True, known_store=known_store, fixed_records=fixed_records)
    return Shown(config, phase_index, data.train_feed(phase_index), data.tokenizer, data.fingerprints)
