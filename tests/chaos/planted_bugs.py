"""Plant bugs that hurt in silence, one at a time, and see that the tests of the default tier catch each.

    python tests/chaos/planted_bugs.py
    python tests/chaos/planted_bugs.py --only masking digests

Each is a line that a tired person might write: nothing crashes, the loss still falls, and the model is worse, or a
damaged file is read. It is planted in a copy of the package, and the module's own tests have to fail. A bug whose line
is not in the source any more is an error, so that this list keeps up with it.

Ends with one JSON object on stdout: how many were planted and caught, and `survived`, which are to be none.
"""

from __future__ import annotations

# ruff: noqa: E501 - a table
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]


class Bug(NamedTuple):
    """`was` becomes `now` in `bert_jax/{file}`; `tests` are to notice."""

    what: str
    file: str
    was: str
    now: str
    tests: str


MASKING, PAIRS, SPANS = "train/masking.py", "data/pairs.py", "data/spans.py"
ORDER, DIGESTS, OPTIMIZER = "data/permutation.py", "train/digests.py", "train/optimizer.py"
CHECKPOINT, STEP, LOSSES, SCHEDULE = "train/checkpoint.py", "train/step.py", "train/losses.py", "train/schedule.py"
SAVED, METRICS = "train/saved_steps.py", "train/metrics.py"
BUGS = (
    Bug("no token keeps itself", MASKING, "uint32(round(0.9 * 2**32))", "uint32(round(0.8 * 2**32))", "train_masking"),
    Bug("85 % become [MASK]", MASKING, "uint32(round(0.8 * 2**32))", "uint32(round(0.85 * 2**32))", "train_masking"),
    Bug("the same masks in every epoch", MASKING, "epochs, jnp.full_like(epochs, _PURPOSE)", "0 * epochs, jnp.full_like(epochs, _PURPOSE)", "train_masking"),
    Bug("special tokens are masked too", MASKING, "candidate &= ids != special", "candidate &= ids >= 0", "train_masking"),
    Bug("padding is masked too", MASKING, "candidate = real\n", "candidate = jnp.ones_like(real)\n", "train_masking"),
    Bug("the label is the replaced token", MASKING, "jnp.where(used, originals, 0)", "jnp.where(used, replacements, 0)", "train_masking"),
    Bug("one mask too many where words are whole", MASKING, "(size <= jnp.sum(left * own, axis=1))", "(size <= jnp.sum(left * own, axis=1) + 1)", "train_masking"),
    Bug("unused places count in the loss", MASKING, "used.astype(jnp.float32)", "jnp.ones_like(used, jnp.float32)", "train_masking"),
    Bug("next sentence labels the other way round", PAIRS, "label = chunks.is_random.astype(np.int32)", "label = 1 - chunks.is_random.astype(np.int32)", "data_pairs"),
    Bug("a random second segment three times in four", PAIRS, "(words & np.uint64(1)).astype(bool)\n    return", "(words & np.uint64(3)).astype(bool)\n    return", "data_pairs"),
    Bug("unused sentences are lost, not put back", PAIRS, "np.where(is_random, starts + in_a, stops + 1)", "stops + 1", "data_pairs"),
    Bug("a random segment from the same document", PAIRS, "again = again[document[again] == own[again]]", "again = again[:0]", "data_pairs"),
    Bug("truncated at the end alone", SPANS, "front_a, front_b = _ones(from_a, bits), _ones(from_b, bits)", "front_a, front_b = 0 * from_a, 0 * from_b", "data_pairs"),
    Bug("the shorter segment loses tokens", SPANS, "np.where(in_a > in_b, until_level, 0)", "np.where(in_a < in_b, until_level, 0)", "data_pairs"),
    Bug("rows outside are not sent through again", ORDER, "result[outside] = again", "result[outside] = again % size", "data_permutation"),
    Bug("every epoch in the same order", ORDER, "self._parts = (seed, epoch)", "self._parts = (seed, 0)", "data_permutation"),
    Bug("a window's offset is off by the hole", ORDER, "late = offsets >= (short_window + 1) * window_rows - self._hole", "late = offsets >= (short_window + 1) * window_rows", "data_permutation"),
    Bug("digests do not see the place", DIGESTS, "words + index * jnp.uint32(0x9E3779B1) + jnp.uint32(1)", "words + jnp.uint32(1)", "train_digests"),
    Bug("digests do not see the low bits", DIGESTS, "jax.lax.bitcast_convert_type(leaf, jnp.uint32)", "jax.lax.bitcast_convert_type(leaf, jnp.uint32) >> 1", "train_digests"),
    Bug("the record's checksum is not compared", DIGESTS, "if files.digest(record) != checksum:", "if not checksum:", "train_digests"),
    Bug("digests are read and not compared", SAVED, "if found != written:", "if len(found) != len(written):", "train_checkpoint"),
    Bug("damage is believed at the first reading", CHECKPOINT, "for attempt in range(2):", "for attempt in (1,):", "train_checkpoint"),
    Bug("the oldest checkpoints are kept, the newest deleted", CHECKPOINT, "kept = set(steps[-self.keep :] if self.keep else steps)", "kept = set(steps[: self.keep])", "train_checkpoint"),
    Bug("LayerNorm decays", OPTIMIZER, '(r"(.*/)?scale", False)', '(r"(.*/)?scale", True)', "train_optimizer"),
    Bug("biases decay", OPTIMIZER, '(r"(.*/)?bias", False)', '(r"(.*/)?bias", True)', "train_optimizer"),
    Bug("decay is scaled by Adam's denominator", OPTIMIZER, "m / (jnp.sqrt(v) + optimizer.eps), mu, nu)", "m / jnp.sqrt(v + optimizer.eps), mu, nu)", "train_optimizer"),
    Bug("bias correction one update late", OPTIMIZER, "optax.ScaleByAdamState(count - 1,", "optax.ScaleByAdamState(count,", "train_optimizer"),
    Bug("clipping multiplies by the limit", OPTIMIZER, "jnp.where(norm > limit, limit / norm, 1.0)", "jnp.where(norm > limit, limit, 1.0)", "train_optimizer"),
    Bug("decay counted from the end of the warm-up", SCHEDULE, 'warmup if optimizer.decay_from == "start" else 0', "0", "train_schedule"),
    Bug("the loss is a mean of means", LOSSES, "jnp.sum(weights * losses), jnp.sum(weights * right)", "jnp.mean(weights * losses), jnp.sum(weights * right)", "train_losses"),
    Bug("a gradient that is not finite is applied", STEP, "jnp.isfinite(loss) & jnp.isfinite(grad_norm) & jnp.isfinite(update_norm)", "jnp.isfinite(loss)", "train_step"),
    Bug("moments move where the update was skipped", STEP, "(optax.apply_updates(state.params, updates), moments),\n            (state.params, state.opt_state),", "(optax.apply_updates(state.params, updates), moments),\n            (state.params, moments),", "train_step"),
    Bug("lines after the restored step stay", METRICS, 'if line["step"] <= step)', 'if line["step"] <= step + 1)', "train_metrics"),
)  # fmt: skip


