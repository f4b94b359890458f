"""What the process gives up before it reads a single secret."""

from __future__ import annotations

import ctypes
import os
import resource

from keyd.errors import NotAllowed

_PR_SET_DUMPABLE = 4  # prctl(2)


def refuse_root(allow_root: bool) -> None:
    """Raises: NotAllowed (ROOT_REFUSED) for uid 0, unless that was asked for."""
    if os.geteuid() == 0 and not allow_root:
        raise NotAllowed(
            "ROOT_REFUSED",
            "keyd does not run as root: start it as a user of its own (see contrib/systemd), "
            "or add --allow-root",
        )


def loading_variables() -> list[str]:
    """Variables of ld.so(8) in force that let code in which nobody configured here."""
    return [name for name in ("LD_PRELOAD", "LD_AUDIT", "LD_LIBRARY_PATH") if os.environ.get(name)]


def harden_process() -> None:
    """New files are ours alone; no core dump and no debugger shows our memory."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE) failed")
