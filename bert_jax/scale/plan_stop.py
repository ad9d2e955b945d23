"""How long a run takes from a signal to its end, beside the notice that a spot machine gets before it is taken away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bert_jax.config import Config
from bert_jax.train.memory import parameter_bytes

STOP_SECONDS = 10.0
"""From the signal until the last save begins: to agree on a step, to finish the few that are under way."""
NOTICE_SECONDS = 30.0
"""What a spot VM is given between the signal and its end."""
SAVE_RATE = 100e6
"""Bytes per second that a host is taken to write; a machine's balanced disk or a bucket gives more."""
_CHIPS_PER_HOST = 8


def stop_figures(settings: Config, mesh: Mapping[str, int]) -> dict[str, Any]:
    """`stop_seconds_bound` and what it is made of: 10 s and one save of parameters and both moments.

    The host that writes most is taken to write, of every part of the state, the whole, as if no copy elsewhere helped.
    """
    per_device = 3 * parameter_bytes(settings, mesh)
    size = per_device * min(_CHIPS_PER_HOST, mesh["fsdp"] * mesh["tensor"])
    return {
        "save_bytes_per_host": size,
        "save_rate_assumed": SAVE_RATE,
        "save_seconds_bound": size / SAVE_RATE,
        "stop_seconds_bound": STOP_SECONDS + size / SAVE_RATE,
    }


def stop_report(result: Mapping[str, Any]) -> str:
    """A line of the plan."""
    most, saving = result["stop_seconds_bound"], result["save_seconds_bound"]
    size, rate = result["save_bytes_per_host"] / 1e9, result["save_rate_assumed"] / 1e6
    line = (
        f"stopped by a signal: saved in at most {most:.0f} s (10 s, and {saving:.1f} s for {size:.2f} GB of one host "
        f"at an assumed {rate:.0f} MB/s)"
    )
    if most > NOTICE_SECONDS:
        return f"{line}: more than the {NOTICE_SECONDS:.0f} s of a spot machine, so have a disk faster than that"
    return f"{line}; a spot machine has {NOTICE_SECONDS:.0f} s"
