"""train.processes: flags and environments that mean several processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from bert_jax.errors import PeerLostError, UsageError
from bert_jax.train import processes
from bert_jax.train.processes import Processes, find_processes, heartbeat_seconds, lost_peer, split_flags


def test_flags_are_taken_out_of_the_arguments() -> None:
    flags, rest = split_flags(["quickstart", "--processes", "2", "--run", "r", "--process=1", "--coordinator", "h:1"])
    assert flags == ("h:1", 2, 1)
    assert rest == ["quickstart", "--run", "r"]
    assert find_processes(*flags, environment={}) == Processes("h:1", 2, 1)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"SLURM_NTASKS": "4"}, None),  # an allocation, but not inside a step of it
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "2"}, Processes(None, None, None)),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, Processes(None, None, None)),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, Processes(None, None, None)),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
    ],
)
def test_environments(environment: dict[str, str], expected: Processes | None) -> None:
    assert find_processes(None, None, None, environment) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--processes", "two"], "--processes two: expected a whole number"),
        (["--process"], "--process needs a value"),
        (["--processes", "2"], "belong together"),
        (["--coordinator", "h:1", "--processes", "2", "--process", "2"], "--process 2: expected 0 to 1"),
    ],
)
def test_what_does_not_fit_is_named(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_processes(*split_flags(arguments)[0], environment={})


def test_on_a_tpu_machine_jax_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "TPU_DEVICES", (str(tmp_path / "accel*"),))
    assert find_processes(None, None, None, {}) is None
    (tmp_path / "accel0").touch()
    assert find_processes(None, None, None, {}) == Processes(None, None, None)
    for elsewhere in ({"TPU_WORKER_HOSTNAMES": "localhost"}, {"JAX_PLATFORMS": "cpu"}, {"COLAB_RELEASE_TAG": "1"}):
        assert find_processes(None, None, None, elsewhere) is None
    assert find_processes(None, 1, None, {}) is None


def test_one_process_needs_no_coordinator() -> None:
    assert find_processes("h:1", 1, 0, {}) is None


def test_the_heartbeat_is_a_whole_number_of_seconds() -> None:
    assert heartbeat_seconds({}) == 60
    assert heartbeat_seconds({"BERT_JAX_HEARTBEAT_SECONDS": "7"}) == 7
    for wrong in ("0", "soon", "-1", "1.5", ""):
        with pytest.raises(UsageError, match=f"BERT_JAX_HEARTBEAT_SECONDS={wrong}: expected a whole number"):
            heartbeat_seconds({"BERT_JAX_HEARTBEAT_SECONDS": wrong})


class JaxRuntimeError(RuntimeError):
    """Named as jax names its own."""


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        (
            "UNKNOWN: Gloo all-reduce failed: [external/gloo/...] Read error [127.0.0.1]:1: Connection reset by peer",
            True,
        ),
        ("INTERNAL: NCCL operation ncclAllReduce failed: unhandled system error", True),
        ("UNAVAILABLE: Task 1 heartbeat timeout", True),
        ("DEADLINE_EXCEEDED: Barrier timed out. Id: 3", True),
        ("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes", False),
        ("INVALID_ARGUMENT: Executable expected shape f32[2]", False),
    ],
)
def test_errors_of_the_runtime_that_mean_another_process(text: str, lost: bool) -> None:
    assert lost_peer(JaxRuntimeError(text)) is lost
    assert not lost_peer(RuntimeError(text))  # our own, or the disk's: a network file system has connections too
    assert lost_peer(PeerLostError("the processes did not find each other"))
