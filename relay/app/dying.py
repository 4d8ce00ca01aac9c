"""Lets a worker process die when its parent does, even while it is stopped or its loop is stuck (Linux, prctl(2))."""

import ctypes
import signal

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the system to kill this process as soon as its parent is gone.

    Elsewhere than on Linux there is no such request; the end of the line says the same to a loop that turns.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
