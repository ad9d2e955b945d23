"""Checkpoints of a run: saved in the background, checked by our own digests when read, never silently wrong.

Orbax writes and reads the arrays; it restores a flipped byte, or another dtype, without a word. So every step also
carries `record/digests.json` (see digests.py). What is found on disk is one of three things:

* another structure than the model's: the user's error, nothing is touched;
* unreadable files or other digests, twice: damage; the step is renamed `<step>.damaged`, the one before it is tried;
* any other failure (permission, memory, network): reported, nothing is touched.

Inside `checkpoints/`, a step's directory has a bare number as its name once it is whole; everything else that Orbax
or a killed deletion left behind is removed when the run is opened for writing.
"""

from __future__ import annotations

import contextlib
import gc
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from bert_jax import files
from bert_jax.console import log, warn
from bert_jax.errors import BertJaxError
from bert_jax.train.digests import (
    RECORD_FILE,
    RECORD_FOLDER,
    Damaged,
    Leaves,
    amend_record,
    leaves_by_path,
    make_record,
    read_record,
)
from bert_jax.train.saved_steps import (
    STATE_FOLDER,
    Score,
    agreed_step_directories,
    best_step,
    damaged_directories,
    read_leaves,
    require_digests,
    require_structure,
    restore_params,
    step_directories,
)
from bert_jax.train.saving_errors import drop_repetitions, reason

__all__ = ["Checkpoints", "Restored", "restore_params"]

_SLOW_SECONDS = 2.0
_LEFT_OVER = re.compile(r"\d+\.(orbax-checkpoint-tmp.*|deleted)")


class Restored(NamedTuple):
    """What a checkpoint gave back."""

    step: int
    state: Any
    counters: dict[str, Any]


_GOOD, _IS_DAMAGED, _FAILED = 0, 1, 2


def _worst(outcome: int) -> int:
    """The worst outcome over all processes, so that all of them do the same next."""
    if jax.process_count() == 1:
        return outcome
    from jax.experimental import multihost_utils

    return int(np.max(multihost_utils.process_allgather(np.int32(outcome))))


def _read_step(directory: Path, abstract: Leaves) -> tuple[Leaves, dict[str, Any]]:
    """Leaves and counters of one step; only what is damaged in a second reading too is damage.

    The processes agree after each part: the digests of arrays that lie over several of them are computed together, so
    none may begin to while another has nothing to compute them of.
    Errors: `Damaged`; `BertJaxError` for another structure, or when the machine rather than the data failed.
    """
    leaves: Leaves = {}
    record: dict[str, Any] = {}

    def look() -> None:
        record.update(read_record(directory))
        require_structure(directory, abstract, record)

    def read() -> None:
        leaves.update(read_leaves(directory, abstract))

    for attempt in range(2):
        damage = None
        for part in (look, read, lambda: require_digests(leaves, record)):
            damage = damage or _together(part, directory)
        if damage is None:
            return leaves, record["counters"]
        if attempt:
            raise damage
    raise AssertionError("two attempts end above")


def _together(part: Callable[[], None], directory: Path) -> Damaged | None:
    """Do a part of reading on all processes; the damage that any of them met.

    Errors: `BertJaxError` on all of them when one failed in another way.
    """
    failure: Exception | None = None
    try:
        part()
    except Exception as error:
        failure = error
    worst = _worst(_GOOD if failure is None else _IS_DAMAGED if isinstance(failure, Damaged) else _FAILED)
    if worst == _GOOD:
        return None
    if worst == _IS_DAMAGED:
        return failure if isinstance(failure, Damaged) else Damaged("another process could not read its part")
    if isinstance(failure, BertJaxError):
        raise failure
    own = failure is not None and not isinstance(failure, Damaged)
    why = reason(failure) if own else "another process failed"  # type: ignore[arg-type]
    raise BertJaxError(f"cannot read checkpoint {directory}: {why}; nothing was moved") from failure


