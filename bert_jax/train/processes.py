"""Several processes that train one model: how they find each other. Called before anything else touches a device."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from bert_jax.console import log, only_warnings
from bert_jax.errors import EXIT_PEER_LOST, BertJaxError, PeerLostError, UsageError
from bert_jax.supervise import SUPERVISED


class Processes(NamedTuple):
    """Who coordinates, how many processes there are, and which one this is; None where JAX detects it."""

    coordinator: str | None
    process_count: int | None
    process_index: int | None


TPU_DEVICES = ("/dev/accel*", "/dev/vfio/[0-9]*")
_NOTEBOOKS = {"COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"}
HEARTBEAT = "BERT_JAX_HEARTBEAT_SECONDS"
"""Environment variable: a process not heard of for so long is lost, and the others end (default 60)."""
_HEARTBEAT_SECONDS = 60
_LEAVE_SECONDS = 5.0
# How jax and what it exchanges arrays with say that another process is gone.
_LOST = re.compile(
    r"gloo|nccl|coordination|heartbeat|preempt|UNAVAILABLE|DEADLINE_EXCEEDED|connection (reset|closed|refused)"
    r"|broken pipe|socket closed",
    re.IGNORECASE,
)
FLAGS = ("--coordinator", "--processes", "--process")


def split_flags(arguments: Sequence[str]) -> tuple[tuple[str | None, int | None, int | None], list[str]]:
    """(coordinator, count, index) out of command-line arguments, and what is left of them.

    Errors: `UsageError` for a flag without a value, or a number that is none.
    """
    values: dict[str, str] = {}
    rest: list[str] = []
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        flag, equals, value = argument.partition("=")
        if flag not in FLAGS:
            rest.append(argument)
            continue
        if not equals and not waiting:
            raise UsageError(f"{flag} needs a value")
        values[flag] = value if equals else waiting.pop(0)
    return (values.get(FLAGS[0]), _number(FLAGS[1], values), _number(FLAGS[2], values)), rest


def _number(flag: str, values: Mapping[str, str]) -> int | None:
    if flag in values and not values[flag].isdecimal():
        raise UsageError(f"{flag} {values[flag]}: expected a whole number")
    return int(values[flag]) if flag in values else None


def find_processes(
    coordinator: str | None, count: int | None, index: int | None, environment: Mapping[str, str] = os.environ
) -> Processes | None:
    """How to start `jax.distributed`, or None for a single process.

    Flags win (`--processes 1` alone says that this is the only one); without them a SLURM or Open MPI job of several
    tasks is detected from the environment, and on a machine with a TPU jax asks the TPU's own environment, which may
    say that there is one host only. Errors: `UsageError` when some but not all of the three flags are given.
    """
    if count == 1 and coordinator is None and index is None:
        return None
    given = [value is not None for value in (coordinator, count, index)]
    if any(given):
        if not all(given):
            raise UsageError("--coordinator HOST:PORT, --processes N and --process I belong together: give all three")
        if count == 1:
            return None
        assert count is not None
        assert index is not None
        if not 0 <= index < count:
            raise UsageError(f"--process {index}: expected 0 to {count - 1} for --processes {count}")
        return Processes(coordinator, count, index)
    hosts = [host for host in environment.get("TPU_WORKER_HOSTNAMES", "").split(",") if host]
    tasks = max(int(environment.get(name, "1") or 1) for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"))
    inside_step = "SLURM_PROCID" in environment or "OMPI_COMM_WORLD_RANK" in environment
    if len(hosts) > 1 or (tasks > 1 and inside_step) or (not hosts and _on_a_tpu_machine(environment)):
        return Processes(None, None, None)
    return None


def _on_a_tpu_machine(environment: Mapping[str, str]) -> bool:
    """Whether this is a TPU VM that may be one of a slice's hosts: not a notebook's, not one told to use the CPU."""
    if environment.get("JAX_PLATFORMS", "") not in ("", "tpu") or _NOTEBOOKS & set(environment):
        return False
    return any(glob.glob(pattern) for pattern in TPU_DEVICES)


def heartbeat_seconds(environment: Mapping[str, str] = os.environ) -> int:
    """Seconds after which a silent process counts as lost. Errors: `UsageError` for what is no number of them."""
    given = environment.get(HEARTBEAT, str(_HEARTBEAT_SECONDS))
    if not given.isdecimal() or not int(given):
        raise UsageError(f"{HEARTBEAT}={given}: expected a whole number of seconds, at least 1")
    return int(given)


def start_processes(processes: Processes) -> None:
    """Start `jax.distributed`.

    Errors: `PeerLostError` when the others did not come in time; `BertJaxError` for what cannot be.
    """
    import jax

    heartbeat = heartbeat_seconds()
    if os.environ.get("JAX_PLATFORMS", "") == "cpu":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    note = os.environ.get(SUPERVISED)
    if note and processes.process_count != 1:
        with contextlib.suppress(OSError):  # an abort from here on means that a peer was lost
            Path(note).touch()
    try:
        jax.distributed.initialize(
            processes.coordinator,
            processes.process_count,
            processes.process_index,
            heartbeat_timeout_seconds=heartbeat,
        )
    except (RuntimeError, ValueError) as error:
        kind = PeerLostError if "DEADLINE_EXCEEDED" in str(error) else BertJaxError
        raise kind(
            f"the processes did not find each other ({processes.coordinator or 'detected coordinator'}): {error}; "
            "give --coordinator, --processes and --process, or --processes 1 for this one alone"
        ) from error
    if jax.process_count() == 1 and note:
        Path(note).unlink(missing_ok=True)
    if jax.process_index():
        only_warnings()
    log(f"{jax.process_count()} processes, {jax.device_count()} devices, {jax.local_device_count()} of them here")


def lost_peer(error: BaseException) -> bool:
    """Whether an error of the runtime says that another process, rather than this one, failed."""
    own = isinstance(error, PeerLostError)
    return own or (type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError") and bool(_LOST.search(str(error))))


def leave(code: int) -> NoReturn:
    """End this process with `code` after it failed, whatever the others do.

    At a usual exit jax waits for all processes, for minutes when one is in the middle of a step, and then aborts: the
    code would be lost. So the others are waited for a few seconds only, and not at all when one of them was lost.
    """
    import jax

    if code != EXIT_PEER_LOST:
        parting = threading.Thread(target=jax.distributed.shutdown, daemon=True)
        parting.start()
        parting.join(_LEAVE_SECONDS)
    os._exit(code)
