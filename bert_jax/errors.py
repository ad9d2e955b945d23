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


class StoppedBySignal(BaseException):
    """Training was stopped by a signal and everything was saved; `step` is the step to resume from (exit 75).

    Not an `Exception`: code that swallows errors must not swallow a stop.
    """

    def __init__(self, step: int):
        super().__init__(f"stopped by a signal; saved at step {step}")
        self.step = step