class Checkpoints:
    """Saves and restores the state of one run under `directory`; a context manager that ends its background work.

    `keep` newest steps stay, and every one whose number `keep_every` divides, and the one with the lowest score.
    `failures` counts saves that did not reach the disk; a save that did is logged if `told`, and `saved` the last one.
    """

    def __init__(self, directory: Path, keep: int = 3, keep_every: int | None = None, told: bool = True):
        self.directory = Path(directory).absolute()
        self.keep, self.keep_every, self.told = keep, keep_every, told
        self.failures = 0
        self.saved: int | None = None
        self.last_failure: str | None = None
        self._manager: Any = None
        self._saving: int | None = None
        self._scores: dict[int, Score | None] = {}
        with files.clear_errors("write", self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
        self._remove_left_overs()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def steps(self) -> list[int]:
        """The whole steps on disk, oldest first."""
        return list(step_directories(self.directory))

    # Reading

    def restore(self, abstract_state: Any) -> Restored | None:
        """The newest good step, born with the shardings of `abstract_state`; None when none was ever saved.

        Errors: `BertJaxError` when the step does not fit the model, cannot be read, or when steps exist and all are
        damaged.
        """
        abstract = leaves_by_path(abstract_state)
        damaged: dict[Path, str] = {}
        for step, directory in reversed(agreed_step_directories(self.directory).items()):
            try:
                leaves, counters = _read_step(directory, abstract)
            except Damaged as damage:
                damaged[directory] = str(damage)
                continue
            # Only now that a good step shows the reader itself to be sound is anything moved.
            self._set_aside(damaged)
            state = jax.tree.unflatten(jax.tree.structure(abstract_state), [leaves[path] for path in abstract])
            return Restored(step, state, counters)
        bad = [f"{directory.name} ({why})" for directory, why in damaged.items()]
        bad += damaged_directories(self.directory)
        if bad:
            raise BertJaxError(
                f"{self.directory} holds no good checkpoint, only damaged ones: {', '.join(bad)}; "
                "put back a copy of one, or give another --run"
            )
        return None

    def _set_aside(self, damaged: Mapping[Path, str]) -> None:
        for directory, why in damaged.items() if jax.process_index() == 0 else ():
            target, count = directory.with_name(f"{directory.name}.damaged"), 1
            while target.exists():
                count += 1
                target = directory.with_name(f"{directory.name}.damaged-{count}")
            warn(f"checkpoint {directory} is damaged ({why}): renamed to {target.name}, the one before it is used")
            with files.clear_errors("rename", directory):
                directory.rename(target)
        if damaged:
            _worst(_GOOD)  # nobody goes on before the renames

    # Writing

    def save(
        self,
        step: int,
        state: Any,
        counters: Mapping[str, Any],
        score: float | None = None,
        phase: int = 0,
    ) -> None:
        """Save in the background; returns once the arrays may be changed. A step that is there stays as it is.

        A save that fails is logged and counted, and leaves the older steps as they are. A folder that vanished is made
        anew where the run's own is still there (what was mounted comes back at its place). `score`: lower is better,
        among those of one phase.
        """
        import orbax.checkpoint as ocp

        self._finish()
        leaves, score = leaves_by_path(state), files.finite(score)
        record = make_record(step, leaves, counters, score, phase)
        try:
            self.directory.mkdir(exist_ok=True)
            if step in self.steps():
                return
            self._open_manager().save(
                step,
                args=ocp.args.Composite(
                    **{STATE_FOLDER: ocp.args.PyTreeSave(leaves), RECORD_FOLDER: ocp.args.JsonSave(record)}
                ),
                force=True,
            )
        except Exception as error:
            self._failed(step, error)
        else:
            self._saving, self._scores[step] = step, None if score is None else Score(phase, score)

    def amend(self, step: int, counters: Mapping[str, Any], score: float | None, phase: int) -> None:
        """Note what an evaluation of a step that is saved gave, in its record; its arrays are not written again.

        What cannot be noted is warned of, and found out once more when the run goes on from there.
        """
        score = files.finite(score)
        self._scores[step] = None if score is None else Score(phase, score)
        if jax.process_index() != 0:
            return
        try:
            amend_record(self.directory / str(step), counters=counters, score=score, phase=phase)
        except (BertJaxError, Damaged, OSError) as error:
            warn(f"cannot note the evaluation of checkpoint {step}: {reason(error)}; it is made again from there")

    def poll(self) -> None:
        """Note a save that has ended, without waiting for one that has not; remove what a failed one left."""
        if self._saving is None:
            self._remove_late_writes()
        elif not self._manager.is_saving_in_progress():
            self._finish()

    def wait(self) -> None:
        """Until the last save is on disk. Errors: `BertJaxError` when it failed."""
        with _told_if_slow(f"waiting for checkpoint {self._saving} to be written to {self.directory}"):
            self._finish(last=True)
        if self.last_failure:
            raise BertJaxError(f"{self.last_failure}; the checkpoints before it are {self._state_of_older()}")

    def close(self) -> None:
        """Finish the background work; a failure is logged, not raised."""
        self._finish()
        self._close_manager()
        self._remove_late_writes()

    def _open_manager(self) -> Any:
        import orbax.checkpoint as ocp

        if self._manager is None:
            drop_repetitions()
            self._manager = ocp.CheckpointManager(
                self.directory,
                options=ocp.CheckpointManagerOptions(enable_async_checkpointing=True, save_interval_steps=1),
                item_handlers={
                    STATE_FOLDER: ocp.PyTreeCheckpointHandler(),
                    RECORD_FOLDER: ocp.JsonCheckpointHandler(filename=RECORD_FILE),
                },
            )
        return self._manager

    def _close_manager(self) -> None:
        manager, self._manager = self._manager, None
        if manager is not None:
            with contextlib.suppress(Exception):  # its background error was reported by _finish
                manager.close()

    def _finish(self, last: bool = False) -> None:
        """Wait for the save in progress, then drop what need not be kept; `last`: a failure is not warned of."""
        step, self._saving = self._saving, None
        if step is None:
            return
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            self._failed(step, error, told=not last)
            return
        self.last_failure, self.saved = None, step
        if self.told:
            log(f"saved checkpoint {step}")
        self._drop_old()
        self._remove_late_writes()

    def _failed(self, step: int, error: Exception, told: bool = True) -> None:
        self.failures += 1
        self.last_failure = f"cannot save checkpoint {step}: {reason(error)} ({self.directory})"
        if told:
            warn(f"{self.last_failure}; training goes on, the older checkpoints are {self._state_of_older()}")
        self._close_manager()  # it does not recover from a failed commit
        self._remove_left_overs()
        gc.collect()  # the other arrays' failures, which nobody asked for, are dropped now rather than later

    def _state_of_older(self) -> str:
        return "intact" if self.directory.is_dir() else "gone with their folder"

    def _drop_old(self) -> None:
        if jax.process_index() != 0:
            return
        try:
            directories = step_directories(self.directory)
        except BertJaxError as error:  # it is done after the next save
            warn(f"cannot look for old checkpoints: {error}")
            return
        steps = list(directories)
        kept = set(steps[-self.keep :] if self.keep else steps)
        if self.keep_every:
            kept |= {step for step in steps if step % self.keep_every == 0}
        best = best_step(directories, self._scores)
        for step in steps:
            if step not in kept and step != best:
                _delete(directories[step])

    def _remove_late_writes(self) -> None:
        """After a failed save: TensorStore's last writes may make its folder anew once that was removed."""
        if self.failures:
            self._remove_left_overs()

    def _remove_left_overs(self) -> None:
        if jax.process_index() != 0:
            return
        with contextlib.suppress(FileNotFoundError):  # the folder may have vanished, and with it what was left over
            for path in self.directory.iterdir():
                if _LEFT_OVER.fullmatch(path.name):
                    shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _told_if_slow(what: str) -> Iterator[None]:
    """Say `what` is going on when it lasts: a busy disk takes its time to keep what it was given."""
    timer = threading.Timer(_SLOW_SECONDS, log, (what,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _delete(directory: Path) -> None:
    """Rename first: a deletion that is killed half-way leaves nothing that looks like a checkpoint."""
    doomed = directory.with_name(f"{directory.name}.deleted")
    try:
        directory.rename(doomed)
        shutil.rmtree(doomed)
    except OSError as error:
        warn(f"cannot delete the old checkpoint {directory}: {error.strerror}")
