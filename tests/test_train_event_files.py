"""TensorBoard event files: written at once, whole again after a full disk, and without torch."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

from bert_jax.train.event_files import EventFile

_WITH_A_BROKEN_TORCH = """
import sys
from pathlib import Path
from bert_jax.train.event_files import EventFile
EventFile(Path({folder!r}), 1).write(1, {{"train/loss": 2.0}})
assert "torch" not in sys.modules
import torch
"""


def test_torch_is_neither_wanted_nor_imported(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise RuntimeError('a broken torch')")
    text = _WITH_A_BROKEN_TORCH.format(folder=str(tmp_path / "events"))
    paths = [str(tmp_path), str(Path(__file__).parent.parent)]
    ended = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}\n{text}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    # The torch is there and broken, and only who asks for it hears of it.
    assert ended.stderr.splitlines()[-1] == "RuntimeError: a broken torch", ended.stderr
    assert len(list((tmp_path / "events").iterdir())) == 1


def test_a_full_disk_is_an_error_at_once_and_the_next_line_begins_another_file(tmp_path: Path) -> None:
    events = EventFile(tmp_path, 1)
    events.write(1, {"train/loss": 1.0})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (128, hard))  # what a full disk looks like to whoever writes
    try:
        failures = 0
        for step in range(2, 40):  # many: nothing may wait for room in a queue
            try:
                events.write(step, {"train/loss": 2.0})
            except OSError:
                failures += 1
        assert failures > 5
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    events.write(40, {"train/loss": 4.0})
    events.close()
    newest = max(tmp_path.iterdir(), key=lambda path: path.name.rpartition(".")[2])
    assert newest.stat().st_size > 128
