"""Ends the processes that this one started when it ends itself, also if it is killed: a training or a scorer that went
on alone would disturb what runs next, and write where something else writes by then.

It travels into a box too, where golf/box keeps artifacts from taking this back: standard library only.
Not covered: macOS, which has no signal for a dead parent; a child's own children, which need the same.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends a command as Ctrl-C does; but that reached its children too, and this did not."""


def terminate(*_) -> None:
    """The handler of SIGTERM."""
    raise Terminated


def end_with_parent() -> Callable[[], None]:
    """For subprocess's preexec_fn: the child is killed when the thread that starts it ends."""
    parent, libc = os.getpid(), ctypes.CDLL(None)

    def settle() -> None:
        if sys.platform == "linux":
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it had ended before
                os._exit(1)

    return settle
