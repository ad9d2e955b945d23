"""Damage the newest checkpoint of a run in many places, one at a time, and see what is restored.

    python tests/chaos/damage.py RUN --places 50
    python tests/chaos/damage.py RUN --places 500 --seed 3

RUN is any run with two checkpoints or more; it is copied, never touched. Damages go round: one bit flipped (in each
file of the step in turn: arrays, manifests, JSON), a file cut short, emptied or deleted, a step half deleted, an empty
directory in its place. What is restored then is compared leaf by leaf, on the host, with what the undamaged run holds:
either the newest step, whole (the damage was proven harmless), or the one before it, with the damaged one set aside
under its own name. Every tenth time all steps are damaged beyond use: then nothing may be restored, and nothing begins
anew. `params` for predictions are read from each as well.

Ends with one JSON object on stdout: outcomes by kind of damage, and `failures`, which are to be none. Exit 1 with any.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bert_jax.console import set_up_logging
from bert_jax.errors import BertJaxError
from bert_jax.train.checkpoint import Checkpoints, restore_params
from bert_jax.train.digests import leaves_by_path, read_record
from bert_jax.train.saved_steps import step_directories

KINDS = ("bit", "bit", "bit", "truncated", "emptied", "file deleted", "half deleted", "empty directory")
Values = dict[str, bytes]


def files_of(step: Path) -> list[Path]:
    """All files of a saved step, in a fixed order."""
    return sorted(path for path in step.rglob("*") if path.is_file())


def damage(step: Path, kind: str, number: int, draw: random.Random) -> str:
    """Do it; what was done, in words."""
    found = [path for path in files_of(step) if path.stat().st_size or kind == "file deleted"]
    path = found[number % len(found)] if kind == "bit" else draw.choice(found)
    name, size = path.relative_to(step), path.stat().st_size
    if kind == "bit":
        data = bytearray(path.read_bytes())
        place, bit = draw.randrange(size), draw.randrange(8)
        data[place] ^= 1 << bit
        path.write_bytes(data)
        return f"bit {bit} of byte {place} of {name} flipped"
    if kind == "truncated":
        kept = draw.randrange(size)
        path.write_bytes(path.read_bytes()[:kept])
        return f"{name} cut to {kept} of {size} bytes"
    if kind == "emptied":
        path.write_bytes(b"")
        return f"{name} emptied"
    if kind == "file deleted":
        path.unlink()
        return f"{name} deleted"
    if kind == "half deleted":
        doomed = draw.sample(found, max(1, len(found) // 2))
        for one in doomed:
            one.unlink()
        return f"{len(doomed)} of {len(found)} files deleted"
    shutil.rmtree(step)
    step.mkdir()
    return "an empty directory"


def spoil(step: Path) -> None:
    """Damage a step beyond use."""
    for path in files_of(step):
        path.write_bytes(path.read_bytes()[::-1])


class Trial:
    """A run, what its checkpoints hold, and what was found of its damaged copies."""

    def __init__(self, run: Path, work: Path):
        self.run, self.copy = run, work / "run"
        steps = step_directories(run / "checkpoints")
        if len(steps) < 2:
            raise BertJaxError(f"{run} has {len(steps)} checkpoint(s): expected two or more")
        self.abstract = self._abstract(list(steps.values())[-1])
        self.truth: dict[int, Values] = {}
        for step in list(steps)[-2:]:
            self.fresh()
            for other in steps:
                if other > step:
                    shutil.rmtree(self.copy / "checkpoints" / str(other))
            found = self.restore()
            assert found is not None
            assert found[0] == step
            self.truth[step] = found[1]
        self.outcomes: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self.failures: list[str] = []

    def _abstract(self, step: Path) -> dict[str, Any]:
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        leaves = read_record(step)["leaves"].items()
        return {
            path: jax.ShapeDtypeStruct(tuple(leaf["shape"]), np.dtype(leaf["dtype"]), sharding=here)
            for path, leaf in leaves
        }

    def fresh(self) -> Path:
        """A new copy; its folder of checkpoints."""
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.copytree(self.run / "checkpoints", self.copy / "checkpoints")
        return self.copy / "checkpoints"

    def restore(self) -> tuple[int, Values] | None:
        """Step and values that the copy gives, as training would take them."""
        with Checkpoints(self.copy / "checkpoints", told=False) as checkpoints:
            restored = checkpoints.restore(self.abstract)
        if restored is None:
            return None
        return restored.step, {
            path: np.asarray(leaf).tobytes() for path, leaf in leaves_by_path(restored.state).items()
        }

    def one(self, number: int, draw: random.Random) -> None:
        """One damage."""
        folder, kind = self.fresh(), KINDS[number % len(KINDS)]
        before, last = sorted(self.truth)
        done = damage(folder / str(last), kind, number // len(KINDS) * 3 + number % len(KINDS), draw)
        left = (folder / str(last)).is_dir()
        hopeless = number % 10 == 9
        if hopeless:
            for step in step_directories(folder).values():
                spoil(step)
            kind, done = "all damaged", "every step spoilt"
        predicted = self._predicted()
        try:
            found = self.restore()
        except BertJaxError as error:
            if hopeless and "holds no good checkpoint" in str(error) and predicted is None:
                self.outcomes[kind]["refused"] += 1
            else:
                self.failures.append(f"{done}: {error}")
            return
        except Exception as error:  # whatever it is, it is a finding
            self.failures.append(f"{done}: {type(error).__name__}: {error}")
            return
        self._judge(kind, done, found, predicted, (before, last), folder, left)

    def _predicted(self) -> tuple[int, Values] | None:
        """Step and parameters that a prediction would take; None when it is told that there are none."""
        try:
            params, step = restore_params(self.copy)
        except BertJaxError:
            return None
        return step, {f"params/{path}": np.asarray(leaf).tobytes() for path, leaf in leaves_by_path(params).items()}

    def _judge(
        self,
        kind: str,
        done: str,
        found: tuple[int, Values] | None,
        predicted: tuple[int, Values] | None,
        steps: tuple[int, int],
        folder: Path,
        left: bool,
    ) -> None:
        """`left`: whether the damaged step's directory was there at all, to be set aside."""
        before, last = steps
        names = {path.name for path in folder.iterdir()}
        aside = f"{last}.damaged" in names
        if found is None or found[0] not in steps:
            self.failures.append(f"{done}: step {found and found[0]} was restored of {names}")
        elif found[1] != self.truth[found[0]]:
            self.failures.append(f"{done}: WRONG VALUES were restored from step {found[0]}")
        elif aside != (left and found[0] == before):
            self.failures.append(f"{done}: step {found[0]} was restored, and there are {sorted(names)}")
        elif predicted is None or any(self.truth[predicted[0]][path] != leaf for path, leaf in predicted[1].items()):
            self.failures.append(f"{done}: a prediction takes {'nothing' if predicted is None else 'WRONG VALUES'}")
        else:
            self.outcomes[kind]["harmless" if found[0] == last else "set aside"] += 1


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("run", type=Path)
    parser.add_argument("--places", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    set_up_logging()
    draw = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(given.run, Path(folder))
        for number in range(given.places):
            trial.one(number, draw)
    found = {
        "schema": 1,
        "places": given.places,
        "outcomes": {kind: dict(counts) for kind, counts in sorted(trial.outcomes.items())},
        "failures": trial.failures,
    }
    print(json.dumps(found))
    return 1 if trial.failures else 0


if __name__ == "__main__":
    sys.exit(main())
