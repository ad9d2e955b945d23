"""One benchmark in a process of its own: its memory is its own, and what it dies of is a row and not the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

_SHOWN = 300  # characters of an error


def measure_apart(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The record of `bench ARGUMENTS`, run by a Python of its own; with `error` alone where it failed.

    An accelerator that is out of memory, or the kernel's killer, ends that process only. Its log goes to our stderr.
    """
    found = run_apart(["bert_jax", "bench", *arguments], environment)
    return {"bench": arguments[0], **found} if "error" in found else found


def run_apart(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The JSON object that ends the output of `python -m ARGUMENTS`; `{"error": why}` where it failed."""
    command = [sys.executable, "-m", *arguments]
    known = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)} | dict(environment or {})
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=known) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        said = []
        for line in process.stderr:
            sys.stderr.write(line)
            said.append(line.strip())
        answer = process.stdout.read()
    if process.returncode:
        return {"error": _reason(process.returncode, said)}
    return json.loads(answer.strip().splitlines()[-1])


def _reason(code: int, said: Sequence[str]) -> str:
    """Why a process ended: its last words, or the signal."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"ended by {name}" + (", most likely for want of memory" if name == "SIGKILL" else "")
    words = [line for line in said if line]
    last = next((line for line in reversed(words) if "RESOURCE_EXHAUSTED" in line or line.startswith("error: ")), "")
    return (last or (words[-1] if words else f"exit {code}")).removeprefix("error: ")[:_SHOWN]
