"""Checkpoints: bit-exact, on any mesh; damage is found and set aside; nothing else is moved."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from small_runs import ended, free_port, start

from bert_jax.errors import BertJaxError
from bert_jax.train import checkpoint, saved_steps
from bert_jax.train.checkpoint import Checkpoints, restore_params


class State(NamedTuple):
    step: Any
    params: Any
    moments: Any


def _state(step: int, mesh: tuple[int, int] = (1, 1), width: int = 16) -> State:
    """A state whose values depend on the step, sharded over both axes of a mesh."""
    size = mesh[0] * mesh[1]
    mesh_ = jax.make_mesh(mesh, ("x", "y"), devices=jax.devices()[:size], axis_types=(jax.sharding.AxisType.Auto,) * 2)
    both, none = NamedSharding(mesh_, PartitionSpec("x", "y")), NamedSharding(mesh_, PartitionSpec())
    kernel = jax.device_put(np.random.default_rng(step).normal(size=(32, width)).astype(np.float32), both)
    params = {"layer": {"kernel": kernel, "bias": jax.device_put(np.full(5, step, np.float32), none)}}
    moments = (jax.tree.map(lambda x: x * 2, params), ())
    return State(jax.device_put(np.int32(step), none), params, moments)


def _abstract(state: State) -> State:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def _same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def _save(folder: Path, *steps: int, keep: int = 3, scores: dict[int, float] | None = None, **options: Any) -> None:
    with Checkpoints(folder, keep=keep, **options) as checkpoints:
        for step in steps:
            checkpoints.save(step, _state(step), {"seen": step}, (scores or {}).get(step))
        checkpoints.wait()


@pytest.fixture(scope="session")
def two_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with the steps 3 and 6, to be copied."""
    folder = tmp_path_factory.mktemp("two") / "run"
    _save(folder / "checkpoints", 3, 6)
    return folder


@pytest.fixture
def run(two_steps: Path, tmp_path: Path) -> Path:
    shutil.copytree(two_steps, tmp_path / "run")
    return tmp_path / "run"


def _restore(run: Path) -> tuple[int, dict[str, Any]]:
    with Checkpoints(run / "checkpoints") as checkpoints:
        restored = checkpoints.restore(_abstract(_state(0)))
        assert restored is not None
        _same(restored.state, _state(restored.step))
        return restored.step, restored.counters


