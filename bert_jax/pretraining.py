"""Pre-training put together from the rooms: data → feed → program → loop → run directory."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from bert_jax.config import Config
from bert_jax.config_files import load_config, override
from bert_jax.console import log, warn
from bert_jax.data.from_sources import leaving_no_empty_cache
from bert_jax.data.pretraining import PretrainingData, chance_of, open_pretraining_data
from bert_jax.errors import BertJaxError, UsageError
from bert_jax.evaluating import pass_over
from bert_jax.files import make_directory, require_absent
from bert_jax.formats.model import LoadedModel, load_model
from bert_jax.model.bert import abstract_parameters
from bert_jax.model.flops import peak_flops, training_flops
from bert_jax.text.tokenizer import Tokenizer, load_tokenizer
from bert_jax.train.calibration import calibrate, provisional
from bert_jax.train.evaluation import Evaluation
from bert_jax.train.loop import Feed, train
from bert_jax.train.masking import vocabulary_of
from bert_jax.train.memory import evaluation_batch
from bert_jax.train.program import Program, check_parameters, make_program
from bert_jax.train.reconcile import as_calibrated, reconcile
from bert_jax.train.run import Run, create_run, is_run, on_first_process, open_run, restore_tokenizer, with_steps
from bert_jax.train.sharding import make_mesh, rows_per_split
from bert_jax.train.starting import architecture_of, starting_parameters
from bert_jax.train.state import resolve, resolve_attention

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
        raise UsageError("give exactly one of train.steps and train.minutes: how long to train")
    existing = open_run(path) if is_run(path) else None
    init = _initial_model(existing, init)
    if existing is not None:
        config = as_calibrated(existing, config)
    known = None if existing is None else existing.fingerprints.get("store")
    start = load_model(init) if init is not None else None
    with leaving_no_empty_cache(path, config.data.cache):
        config = _as_begun(config, overrides, existing, start, path)
        fixed = existing.facts.get("set_aside", []) if existing is not None else None
        local = jax.process_count() == 1
        data = open_pretraining_data(config, path, local=local, known_store=known, fixed_records=fixed)
        config = dataclasses.replace(config, model=config.model.with_vocab_size(data.tokenizer.vocab_size))
        mesh = make_mesh(config.mesh)
        _check_start(start, config, data.tokenizer)

        # Whatever is wrong with the settings is said before a run directory is made.
        minutes = config.train.minutes
        if minutes is not None:
            trial = _materials(provisional(config), data, mesh)
            trial.check(None)
            config = with_steps(config, calibrate(config, trial.programs, trial.feed, trial.evaluations, path))
        materials = _materials(config, data, mesh)
        initial = materials.starting_parameters(start) if start is not None else None
        materials.check(initial)
        run = _open(path, config, data, mesh, init, change, minutes)
    bad_records = _tell_set_aside(data.set_aside, config.data.max_bad_records)
    for name, choice in materials.programs(0).choices.items():
        log(f"{name}: {choice.value} ({choice.reason})")
    for index, phase in enumerate(config.phases[1:], start=1):
        choice = resolve_attention(config.train.attention, config.model, phase.length, mesh)
        log(f"attention of phase {index}: {choice.value} ({choice.reason})")
        if "accumulation" in (choices := materials.programs(index).choices):
            log(f"accumulation of phase {index}: {choices['accumulation'].value} ({choices['accumulation'].reason})")
    return train(
        config,
        run,
        materials.programs,
        materials.feed,
        materials.evaluations,
        on_metrics=on_metrics,
        init_params=initial,
        chance=dataclasses.replace(data, config=config).chance(),
        flops=functools.partial(training_flops, config.model),
        peak_flops=peak_flops(mesh.devices.flat[0].device_kind, mesh.devices.size),
        constants={"bad_records": bad_records} if data.records else {},
    )


def _tell_set_aside(places: Sequence[Mapping[str, Any]], most: int) -> int:
    """Warn of the damaged records that are not trained on; how many they are, at most."""
    count = sum(place["most"] for place in places)
    if places:
        first = [f"{place['name']}: record {place['record']} at byte {place['byte']}" for place in places[:5]]
        more = f" and {len(places) - 5} more" if len(places) > 5 else ""
        warn(
            f"{count} damaged records are set aside and not trained on ({', '.join(first)}{more}); the run's "
            f"data.max_bad_records is {most}, and its run.json keeps which they are"
        )
    return count


def _initial_model(existing: Run | None, init: str | None) -> str | None:
    """The MODEL to start from: of a run that began with one and saved no step yet, that one again.

    Errors: `BertJaxError` for another one than the run's.
    """
    if existing is None:
        return init
    began = existing.initialized_from
    if init is not None and init != began:
        raise BertJaxError(
            f"{existing.path} was begun from {began or 'fresh parameters'}, not from --init {init}: "
            "leave --init out to continue it, or give another --run"
        )
    return None if existing.newest_step else began


def _as_begun(
    config: Config, overrides: Sequence[str], existing: Run | None, start: LoadedModel | None, path: Path
) -> Config:
    """`config` with the architecture, and for sources and records the tokenizer, of the MODEL that the run begins from.

    `overrides`: what the user asked for this run, which has to be as the MODEL has it.
    """
    if existing is not None and existing.initialized_from:
        origin, fingerprint = existing.pretraining.model, existing.fingerprints["tokenizer"]
    elif start is not None:
        origin, fingerprint = start.config, start.tokenizer.fingerprint
    else:
        return config
    names = [item.name for item in dataclasses.fields(config.model)]
    given = {override.partition("=")[0].replace("-", "_") for override in overrides}
    asked = [name for name in names if f"__model.{name}" in given]
    if "__data.vocab_size" in given:
        raise BertJaxError("--data.vocab-size is for a new vocabulary, and --init brings its own: leave it out")
    config = dataclasses.replace(config, model=architecture_of(origin, config.model, asked))
    data = config.data
    if not (data.sources or data.records) or data.tokenizer is not None:
        return config
    folder = (Path(data.cache) if data.cache else path / "data") / f"tokenizer-{fingerprint[:12]}"
    if not folder.is_dir():
        tokenizer = start.tokenizer if start is not None else load_tokenizer(existing.tokenizer)  # type: ignore[union-attr]
        make_directory(folder, tokenizer.save)
    return dataclasses.replace(config, data=dataclasses.replace(data, tokenizer=str(folder), vocab_size=None))


def _open(
    path: Path, config: Config, data: PretrainingData, mesh: Any, init: str | None, change: bool, minutes: float | None
) -> Run:
    """The run at `path`, continued where the configuration allows it, else made."""
    numerics = {name: str(choice.value) for name, choice in resolve(config.train, mesh).items()}
    attention = config.train.attention
    engines = [resolve_attention(attention, config.model, phase.length, mesh).value for phase in config.phases]
    numerics["attention"] = ", ".join(dict.fromkeys(engines))

    def make() -> Run:
        if is_run(path):
            run = open_run(path)
            with run.lock():
                run = reconcile(run, config, data.fingerprints, numerics, allow_change=change)
                restore_tokenizer(run, data.tokenizer)
                return run
        # Hidden names are what a start that was killed left behind: the lock, a partial tokenizer.
        there = {item.name for item in path.iterdir() if not item.name.startswith(".")} if path.is_dir() else set()
        if there - {"data", "tokenizer"}:
            require_absent(path)
        return create_run(
            path,
            config,
            data.tokenizer,
            data.fingerprints,
            numerics,
            initialized_from=init,
            calibrated_minutes=minutes,
            facts={"set_aside": data.set_aside} if data.set_aside else None,
        )

    return on_first_process(path, make)


class _Materials(NamedTuple):
    """What the loop is handed: the program of a phase, the feed from a step on, the evaluations by name."""

    config: Config
    programs: Callable[[int], Program]
    feed: Feed
    evaluations: dict[str, Evaluation]

    def starting_parameters(self, start: LoadedModel) -> dict[str, Any]:
        """What the first phase's model starts from."""
        return starting_parameters(start.params, self.programs(0).model, self.config.train.seed)

    def check(self, initial: dict[str, Any] | None) -> None:
        """Make every phase's program, which compiles nothing. Errors: `BertJaxError` for settings that cannot be."""
        for index in range(len(self.config.phases)):
            program = self.programs(index)
        if initial is not None:
            check_parameters(initial, abstract_parameters(program.model))
        batch, split = self.config.evaluate.batch, rows_per_split(program.mesh)
        if batch is not None and batch % split:
            raise BertJaxError(f"evaluate.batch is {batch}: expected a multiple of {split} (mesh data × fsdp)")


def _materials(config: Config, data: PretrainingData, mesh: Any) -> _Materials:
    data = dataclasses.replace(data, config=config)
    data.check_feeds()
    programs = functools.cache(lambda phase: make_program(config, phase, mesh, vocabulary_of(data.tokenizer)))
    evaluations = {name: _evaluation(config, data, name, mesh) for name in data.evaluation_stores}
    return _Materials(config, programs, lambda step: _feed(config, data, step), evaluations)


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
    span = config.span_at(step)
    return data.train_batches(span.phase, step - span.begin, jax.process_index(), jax.process_count())


def _evaluation(config: Config, data: PretrainingData, name: str, mesh: Any) -> Evaluation:
    """Evaluation on one store, at the length of the phase that runs it."""

    @functools.cache
    def for_phase(index: int) -> Evaluation:
        phase = config.phases[index]
        feed = data.evaluation_feed(name, phase.length)
        chance = chance_of(data.evaluation_stores[name], feed)
        batch = evaluation_batch(config, phase, mesh, config.evaluate.batch or phase.batch)
        return pass_over(feed, config.evaluate.sequences, batch, chance)

    return lambda program, params: for_phase(program.phase_index)(program, params)