def plant(bug: Bug, copy: Path) -> None:
    """Write the package with this one bug to `copy`."""
    shutil.rmtree(copy / "bert_jax", ignore_errors=True)
    shutil.copytree(REPOSITORY / "bert_jax", copy / "bert_jax", ignore=shutil.ignore_patterns("__pycache__"))
    path = copy / "bert_jax" / bug.file
    source = path.read_text(encoding="utf-8")
    if source.count(bug.was) != 1:
        raise SystemExit(f"{bug.what}: {bug.file} holds {bug.was!r} {source.count(bug.was)} times, expected once")
    path.write_text(source.replace(bug.was, bug.now), encoding="utf-8")


def caught(bug: Bug, copy: Path) -> str | None:
    """The first test that fails with the bug; None when all pass."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider", "-rf"]
    environment = os.environ | {"PYTHONPATH": str(copy), "JAX_PLATFORMS": "cpu"}
    found = subprocess.run(
        [*command, f"tests/test_{bug.tests}.py"], cwd=copy, env=environment, capture_output=True, text=True
    )
    if found.returncode == 0:
        return None
    failed = [line for line in found.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if found.returncode != 1 or not failed:
        raise SystemExit(
            f"{bug.what}: pytest ended with {found.returncode}: {found.stdout[-2000:]}{found.stderr[-500:]}"
        )
    return failed[0].split(" - ")[0].removeprefix("FAILED ").removeprefix("ERROR ")


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--only", nargs="+", default=[""], help="bugs in files whose name holds one of these")
    given = parser.parse_args(arguments)
    bugs = [bug for bug in BUGS if any(part in bug.file for part in given.only)]
    survived = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("tests", "configs", "pyproject.toml", "docs", "README.md", "launch"):
            (copy / name).symlink_to(REPOSITORY / name)
        for bug in bugs:
            plant(bug, copy)
            test = caught(bug, copy)
            print(f"{'SURVIVED' if test is None else 'caught'}: {bug.what} ({bug.file}) {test or ''}", file=sys.stderr)
            if test is None:
                survived.append(bug.what)
    print(json.dumps({"schema": 1, "planted": len(bugs), "caught": len(bugs) - len(survived), "survived": survived}))
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
