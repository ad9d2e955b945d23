"""The saved steps of a run as they lie on disk: listed, compared with the model, read and checked; never moved."""

from __future__ import annotations

import contextlib
import gc
import logging
import re
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax import files
from bert_jax.console import warn
from bert_jax.errors import BertJaxError
from bert_jax.train.digests import Damaged, Leaves, damage_if_unreadable, digests_of, read_record, structure_of
from bert_jax.train.run import STEP
from bert_jax.train.saving_errors import reason

STATE_FOLDER = "state"
_DAMAGED = re.compile(r"\d+\.damaged.*")
_LAG_SECONDS = 60.0

_Tree = TypeVar("_Tree")


def _read_leaves(directory: Path, abstract: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """Read the named leaves into arrays of the given shardings; the others of the step are not read."""
    import orbax.checkpoint as ocp

    wanted = dict(abstract)
    arguments = ocp.args.PyTreeRestore(
        item=wanted,
        restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
        partial_restore=True,
    )
    # Alone: where one process of several cannot read its part, the others must not wait for it inside Orbax.
    own = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(),
        active_processes={jax.process_index()},
        barrier_sync_key_prefix=f"read_{jax.process_index()}",
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=own)
    with ocp.Checkpointer(handler, multiprocessing_options=own) as reader:
        return dict(reader.restore((directory / STATE_FOLDER).absolute(), args=arguments))


@contextlib.contextmanager
def _one_error_only() -> Iterator[None]:
    """Of a failing read the first error is raised; those of the other arrays, which Orbax had begun to read, would be
    printed from background threads and by the garbage collector: they are dropped."""
    asyncio_log = logging.getLogger("asyncio")
    hooks, disabled = (sys.excepthook, sys.unraisablehook), asyncio_log.disabled
    sys.excepthook, sys.unraisablehook = (lambda *error: None), (lambda error: None)
    asyncio_log.disabled = True
    try:
        yield
    except Exception:
        time.sleep(0.2)
        gc.collect()
        raise
    finally:
        sys.excepthook, sys.unraisablehook = hooks
        asyncio_log.disabled = disabled


def read_leaves(directory: Path, abstract: Mapping[str, jax.ShapeDtypeStruct]) -> Leaves:
    """Read all of the named leaves, their bits not looked at. Errors: `Damaged`."""
    with damage_if_unreadable(), _one_error_only():
        leaves = _read_leaves(directory, abstract)
    for path in abstract:
        if not isinstance(leaves.get(path), jax.Array | np.ndarray):
            raise Damaged(f"{path} is not in it")  # Orbax leaves out what its altered metadata no longer names
    return leaves


def require_digests(leaves: Leaves, record: Mapping[str, Any]) -> None:
    """Compare the digests of leaves with those written; of arrays over several processes all must call it.

    Errors: `Damaged`.
    """
    for path, found in digests_of(leaves).items():
        written = record["leaves"][path]["digest"]
        if found != written:
            raise Damaged(f"the bits of {path} have digest {found}, not {written} as written")


