"""Huge pages for what a computation on the CPU allocates.

XLA allocates a step's intermediate arrays anew in every step, and Linux then hands them out in pages of 4 KiB, each
with a fault of its own: a fifth to a third of a small model's step. glibc asks for pages of 2 MiB instead when a
tunable says so, which it reads once, when the process starts. Hence the restart.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

TUNABLE = "glibc.malloc.hugetlb"
_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_FIRST_GLIBC = (2, 35)  # the first that knows the tunable


def environment_with_huge_pages(environment: Mapping[str, str]) -> dict[str, str] | None:
    """`environment` with the tunable set; None where it is set already, of no use, or not known.

    A tunable that the user set, to whatever value, stays as it is.
    """
    tunables = environment.get("GLIBC_TUNABLES", "")
    if TUNABLE in tunables or not _asked_for_pages_are_given() or _glibc() < _FIRST_GLIBC:
        return None
    return {**environment, "GLIBC_TUNABLES": ":".join(filter(None, [tunables, f"{TUNABLE}=1"]))}


def restart_with_huge_pages() -> None:
    """Start this very command again, in the same process and with huge pages, unless it has them or cannot."""
    environment = environment_with_huge_pages(os.environ)
    if environment is not None and sys.orig_argv:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def _asked_for_pages_are_given() -> bool:
    """Whether the kernel gives huge pages to who asks: with 'always' nobody needs to, with 'never' nobody can."""
    try:
        return "[madvise]" in _SETTING.read_text()
    except OSError:
        return False


def _glibc() -> tuple[int, ...]:
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        return tuple(int(part) for part in version.split(".")) if name == "glibc" else ()
    except (ValueError, OSError, AttributeError):
        return ()
