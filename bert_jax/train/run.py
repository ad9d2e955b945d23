"""A run directory: what is being trained, from what, and everything that came of it.

```
run.json        the resolved configuration, fingerprints, resolved numerics, versions, a format number
tokenizer/      the tokenizer directory (works with Hugging Face too)
checkpoints/    one directory per saved step
metrics.jsonl   one line per log interval and per evaluation
history.jsonl   one line per start and per change of configuration
tensorboard/    the same metrics as event files
```

No path inside is absolute: a run may be moved. What may differ when it is started again depends on the field's kind
(see config.py); `reconcile` holds those rules.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.metadata
import platform
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bert_jax import files
from bert_jax.config import Config
from bert_jax.config_files import from_dict, to_dict
from bert_jax.console import warn
from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import AnyConfig, FinetuneConfig

RUN_FORMAT = 1
RUN_FILE = "run.json"
STEP = re.compile(r"0|[1-9][0-9]{0,17}")
"""What a step's directory is called: as `str(step)` has it, and no number that no training reaches."""
_KINDS: dict[str, type[Config] | type[FinetuneConfig]] = {"pretraining": Config, "finetuning": FinetuneConfig}
_SAVED = ("started", "saved", "stopped", "finished")
"""Events of `history.jsonl` whose step, where it is not 0, was on disk."""
_PACKAGES = ("bert-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclass
class Run:
    """One run directory, opened. `fingerprints` name the tokenizer and the data; `numerics` what was resolved.

    `facts`: of a fine-tuned run, what its model is besides (see `bert_jax.finetuning`); of a pre-training run, the
    damaged records that it began without (`set_aside`, see `data.records_index`); in JSON values.
    """

    path: Path
    config: AnyConfig
    fingerprints: dict[str, str]
    numerics: dict[str, Any]
    initialized_from: str | None = None
    calibrated_minutes: float | None = None
    created: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    _locked: bool = field(default=False, repr=False)

    @property
    def pretraining(self) -> Config:
        """The configuration of a pre-training run. Errors: `BertJaxError` for a fine-tuned one."""
        if not isinstance(self.config, Config):
            raise BertJaxError(f"{self.path} is a fine-tuned run, made by finetune: expected one made by pretrain")
        return self.config

    @property
    def tokenizer(self) -> Path:
        """The tokenizer directory."""
        return self.path / "tokenizer"

    @property
    def checkpoints(self) -> Path:
        """Holds one directory per saved step."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """One JSON line per log interval and per evaluation."""
        return self.path / "metrics.jsonl"

    @property
    def history(self) -> Path:
        """One JSON line per start and per change."""
        return self.path / "history.jsonl"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard event files."""
        return self.path / "tensorboard"

    @property
    def profile(self) -> Path:
        """jax traces."""
        return self.path / "profile"

    @property
    def newest_step(self) -> int:
        """The newest saved step, 0 when there is none."""
        return max((int(path.name) for path in self.checkpoints.glob("*") if STEP.fullmatch(path.name)), default=0)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only writer; may be held again by the same `Run` object. A process that dies lets go.

        Errors: `BertJaxError` when another writer holds it.
        """
        if self._locked:
            yield
            return
        with files.lock(self.path / ".lock", wait=False):
            self._locked = True
            try:
                yield
            finally:
                self._locked = False

    def write(self) -> None:
        """Write `run.json`, atomically; the first process only."""
        if not _is_first_process():
            return
        values = {
            "format": RUN_FORMAT,
            "kind": next(kind for kind, of in _KINDS.items() if isinstance(self.config, of)),
            "created": self.created,
            "config": to_dict(self.config),
            "fingerprints": self.fingerprints,
            "numerics": self.numerics,
            "versions": versions(),
            "initialized_from": self.initialized_from,
            "calibrated_minutes": self.calibrated_minutes,
            **({"facts": self.facts} if self.facts else {}),
        }
        files.write_json(self.path / RUN_FILE, {**values, "checksum": files.digest(values)})

    def record(self, event: str, **details: Any) -> None:
        """Add one line to `history.jsonl`; the first process only. Errors: `BertJaxError` when it cannot be written."""
        if not _is_first_process():
            return
        line = files.to_json({"time": now(), "event": event, **details})
        with files.clear_errors("write", self.history):
            files.append_line(self.history, line)

    def require_nothing_lost(self) -> None:
        """Before a training begins at step 0. Errors: `BertJaxError` when the run has had checkpoints by its history.

        They were removed, or lie on a disk that is not mounted: beginning anew would drop the metrics as well.
        """
        saved = 0
        for line in self.history.read_text("utf-8", errors="replace").splitlines() if self.history.is_file() else ():
            with contextlib.suppress(ValueError):
                values = files.parse_json(line)
                if isinstance(values, dict) and values.get("event") in _SAVED and isinstance(values.get("step"), int):
                    saved = max(saved, values["step"])
        if saved:
            raise BertJaxError(
                f"{self.path} has had checkpoints, up to step {saved} at least ({self.history.name}), and holds none "
                "now: put them back (is their disk mounted?), or give another --run"
            )

    def note(self, event: str, **details: Any) -> None:
        """`record`, but what cannot be written is only warned of: of what the training need not stop for."""
        try:
            self.record(event, **details)
        except BertJaxError as error:
            warn(f"{error}; training goes on, the line {event!r} is missing there")


def _is_first_process() -> bool:
    import jax

    return jax.process_index() == 0


def on_first_process(path: str | Path, make: Callable[[], Run]) -> Run:
    """`make()` (create or reconcile) on the first process; the others open what it made, or fail with it."""
    import jax

    if jax.process_count() == 1:
        return make()
    from jax.experimental import multihost_utils

    run: Run | None = None
    failure: Exception | None = None
    if _is_first_process():
        try:
            run = make()
        except Exception as error:  # whatever it is: the others wait for word
            failure = error
    good = bool(multihost_utils.broadcast_one_to_all(jax.numpy.int32(failure is None)))
    if failure is not None:
        raise failure
    if not good:
        raise BertJaxError(f"the first process could not open {path}: see its message")
    return run or open_run(path)


def now() -> str:
    """The time, ISO 8601, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide numbers."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def numerics_of(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the bits: the resolved settings (compute dtype, attention engine, …) and the versions of jax."""
    found = versions()
    return {**resolved, **{name: found[name] for name in ("jax", "jaxlib") if name in found}}


def with_steps(config: Config, steps: int) -> Config:
    """`config` with `train.steps` instead of `train.minutes`."""
    return dataclasses.replace(config, train=dataclasses.replace(config.train, steps=steps, minutes=None))


def is_run(path: str | Path) -> bool:
    """Whether `path` is a run directory."""
    return (Path(path) / RUN_FILE).is_file()


def create_run(
    path: str | Path,
    config: AnyConfig,
    tokenizer: Any,
    fingerprints: Mapping[str, str],
    numerics: Mapping[str, Any],
    initialized_from: str | None = None,
    calibrated_minutes: float | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Run:
    """Make a run directory; `run.json` is written last, so that what has one is whole.

    `config` is resolved (vocabulary size and steps known; `calibrated_minutes` are what the steps were chosen for);
    `tokenizer` has `.save(directory)` and `.fingerprint`.
    Errors: `BertJaxError` when there is a run already, or a tokenizer or checkpoints that no run made.
    """
    run = Run(
        Path(path),
        config,
        dict(fingerprints),
        numerics_of(numerics),
        initialized_from,
        calibrated_minutes,
        now(),
        dict(facts or {}),
    )
    if is_run(path):
        raise BertJaxError(f"{path} holds a run already: continue it, or give another --run")
    if run.newest_step:
        raise BertJaxError(f"{run.checkpoints} holds checkpoints but {path} no {RUN_FILE}: give another --run")
    with files.clear_errors("write", run.path):
        run.path.mkdir(parents=True, exist_ok=True)
    with run.lock():
        _place_tokenizer(run.tokenizer, tokenizer, "give another --run")
        run.write()
        run.record("created", initialized_from=initialized_from, versions=versions())
        if "set_aside" in run.facts:
            run.record("set_aside", records=run.facts["set_aside"])
        if calibrated_minutes is not None:
            run.record("calibrated", minutes=calibrated_minutes, steps=config.total_steps)
    return run


def restore_tokenizer(run: Run, tokenizer: Any) -> None:
    """Put back the tokenizer of a run that goes on, where it was lost: predictions read it.

    Errors: `BertJaxError` when another one, or a broken one, lies in its place.
    """
    remedy = f"remove {run.tokenizer}, and the run's own is put back when it goes on"
    if _is_first_process() and _place_tokenizer(run.tokenizer, tokenizer, remedy):
        warn(f"{run.tokenizer} was missing: the run's tokenizer is put back there")


def _place_tokenizer(directory: Path, tokenizer: Any, remedy: str) -> bool:
    """Save the tokenizer, if none is there (one that is must be the same). Returns whether it was saved."""
    if not directory.is_dir() or not any(directory.iterdir()):
        files.make_directory(directory, tokenizer.save)
        return True
    from bert_jax.text.tokenizer import load_tokenizer

    try:
        there = load_tokenizer(directory).fingerprint
    except BertJaxError as error:
        raise BertJaxError(f"{error}; {remedy}") from error
    if there != tokenizer.fingerprint:
        raise BertJaxError(
            f"{directory} is another tokenizer ({there[:12]}, not {tokenizer.fingerprint[:12]}): {remedy}"
        )
    return False


def _stored_config(folder: Path, values: Mapping[str, Any], kind: str) -> AnyConfig:
    try:
        return from_dict(values, _KINDS[kind])
    except BertJaxError as error:
        raise BertJaxError(f"{folder / RUN_FILE}: {error}") from error


def open_run(path: str | Path) -> Run:
    """Read a run directory.

    Errors: `BertJaxError` when `path` is none, is broken, has a format of the future, or was changed since it was
    written: a flipped bit in a number would otherwise be another model. Runs of before there was a checksum have none.
    """
    folder = Path(path)
    if not is_run(folder):
        reason = "holds no run.json" if folder.is_dir() else "does not exist"
        raise BertJaxError(f"{path} is no run directory: it {reason}; give the directory named by --run")
    values = files.read_json(folder / RUN_FILE)
    try:
        if values["format"] > RUN_FORMAT:
            raise BertJaxError(
                f"{folder / RUN_FILE} has format {values['format']}, this version reads {RUN_FORMAT}: "
                "install a newer bert_jax"
            )
        run = Run(
            path=folder,
            config=_stored_config(folder, values["config"], values.get("kind", "pretraining")),
            fingerprints=dict(values["fingerprints"]),
            numerics=dict(values["numerics"]),
            initialized_from=values["initialized_from"],
            calibrated_minutes=values["calibrated_minutes"],
            created=values["created"],
            facts=dict(values.get("facts", {})),
        )
    except BertJaxError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BertJaxError(
            f"{folder / RUN_FILE} is not as it was written ({error!r}): restore it from a copy"
        ) from error
    if "checksum" in values and values.pop("checksum") != files.digest(values):
        raise BertJaxError(
            f"{folder / RUN_FILE} is not as it was written (its checksum is another): restore it from a copy; to "
            "change the configuration of a run, give the new one to pretrain or finetune"
        )
    return run