def _names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def _flip(path: Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 16
    path.write_bytes(bytes(data))


def _arrays(step: Path) -> list[Path]:
    """The files that hold the arrays' bytes; which array lies in which of them differs from save to save."""
    files = [path for path in (step / "state").rglob("*") if path.is_file() and path.parent.name == "d"]
    assert files
    return [path for path in files if path.stat().st_size > 1000] or files


def test_restores_the_newest_bit_for_bit(run: Path) -> None:
    assert _restore(run) == (6, {"seen": 6})
    assert _names(run) == ["3", "6"]


def test_nothing_saved_is_nothing_restored(tmp_path: Path) -> None:
    with Checkpoints(tmp_path / "none") as checkpoints:
        assert checkpoints.restore(_abstract(_state(0))) is None
    with pytest.raises(BertJaxError, match="has no checkpoint yet"):
        restore_params(tmp_path)


def test_another_mesh_gets_the_same_bits(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(4, _state(4, (4, 2)), {})
        checkpoints.wait()
        for mesh in ((1, 1), (2, 4), (8, 1)):
            restored = checkpoints.restore(_abstract(_state(0, mesh)))
            assert restored is not None
            _same(restored.state, _state(4))
            assert (
                restored.state.params["layer"]["kernel"].sharding == _state(4, mesh).params["layer"]["kernel"].sharding
            )


def test_state_may_be_donated_right_after_save(tmp_path: Path) -> None:
    update = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    state = jax.device_put(_state(2), jax.devices()[0])
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, state, {})
        for _ in range(20):
            state = update(state)
        checkpoints.wait()
        restored = checkpoints.restore(_abstract(_state(0)))
    assert restored is not None
    _same(restored.state, _state(2))


def test_keeps_the_newest_the_multiples_and_the_best(tmp_path: Path) -> None:
    _save(tmp_path / "checkpoints", 2, 4, 6, 8, 10, 12, keep=2, keep_every=4, scores={2: 0.5, 6: 0.3, 10: 0.4})
    assert _names(tmp_path) == ["10", "12", "4", "6", "8"]  # 6 scored lowest, 4 and 8 and 12 are multiples
    _, step = restore_params(tmp_path, "best")
    assert step == 6


def test_a_score_that_is_no_number_is_not_the_best(tmp_path: Path) -> None:
    with Checkpoints(tmp_path / "checkpoints", keep=1) as checkpoints:
        for step, score in ((10, float("nan")), (20, 1.0), (30, 2.0)):
            checkpoints.save(step, _state(step), {}, score)
        checkpoints.wait()
    assert _names(tmp_path) == ["20", "30"]
    assert restore_params(tmp_path, "best")[1] == 20


def test_params_alone_newest_numbered_or_best(run: Path) -> None:
    params, step = restore_params(run)
    assert step == 6
    _same(params, jax.tree.map(np.asarray, _state(6).params))
    assert restore_params(run, 3)[1] == 3
    with pytest.raises(BertJaxError, match=r"run has no checkpoint 5: it has 3, 6"):
        restore_params(run, 5)
    with pytest.raises(BertJaxError, match=r"no checkpoint of .* was evaluated"):
        restore_params(run, "best")


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing", "metadata", "record", "record missing"])
def test_damage_is_set_aside_and_the_one_before_used(
    run: Path, damage: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    newest = run / "checkpoints" / "6"
    arrays = _arrays(newest)
    if damage == "flipped":
        for file in arrays:
            for place in range(1, 20):  # parameters and moments share files, in no fixed order
                _flip(file, place / 20)
    elif damage == "truncated":
        for file in arrays:
            os.truncate(file, 100)
    elif damage == "missing":
        for file in arrays:
            file.unlink()
    elif damage == "metadata":
        _flip(newest / "state" / "_METADATA", 0.3)
    elif damage == "record":
        _flip(newest / "record" / "digests.json", 0.5)
    else:
        (newest / "record" / "digests.json").unlink()
    _, step = restore_params(run)  # a reader goes round it and moves nothing
    assert step == 3
    assert _names(run) == ["3", "6"]
    caplog.clear()
    assert _restore(run) == (3, {"seen": 3})
    assert _names(run) == ["3", "6.damaged"]
    assert len([line for line in caplog.messages if "is damaged" in line]) == 1
    assert "Traceback" not in capfd.readouterr().err
    with Checkpoints(run / "checkpoints") as checkpoints:  # the step is trained and saved anew, and lost anew
        checkpoints.save(6, _state(6), {})
        checkpoints.wait()
    _flip(newest / "record" / "digests.json", 0.5)
    assert _restore(run)[0] == 3
    assert _names(run) == ["3", "6.damaged", "6.damaged-2"]


def test_another_dtype_or_swapped_arrays_are_noticed(run: Path) -> None:
    """A whole step under another number: every file is sound, only the record tells."""
    shutil.rmtree(run / "checkpoints" / "6" / "state")
    shutil.copytree(run / "checkpoints" / "3" / "state", run / "checkpoints" / "6" / "state")
    assert _restore(run)[0] == 3
    assert _names(run) == ["3", "6.damaged"]


def test_all_damaged_is_an_error_now_and_later(run: Path) -> None:
    for step in ("3", "6"):
        for file in _arrays(run / "checkpoints" / step):
            _flip(file, 0.5)
    for _ in range(2):
        with pytest.raises(
            BertJaxError, match=r"holds no good checkpoint, only damaged ones: 6 .*, 3 .*; put back a copy"
        ):
            _restore(run)
    assert _names(run) == ["3", "6"]
    for step in ("3", "6"):
        (run / "checkpoints" / step).rename(run / "checkpoints" / f"{step}.damaged")
    with pytest.raises(BertJaxError, match="holds no good checkpoint"):
        _restore(run)
    with pytest.raises(BertJaxError, match="has no checkpoint yet"):
        restore_params(run)


def test_damage_is_confirmed_by_a_second_reading(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, calls = saved_steps._read_leaves, []

    def flaky(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1:
            raise ValueError("DATA_LOSS: a bad day")
        return read(*arguments)

    monkeypatch.setattr(saved_steps, "_read_leaves", flaky)
    assert _restore(run)[0] == 6
    assert len(calls) == 2


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), MemoryError("no memory"), OSError(24, "Too many open files")]
)
def test_a_failing_machine_moves_nothing(run: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*arguments: Any) -> Any:
        raise error

    monkeypatch.setattr(saved_steps, "_read_leaves", fail)
    with pytest.raises(BertJaxError, match=r"cannot read checkpoint .*6: .*; nothing was moved"):
        _restore(run)
    assert _names(run) == ["3", "6"]


def test_another_model_is_the_users_error(run: Path) -> None:
    with Checkpoints(run / "checkpoints") as checkpoints:
        with pytest.raises(
            BertJaxError,
            match=r"6 does not fit this configuration: params/layer/kernel is \(32, 16\) float32 there and \(32, 8\)",
        ):
            checkpoints.restore(_abstract(_state(0, width=8)))
        more = State(jnp.int32(0), {**_state(0).params, "pooler": jnp.zeros(2)}, ())
        with pytest.raises(BertJaxError, match=r"params/pooler is absent there and \(2,\) float32 here"):
            checkpoints.restore(_abstract(more))
    assert _names(run) == ["3", "6"]


def test_left_overs_go_other_things_stay(run: Path) -> None:
    for name in ("9.orbax-checkpoint-tmp", "9.orbax-checkpoint-tmp-123", "2.deleted", "notes", "5.damaged"):
        (run / "checkpoints" / name).mkdir()
    assert _restore(run)[0] == 6
    assert _names(run) == ["3", "5.damaged", "6", "notes"]


def _settled(checkpoints: Checkpoints, run: Path, seconds: float = 20) -> list[str]:
    """The names once nothing is left over: writes that were under way when another failed may come late."""
    until = time.monotonic() + seconds
    while any("tmp" in name for name in _names(run)) and time.monotonic() < until:
        time.sleep(0.05)
        checkpoints.poll()
    return _names(run)


def test_a_save_that_fails_is_counted_and_the_older_ones_stay(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(run / "checkpoints") as checkpoints:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))  # what a full disk looks like to whoever writes
        try:
            checkpoints.save(9, _state(9), {})
            with pytest.raises(BertJaxError, match=r"cannot save checkpoint 9: File too large \(.*\); the checkpoints"):
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert checkpoints.failures == 1
        assert _settled(checkpoints, run) == ["3", "6"]
        checkpoints.save(12, _state(12), {})  # there is room again
        checkpoints.wait()
        assert _names(run) == ["12", "3", "6"]
    assert _restore(run)[0] == 12
    assert not any("cannot save checkpoint 9" in line for line in caplog.messages)  # raised, not told twice


