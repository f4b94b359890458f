"""What the worker does to itself before it loads a vendor's library."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal

_PR_SET_DUMPABLE = 4  # <linux/prctl.h>
_SPYING_VARIABLES = ("PKCS11SPY", "P11_KIT_DEBUG")
_SPYING_MODULE = "pkcs11-spy"


class Diagnostics:
    """One JSON line per event on the error stream the worker was started with, kept privately."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def say(self, event: str, **fields: str | int) -> None:
        """Write a line; a stream that is gone does not matter."""
        line = json.dumps({"event": event, "pid": os.getpid(), **fields})
        try:
            os.write(self._descriptor, line.encode() + b"\n")
        except OSError:
            return


def silence() -> Diagnostics:
    """Point the standard streams at /dev/null: vendor libraries print, secrets among it."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)
    return Diagnostics(kept)


def harden() -> None:
    """No core dump, no tracing by others, and an end only by SIGKILL or a closed socket.

    A service manager sends SIGTERM to the whole control group while the daemon still drains.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def spies(module: str) -> str:
    """Which logger of PINs is in force, if any: a spying module or a variable that makes one."""
    if _SPYING_MODULE in os.path.realpath(module).rpartition("/")[2]:
        return _SPYING_MODULE
    return next((name for name in _SPYING_VARIABLES if name in os.environ), "")
