"""Whether a run may be continued with another configuration, by the kind of each field that differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bert_jax.config import Config, Kind, Phase
from bert_jax.config_files import Difference, differences
from bert_jax.console import warn
from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import AnyConfig
from bert_jax.train.run import Run, numerics_of, with_steps


def reconcile(
    run: Run,
    new_config: AnyConfig,
    fingerprints: Mapping[str, str],
    numerics: Mapping[str, Any],
    allow_change: bool = False,
) -> Run:
    """Bring `run` to `new_config`, or refuse; call it under `run.lock()`. Writes `run.json` and `history.jsonl`.

    * identity (fingerprints among them): refused, the field named;
    * schedule: refused without `allow_change`, else recorded with step, old and new value;
    * numerics: one warning and a history line;
    * free: taken over.

    Errors: `BertJaxError` naming the fields, their old and new values, and what to do.
    """
    if type(run.config) is not type(new_config):
        raise BertJaxError(f"{run.path} is a run of another kind (pretrain, finetune): give another --run")
    if isinstance(new_config, Config):
        new_config = as_calibrated(run, new_config)
    numerics = numerics_of(numerics)
    step = run.newest_step
    found = differences(run.config, new_config)
    if dict(fingerprints) == run.fingerprints:
        from_sources = _from_sources(run.config) and _from_sources(new_config)
        found = [item for item in found if not _says_how_the_store_was_made(item.path, from_sources)]
        if isinstance(run.config, Config) and isinstance(new_config, Config) and from_sources:
            sources = run.config.data.sources  # what the store was made of stays on record, wherever that lies today
            new_config = replace(new_config, data=replace(new_config.data, sources=sources))
    phases = _phase_differences(run.config, new_config, step)
    schedule = [item for item in found if item.kind == "schedule" and not item.path.startswith("train.later_phases")]
    identity = [item for item in found if item.kind == "identity"]
    identity += [item for item in phases if item.kind == "identity"]
    identity += _mapping_differences("identity", "fingerprint of ", run.fingerprints, fingerprints)
    schedule += [item for item in phases if item.kind == "schedule"]
    numeric = [item for item in (*found, *phases) if item.kind == "numerics"]
    numeric += _mapping_differences("numerics", "", run.numerics, numerics)

    if identity:
        raise BertJaxError(
            f"{run.path} is another run: {_listed(identity)}; "
            f"give another --run (with --init {run.path} to start from this one)"
        )
    _check_schedule(run, new_config, schedule, step, allow_change)
    for item in schedule:
        run.record("schedule", step=step, field=item.path, old=item.old, new=item.new)
    if numeric:
        warn(f"{run.path} goes on with other numerics, so not bit for bit as before: {_listed(numeric)}")
        for item in numeric:
            run.record("numerics", step=step, field=item.path, old=item.old, new=item.new)
    run.config, run.numerics = new_config, numerics
    run.write()
    return run


def _from_sources(config: AnyConfig) -> bool:
    return isinstance(config, Config) and bool(config.data.sources)


def _says_how_the_store_was_made(path: str, from_sources: bool) -> bool:
    """Whether a field only says from what, or how, a store is made: the same store may be named in other words.

    The sources' own names never count; the settings do when it is made from sources there and here.
    """
    section, _, name = path.partition(".")
    return section == "data" and name != "variants" and (name == "sources" or not from_sources)


def as_calibrated(run: Run, config: Config) -> Config:
    """`train.minutes` given again means the steps it was calibrated to.

    Errors: `BertJaxError` for other minutes than the run's.
    """
    minutes = config.train.minutes
    if minutes is None:
        return config
    if minutes != run.calibrated_minutes:
        raise BertJaxError(
            f"train.minutes is {minutes}, {run.path} has {run.config.total_steps} steps already: "
            "minutes choose the steps of a new run; give --train.steps N --change instead"
        )
    assert isinstance(run.config, Config) and run.config.train.steps is not None, run.path  # before a run is made
    return with_steps(config, run.config.train.steps)


_BEGUN: dict[str, Kind] = {
    **dict.fromkeys(("length", "batch", "predictions", "packing"), "identity"),
    "row_predictions": "numerics",
}
"""Kinds of the fields of a phase that has begun; of one still ahead all are its schedule."""


def _phase_differences(old: AnyConfig, new: AnyConfig, step: int) -> list[Difference]:
    """What differs in the later phases, field by field: identity in phases that have begun, schedule in those ahead."""
    before, after = old.later_phases, new.later_phases
    if before == after:
        return []
    found, start = [], old.spans[0].end
    for index in range(max(len(before), len(after))):
        was = before[index] if index < len(before) else None
        now = after[index] if index < len(after) else None
        begun = was is not None and step > start
        found += _one_phase(f"train.later_phases.{index}", was, now, begun)
        start += was.steps if was else 0
    return found


def _one_phase(path: str, was: Phase | None, now: Phase | None, begun: bool) -> list[Difference]:
    if was is None or now is None:
        return [Difference(path, "identity" if begun else "schedule", was, now)]
    return [
        Difference(
            f"{path}.{name}",
            _BEGUN.get(name, "schedule") if begun else "schedule",
            getattr(was, name),
            getattr(now, name),
        )
        for name in Phase.__dataclass_fields__
        if getattr(was, name) != getattr(now, name)
    ]


def _mapping_differences(kind: Any, prefix: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Difference]:
    names = [*old, *(name for name in new if name not in old)]
    return [
        Difference(f"{prefix}{name}", kind, old.get(name), new.get(name))
        for name in names
        if old.get(name) != new.get(name)
    ]


def _check_schedule(run: Run, new: AnyConfig, changed: list[Difference], step: int, allow_change: bool) -> None:
    if not changed:
        return
    if not allow_change:
        raise BertJaxError(
            f"the schedule of {run.path} differs at step {step}: {_listed(changed)}; "
            "give --change to go on with the new one, or another --run"
        )
    for (index, start, end), now in zip(run.config.spans, new.spans, strict=False):
        steps = now.end - now.begin
        if step > end and steps != end - start:
            raise BertJaxError(
                f"phase {index} of {run.path} ended at step {end}, before step {step}: "
                f"its steps cannot become {steps}; change a phase still ahead, or give another --run"
            )
        if start <= step <= end and start + steps < step:
            raise BertJaxError(
                f"{run.path} stands at step {step}: phase {index} cannot end at {start + steps}; "
                "give more steps, or another --run"
            )


def _listed(items: list[Difference]) -> str:
    return ", ".join(f"{item.path} is {_short(item.old)} there and {_short(item.new)} here" for item in items)


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 40 else text[:12] if all(c in "0123456789abcdef" for c in text) else text[:37] + "..."
