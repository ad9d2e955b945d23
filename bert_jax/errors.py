"""Errors that are the user's to mend, and the exit codes every command answers with.

A message names the thing, what came, what was expected and what to do, in one line.
"""

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_STOPPED = 75  # stopped by a signal after saving: start again
EXIT_PEER_LOST = 76  # a peer was lost or nothing moved, nothing saved: start again


class BertJaxError(ValueError):
    """Something outside this code is wrong (input, configuration, disk): exit 1, one line, no traceback."""


class UsageError(BertJaxError):
    """The command line or the arguments of a function do not fit together: exit 2."""
