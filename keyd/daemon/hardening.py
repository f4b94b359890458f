"""What the process gives up before it reads a single secret."""

from __future__ import annotations

import ctypes
import os
import resource

from keyd.errors import NotAllowed

_PR_SET_DUMPABLE = 4  # prctl(2)
# Of ld.so(8), Python, OpenSSL and iconv(3).
_LOADING_VARIABLES = (
    "LD_PRELOAD",
    "LD_AUDIT",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "PYTHONHOME",
    "OPENSSL_CONF",
    "OPENSSL_MODULES",
    "OPENSSL_ENGINES",
    "GCONV_PATH",
)


def refuse_root(allow_root: bool) -> None:
    """Raises: NotAllowed (ROOT_REFUSED) for uid 0, unless that was asked for."""
    if os.geteuid() == 0 and not allow_root:
        raise NotAllowed(
            "ROOT_REFUSED",
            "keyd does not run as root: start it as a user of its own (see contrib/systemd), "
            "or add --allow-root",
        )


def loading_variables() -> list[str]:
    """Variables in force by which libraries load code that nobody configured here."""
    return [name for name in _LOADING_VARIABLES if os.environ.get(name)]


def refuse_foreign_code(allow_foreign_code: bool) -> None:
    """Raises: NotAllowed (FOREIGN_CODE) when such variables are set, unless that was asked for."""
    found = loading_variables()
    if found and not allow_foreign_code:
        raise NotAllowed(
            "FOREIGN_CODE",
            f"{', '.join(found)} may load other code into keyd, which would see PINs and payloads: "
            "unset it, or add --allow-foreign-code",
        )


def harden_process() -> None:
    """New files are ours alone; no core dump and no debugger shows our memory."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE) failed")
