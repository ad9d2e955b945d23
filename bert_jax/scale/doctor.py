"""`doctor`: what this machine can run and what will fail on it, each finding with what to do about it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bert_jax.scale import doctor_devices, doctor_machine
from bert_jax.scale.doctor_machine import Finding


def doctor(what: str | None = None, folders: Sequence[str] = (".",), quick: bool = False) -> dict[str, Any]:
    """Look at packages, limits, folders and devices, and at `what` (a MODEL or a CONFIG) where one is given.

    Each finding is printed as it comes. Returns `failing`, how many of them will fail, and `findings`, each with
    `check status found fix`. `quick` computes nothing on the devices.
    """
    findings = []
    for finding in _findings(what, folders, quick):
        print(finding.line(), file=sys.stderr, flush=True)
        findings.append(finding)
    failing = sum(finding.status == "failing" for finding in findings)
    return {"failing": failing, "findings": [finding._asdict() for finding in findings]}


def _findings(what: str | None, folders: Sequence[str], quick: bool) -> Iterator[Finding]:
    yield from doctor_machine.packages()
    yield from doctor_machine.extras()
    yield from doctor_machine.limits()
    written = list(doctor_machine.folders(folders))
    yield from written
    seen = list(doctor_devices.devices())
    yield from seen
    if any(finding.status == "failing" for finding in seen):
        return
    if not quick:
        yield from doctor_devices.exchange()
        yield from doctor_devices.step()
    if what is not None:
        good = bool(written) and written[0].status != "failing"
        yield from doctor_devices.subject(what, doctor_machine.write_rate(Path(folders[0])) if good else None)
