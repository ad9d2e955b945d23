"""Errors that are the user's to mend, and the exit codes every command answers with.

A message names the thing, what came, what was expected and what to do, in one line.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_STOPPED = 75  # stopped by a signal after saving: start again
EXIT_PEER_LOST = 76  # a peer was lost or nothing moved, nothing saved: start again


class BertJaxError(ValueError):
    """Something outside this code is wrong (input, configuration, disk): exit 1, one line, no traceback."""


class UsageError(BertJaxError):
    """The command line or the arguments of a function do not fit together: exit 2."""


class PeerLostError(BertJaxError):
    """Another process of this training is gone: exit 76, start all of them again."""


@contextlib.contextmanager
def bad_usage() -> Iterator[None]:
    """What is wrong inside was given as an argument: a `BertJaxError` becomes a `UsageError`."""
    try:
        yield
    except UsageError:
        raise
    except BertJaxError as error:
        raise UsageError(str(error)) from error
