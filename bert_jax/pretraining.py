"""Pre-training and evaluation put together from the rooms: data → feed → program → loop → run directory."""

from __future__ import annotations

import dataclasses
import functools
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from bert_jax.config import Config, Train
from bert_jax.config import Mesh as MeshConfig
from bert_jax.config_files import load_config, override
from bert_jax.console import log
from bert_jax.data.drivers import batches
from bert_jax.data.pretraining import PretrainingData, chance_of, held_out_feed, open_pretraining_data
from bert_jax.data.store import Store, load_store
from bert_jax.errors import BertJaxError
from bert_jax.files import require_absent
from bert_jax.formats.model import LoadedModel, load_model
from bert_jax.model.flops import peak_flops, training_flops
from bert_jax.scale.show import vocabulary_of
from bert_jax.text.tokenizer import Tokenizer
from bert_jax.train.calibration import calibrate, provisional
from bert_jax.train.evaluation import Evaluation, make_evaluation
from bert_jax.train.loop import Feed, phase_spans, train
from bert_jax.train.program import Program, make_program
from bert_jax.train.reconcile import reconcile
from bert_jax.train.run import Run, create_run, is_run, on_first_process, open_run
from bert_jax.train.sharding import make_mesh
from bert_jax.train.state import resolve

OnMetrics = Callable[[dict[str, Any]], None]


def pretrain(
    config: str | Config,
    path: Path,
    *,
    init: str | None = None,
    change: bool = False,
    overrides: Sequence[str] = (),
    on_metrics: OnMetrics | None = None,
) -> dict[str, Any]:
    """Train the run at `path` to the end of `config`; the arguments are those of `bert_jax.pretrain`."""
    config = load_config(config)
    if overrides:
        config = override(config, list(overrides))
    if (config.train.steps is None) == (config.train.minutes is None):
        raise BertJaxError("give exactly one of train.steps and train.minutes: how long to train")
    data = open_pretraining_data(config, path, local=jax.process_count() == 1)
    config = dataclasses.replace(config, model=config.model.with_vocab_size(data.tokenizer.vocab_size))
    mesh = make_mesh(config.mesh)
    start = load_model(init) if init is not None else None
    _check_start(start, config, data.tokenizer)

    run = _open(path, config, data, mesh, init, change)
    if run.config.train.steps is None:
        trial = provisional(run.config)
        run.fix_steps(calibrate(run.config, *_materials(trial, data, mesh)))
    config = run.config
    programs, feed, evaluations = _materials(config, data, mesh)
    for name, choice in programs(0).choices.items():
        log(f"{name}: {choice.value} ({choice.reason})")
    return train(
        config,
        run,
        programs,
        feed,
        evaluations,
        on_metrics=on_metrics,
        init_params=start.params if start else None,
        chance=dataclasses.replace(data, config=config).chance(),
        flops=functools.partial(training_flops, config.model),
        peak_flops=peak_flops(mesh.devices.flat[0].device_kind, mesh.devices.size),
    )


def _open(path: Path, config: Config, data: PretrainingData, mesh: Any, init: str | None, change: bool) -> Run:
    """The run at `path`, continued where the configuration allows it, else made."""
    numerics = {name: str(choice.value) for name, choice in resolve(config.train, mesh).items()}

    def make() -> Run:
        if is_run(path):
            run = open_run(path)
            with run.lock():
                return reconcile(run, config, data.fingerprints, numerics, allow_change=change)
        # Hidden names are what a start that was killed left behind: the lock, a partial tokenizer.
        there = {item.name for item in path.iterdir() if not item.name.startswith(".")} if path.is_dir() else set()
        if init is None and there - {"data", "tokenizer"}:
            require_absent(path)
        return create_run(path, config, data.tokenizer, data.fingerprints, numerics, initialized_from=init)

    return on_first_process(path, make)