def require_structure(directory: Path, abstract: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """The user's error when the step holds other leaves than the model of this run."""
    written = {path: (tuple(leaf["shape"]), leaf["dtype"]) for path, leaf in record["leaves"].items()}
    expected = structure_of(abstract)
    for path in [*expected, *written]:
        there, here = written.get(path), expected.get(path)
        if there == here:
            continue
        came = f"{there[0]} {there[1]}" if there else "absent"
        want = f"{here[0]} {here[1]}" if here else "absent"
        raise BertJaxError(
            f"checkpoint {directory} does not fit this configuration: {path} is {came} there and {want} here; "
            "continue with the configuration the run was made with, or give another --run"
        )


def twice(read: Callable[[], _Tree]) -> _Tree:
    """Read; only what is damaged in a second reading too is damage."""
    try:
        return read()
    except Damaged:
        return read()


def step_directories(directory: Path) -> dict[int, Path]:
    """The whole steps under `checkpoints/`, oldest first."""
    with files.clear_errors("read", directory):
        found = [path for path in directory.iterdir() if path.is_dir()] if directory.is_dir() else []
    return {int(path.name): path for path in sorted(found, key=lambda p: p.name.zfill(20)) if STEP.fullmatch(path.name)}


def agreed_step_directories(directory: Path) -> dict[int, Path]:
    """`step_directories`, the same on all processes: a shared file system may show one of them an older listing.

    Errors: `BertJaxError` on all of them when they still differ after a minute.
    """
    found = step_directories(directory)
    if jax.process_count() == 1:
        return found
    from jax.experimental import multihost_utils

    until = time.monotonic() + _LAG_SECONDS
    while True:
        seen = np.asarray([zlib.crc32(repr(list(found)).encode()) & 0x7FFFFFFF, time.monotonic() > until], np.int32)
        everyone = np.asarray(multihost_utils.process_allgather(seen)).reshape(-1, 2)
        if (everyone[:, 0] == everyone[0, 0]).all():
            return found
        if everyone[:, 1].any():
            raise BertJaxError(
                f"{directory}: the processes see different checkpoints there (this one {', '.join(map(str, found))}): "
                "all of them need the same shared folder; nothing was moved"
            )
        time.sleep(_LAG_SECONDS / 30)
        found = step_directories(directory)


def damaged_directories(directory: Path) -> list[str]:
    """Names of the steps that were set aside."""
    return (
        sorted(path.name for path in directory.iterdir() if _DAMAGED.fullmatch(path.name)) if directory.is_dir() else []
    )


class Score(NamedTuple):
    """What the evaluation of a saved step gave: comparable within one phase only, which has one sequence length."""

    phase: int
    loss: float


def best_step(directories: Mapping[int, Path], known: dict[int, Score | None] | None = None) -> int | None:
    """Of the latest phase that was evaluated the step with the lowest loss; None when no step was evaluated.

    `known` remembers what was read.
    """
    scores = {} if known is None else known
    for step, directory in directories.items():
        if step not in scores:
            try:
                record = read_record(directory)
                scores[step] = None if record["score"] is None else Score(record.get("phase", 0), record["score"])
            except (Damaged, OSError):
                scores[step] = None
    evaluated = {step: score for step in directories if (score := scores[step]) is not None}
    return min(evaluated, key=lambda step: (-evaluated[step].phase, evaluated[step].loss, step), default=None)


def restore_params(run_directory: str | Path, step: int | str | None = None) -> tuple[dict[str, Any], int]:
    """The parameters of a run, without its optimizer, on the default device: (nested dict of arrays, step).

    `step`: a number, 'best' (see `best_step`) or None (the newest good one). Nothing is written or
    moved. Errors: `BertJaxError` naming the run and the steps it has.
    """
    folder = Path(run_directory) / "checkpoints"
    directories = step_directories(folder)
    if not directories:
        raise BertJaxError(f"{run_directory} has no checkpoint yet: train it first (bert-jax pretrain … --run)")
    for wanted in _wanted(run_directory, directories, step):
        try:
            return twice(lambda wanted=wanted: _read_params(directories[wanted])), wanted  # type: ignore[misc]
        except Damaged as damage:
            warn(f"checkpoint {directories[wanted]} is damaged ({damage})")
        except BertJaxError:
            raise
        except Exception as error:
            raise BertJaxError(f"cannot read checkpoint {directories[wanted]}: {reason(error)}") from error
    raise BertJaxError(f"{run_directory} has no good checkpoint to read: {', '.join(map(str, directories))} damaged")


def _wanted(run: str | Path, directories: Mapping[int, Path], step: int | str | None) -> list[int]:
    if step is None:
        return sorted(directories, reverse=True)
    if step == "best":
        best = best_step(directories)
        if best is None:
            raise BertJaxError(
                f"no checkpoint of {run} was evaluated when it was saved: give {run}@STEP instead of @best"
            )
        return [best]
    if int(step) not in directories:
        raise BertJaxError(f"{run} has no checkpoint {step}: it has {', '.join(map(str, directories))}")
    return [int(step)]


def _read_params(directory: Path) -> dict[str, Any]:
    record = read_record(directory)
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = {
        path: jax.ShapeDtypeStruct(tuple(leaf["shape"]), jnp.dtype(leaf["dtype"]), sharding=sharding)
        for path, leaf in record["leaves"].items()
        if path.startswith("params/")
    }
    leaves = read_leaves(directory, abstract)
    require_digests(leaves, record)
    params: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *folders, name = path.split("/")[1:]
        place = params
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = leaf
    return params