_NO_ROOM = """
import logging, resource, sys
sys.path.insert(0, {repository!r})
import jax.numpy as jnp
from pathlib import Path
from bert_jax.console import set_up_logging
from bert_jax.errors import BertJaxError
from bert_jax.train.checkpoint import Checkpoints
set_up_logging()
state = {{"params": {{f"a{{i}}": jnp.full((100, 100), i, jnp.float32) for i in range(60)}}}}
with Checkpoints(Path({folder!r})) as checkpoints:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, resource.RLIM_INFINITY))
    for step in (1, 2, 3):
        checkpoints.save(step, state, {{}})
    try:
        checkpoints.wait()
    except BertJaxError as error:
        print(error)
"""


def test_a_save_that_fails_is_one_line_and_no_traceback(tmp_path: Path) -> None:
    text = _NO_ROOM.format(repository=str(Path(__file__).parent.parent), folder=str(tmp_path / "full"))
    ended = subprocess.run(
        [sys.executable, "-c", text],
        env=os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"},  # it has no room either
        capture_output=True,
        text=True,
        timeout=120,
    )
    where = f"File too large ({tmp_path / 'full'})"
    assert ended.stdout == f"cannot save checkpoint 3: {where}; the checkpoints before it are intact\n"
    told = [f"warning: cannot save checkpoint {step}: {where}; training goes on, the older" for step in (1, 2)]
    assert [line[: len(told[0])] for line in ended.stderr.splitlines()] == told, ended.stderr


_KILLED_WHILE_SAVING = """
import os, sys, threading, time
sys.path.insert(0, {repository!r})
import numpy as np
from pathlib import Path
from bert_jax.train.checkpoint import Checkpoints
import jax.numpy as jnp
state = {{"params": {{f"a{{i}}": jnp.full((500, 500), i, jnp.float32) for i in range(40)}}}}
folder = Path({folder!r})
checkpoints = Checkpoints(folder)
checkpoints.save(1, state, {{}})
checkpoints.wait()
checkpoints.save(2, state, {{}})
while not list(folder.glob("2.*")):
    time.sleep(0.0005)
os.kill(os.getpid(), 9)
"""