def _materials(
    config: Config, data: PretrainingData, mesh: Any
) -> tuple[Callable[[int], Program], Feed, dict[str, Evaluation]]:
    """What the loop is handed: the program of a phase, the feed from a step on, the evaluations by name."""
    data = dataclasses.replace(data, config=config)
    programs = functools.cache(lambda phase: make_program(config, phase, mesh, vocabulary_of(data.tokenizer)))
    evaluations = {name: _evaluation(config, data, name) for name in data.evaluation_stores}
    return programs, lambda step: _feed(config, data, step), evaluations


def _check_start(start: LoadedModel | None, config: Config, tokenizer: Tokenizer) -> None:
    if start is None:
        return
    if start.tokenizer.fingerprint != tokenizer.fingerprint:
        raise BertJaxError(
            f"--init {start.path} has another tokenizer ({start.tokenizer.fingerprint[:12]}) than the data "
            f"({tokenizer.fingerprint[:12]}): prepare the store with {start.path}'s tokenizer"
        )


def _feed(config: Config, data: PretrainingData, step: int) -> Iterator[Mapping[str, Any]]:
    """This process's batches from global step `step` to the end of its phase."""
    span = next(span for span in phase_spans(config) if step < span.end)
    return data.train_batches(span.phase, step - span.begin, jax.process_index(), jax.process_count())


def _evaluation(config: Config, data: PretrainingData, name: str) -> Evaluation:
    """Evaluation on one store, at the length of the phase that runs it."""

    @functools.cache
    def for_phase(index: int) -> Evaluation:
        phase = config.phases[index]
        feed = data.evaluation_feed(name, phase.length)
        chance = chance_of(data.evaluation_stores[name], feed)
        return _pass_over(feed, config.evaluate.sequences, config.evaluate.batch or phase.batch, chance)

    return lambda program, params: for_phase(program.phase_index)(program, params)


def _pass_over(feed: Any, sequences: int, batch: int, chance: Mapping[str, float | None]) -> Evaluation:
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
    )


def evaluate(
    model: str, store: str | None, *, split: str, length: int | None, batch: int, sequences: int
) -> dict[str, Any]:
    """Score a MODEL on one split of a token store; the arguments are those of `bert_jax.evaluate`."""
    loaded = load_model(model)
    opened = load_store(store) if store is not None else _own_store(loaded)
    if opened.tokenizer_fingerprint != loaded.tokenizer.fingerprint:
        raise BertJaxError(
            f"store {opened.path} was made by another tokenizer ({opened.tokenizer_fingerprint[:12]}) than "
            f"{loaded.path}'s ({loaded.tokenizer.fingerprint[:12]}): prepare one with {loaded.path}/tokenizer"
        )
    longest = loaded.config.max_position_embeddings
    length = length if length is not None else min(128, longest)
    objective = "mlm+nsp" if "next_sentence" in loaded.heads else "mlm"
    if loaded.kind == "run":
        objective = open_run(loaded.path).config.train.objective
    settings = Config(
        model=loaded.config,
        train=Train(length=length, batch=batch, predictions=math.ceil(0.15 * length), steps=1, objective=objective),  # type: ignore[arg-type]
        mesh=MeshConfig(),
    )
    program = make_program(settings, 0, make_mesh(settings.mesh), vocabulary_of(loaded.tokenizer))
    with tempfile.TemporaryDirectory(prefix="bert_jax_") as plans:
        feed = held_out_feed(opened, split, length, objective, Path(plans))
        scores = _pass_over(feed, sequences, batch, chance_of(opened, feed))(program, _placed(program, loaded.params))
    return {**scores, "step": loaded.step, "model": str(loaded.path), "store": str(opened.path), "length": length}


def _placed(program: Program, params: Any) -> Any:
    return jax.device_put(params, program.state_shardings.params)


def _own_store(loaded: LoadedModel) -> Store:
    """The token store a run was trained on, where it still lies."""
    if loaded.kind != "run":
        raise BertJaxError(f"{loaded.path} names no store: give one with --store")
    run = open_run(loaded.path)
    wanted = run.fingerprints.get("store")
    data = run.config.data
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
