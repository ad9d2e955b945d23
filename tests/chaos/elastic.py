"""A run that moves from one set of devices to another, beside the same run that never moves.

    python tests/chaos/elastic.py [--steps 200] [--folder DIR]

Eight, four and two devices, one process and two, other mesh axes; a ceiling on the rows of a chip, so that fewer chips
take more microbatches. Prints one JSON object: the largest relative difference of the losses, whether every step had
the same examples, and whether each example came once per epoch over the whole history. Exit 1 when one does not hold.
"""

from __future__ import annotations

import argparse
import collections
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.append(str(Path(__file__).resolve().parent.parent))  # what the tests share

import recording_worker
from small_runs import ended, losses, make_store, pretrain_command, saved_steps, start, together

MOST = 1e-5
"""Largest relative difference of the loss of any step, in float32."""


class Place(NamedTuple):
    """Where a part of the run is trained: `processes` of `devices` each, and the mesh."""

    processes: int
    devices: int
    data: int
    fsdp: int = 1
    tensor: int = 1

    def __str__(self) -> str:
        return f"{self.processes}x{self.devices} data={self.data} fsdp={self.fsdp} tensor={self.tensor}"


HOME = Place(1, 8, 8)
ROUND = (
    HOME,
    Place(1, 4, 4),
    Place(1, 2, 2),
    Place(1, 8, 8),
    Place(2, 1, 1, 2),
    Place(1, 8, 2, 2, 2),
    Place(2, 2, 4),
    Place(1, 1, 1),
    Place(1, 4, 1, 2, 2),
    Place(1, 8, 1, 8),
)
SHORT_ROUND = (HOME, Place(1, 2, 2), Place(2, 1, 1, 2), Place(1, 8, 2, 2, 2))
"""Eight devices, two of them, two processes, other axes."""


def small_text(folder: Path, characters: int) -> Path:
    """The first documents of the standard library's documentation, about so many characters of them."""
    from bert_jax.data.sources import open_source

    path, documents, size = folder / "text.txt", [], 0
    for document in open_source("stdlib"):
        documents.append("\n".join(document))
        size += len(documents[-1])
        if size >= characters:
            break
    path.write_text("\n\n".join(documents), encoding="utf-8")
    return path


def part(folder: Path, run: Path, place: Place, steps: int, stop_at: int | None) -> None:
    """Train at one place, to `stop_at` or the end."""
    settings = [f"--mesh.data={place.data}", f"--mesh.fsdp={place.fsdp}", f"--mesh.tensor={place.tensor}"]
    settings += ["--train.sequences-per-chip", "2", "--checkpoint.every", "1000", "--evaluate.every", str(steps)]
    command = pretrain_command(folder, folder / "store", run, steps, *settings)
    command[1:3] = [recording_worker.__file__, str(run.with_suffix(".rows"))]
    more = {} if stop_at is None else {"STOP_AT": str(stop_at)}
    if place.processes == 1:
        found = [start([*command, "--processes", "1"], place.devices, **more)]
    else:
        found = together(command, place.devices, place.processes, **more)
    for process in found:
        code, _, errors = ended(process, 1200)
        if code != (0 if stop_at is None else 75):
            raise AssertionError(f"{place}: exit {code}\n{errors[-3000:]}")


def compare(folder: Path, steps: int, places: tuple[Place, ...]) -> dict[str, Any]:
    """Train both runs; what the module prints."""
    began = time.monotonic()
    whole, moved = folder / "whole", folder / "moved"
    part(folder, whole, HOME, steps, None)
    visited = []
    for index, place in enumerate(places):
        last = index == len(places) - 1
        part(folder, moved, place, steps, None if last else steps * (index + 1) // len(places) - 1)
        visited.append([str(place), saved_steps(moved)[-1]])
    expected, found = losses(whole), losses(moved)
    rows, rows_moved = (recording_worker.recorded(run.with_suffix(".rows")) for run in (whole, moved))
    seen = collections.Counter(pair for pairs in rows_moved.values() for pair in pairs)
    epochs = collections.Counter(epoch for epoch, _ in seen)
    whole_epochs = [sorted(each for of, each in seen if of == epoch) for epoch in sorted(epochs)][:-1]
    differences = [abs(found[step] - loss) / abs(loss) for step, loss in expected.items() if step in found]
    result = {
        "steps": steps,
        "places": visited,
        "losses_compared": len(differences),
        "max_relative_difference": max(differences),
        "same_global_batches": rows == rows_moved,
        "examples_per_epoch": [epochs[epoch] for epoch in sorted(epochs)],
        "ids_once_per_epoch": set(seen.values()) == {1},
        "epochs_whole": bool(whole_epochs) and all(ids == list(range(len(ids))) for ids in whole_epochs),
        "seconds": round(time.monotonic() - began, 1),
    }
    held = result["same_global_batches"] and result["ids_once_per_epoch"] and result["epochs_whole"]
    result["holds"] = bool(held and result["max_relative_difference"] <= MOST and len(differences) == steps)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--characters", type=int, default=60_000, help="of text: an epoch is well below the steps")
    parser.add_argument("--folder", type=Path, help="where to work, kept (default: a temporary one)")
    found = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bert_jax_elastic_") as temporary:
        folder = found.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        make_store(folder, str(small_text(folder, found.characters)), size=800)
        result = compare(folder, found.steps, ROUND)
    print(json.dumps(result, indent=1))
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