def test_killed_while_saving_leaves_the_step_before(tmp_path: Path) -> None:
    repository = Path(__file__).parent.parent
    code = _KILLED_WHILE_SAVING.format(
        tests=str(Path(__file__).parent), repository=str(repository), folder=str(tmp_path)
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps()[0] == 1
        assert not list(tmp_path.glob("*tmp*"))


def test_a_slow_end_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "bert_jax")
    monkeypatch.setattr(checkpoint, "_SLOW_SECONDS", 60.0)
    _save(tmp_path / "fast", 1)
    assert caplog.messages == ["saved checkpoint 1"]
    caplog.clear()
    monkeypatch.setattr(checkpoint, "_SLOW_SECONDS", 0.05)
    delete = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", lambda *a, **k: (time.sleep(0.5), delete(*a, **k)))
    _save(tmp_path / "fast", 2, keep=1)
    assert f"waiting for checkpoint 2 to be written to {tmp_path / 'fast'}" in caplog.messages


_TOGETHER = """
import sys
from pathlib import Path
sys.path.insert(0, {repository!r})
import jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
own, folder = int(sys.argv[1]), Path({folder!r})
jax.distributed.initialize("127.0.0.1:{port}", 2, own)
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec
from bert_jax import compat
from bert_jax.train import checkpoint, saved_steps
from bert_jax.train.checkpoint import Checkpoints
from bert_jax.train.digests import Damaged

rows = NamedSharding(compat.make_mesh((2,), ("data",), jax.devices()), PartitionSpec("data"))

def state(step):
    whole = np.random.default_rng(step).normal(size=(256, 256)).astype(np.float32)
    return {{"params": {{"a": jax.make_array_from_callback(whole.shape, rows, lambda index: whole[index])}}}}

def restored(case):
    multihost_utils.sync_global_devices(case)
    with Checkpoints(folder) as checkpoints:
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state(0))
        found = checkpoints.restore(abstract)
        mine = found.state["params"]["a"].addressable_shards[0].data
        assert (np.asarray(mine) == np.asarray(state(found.step)["params"]["a"].addressable_shards[0].data)).all()
    names = sorted(path.name for path in folder.iterdir())
    multihost_utils.sync_global_devices("after " + case)
    print(case, found.step, *names, flush=True)

with Checkpoints(folder, keep=9) as checkpoints:
    for step in (1, 2, 3, 4):
        checkpoints.save(step, state(step), {{}})
        checkpoints.wait()

# The second process sees the folder as it was a while ago.
listed, older = saved_steps.step_directories, [1, 2, 3] if own else []
def lagging(directory):
    seen = listed(directory)
    return {{step: seen[step] for step in older.pop() * [1] + [2, 3]}} if older else seen
saved_steps._LAG_SECONDS, saved_steps.step_directories = 3.0, lagging
restored("listing")
saved_steps.step_directories = listed

# A file with arrays of the second process alone.
if own == 0:
    damaged = [path for path in (folder / "4").rglob("*") if path.is_file() and "process_1" in str(path)]
    for path in [path for path in damaged if path.stat().st_size > 50_000]:
        path.write_bytes(path.read_bytes()[::-1])
restored("arrays")

# What the second process alone cannot read as a record.
read = checkpoint.read_record
def unreadable(directory):
    if own and directory.name == "3":
        raise Damaged("flipped on its way")
    return read(directory)
checkpoint.read_record = unreadable
restored("record")
jax.distributed.shutdown()
"""


@pytest.mark.ci  # two processes
def test_two_processes_agree_on_what_is_there_and_what_is_damaged(tmp_path: Path) -> None:
    repository = str(Path(__file__).parent.parent)
    text = _TOGETHER.format(repository=repository, folder=str(tmp_path / "checkpoints"), port=free_port())
    both = [start([sys.executable, "-c", text, str(index)]) for index in range(2)]
    for code, out, errors in map(ended, both):
        assert code == 0, errors
        said = [line for line in out.splitlines() if line.split()[0] in ("listing", "arrays", "record")]
        assert said == ["listing 4 1 2 3 4", "arrays 3 1 2 3 4.damaged", "record 2 1 2 3.damaged 4.damaged"]
