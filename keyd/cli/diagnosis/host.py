"""This host: versions and clock."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from keyd.cli.diagnosis.finding import Check, failed, passed, warned
from keyd.daemon.clock import SystemClock
from keyd.errors import BackendUnavailable

_PACKAGES = ("keyd", "keyd-client", "grpcio", "protobuf", "cryptography", "python-pkcs11", "tuf")
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
_TIMEX_BYTES = 208  # struct timex on 64-bit Linux


def look_at_host() -> Iterator[Check]:
    """Versions and clock."""
    yield passed("versions", ", ".join(_versions()))
    yield _clock()


def _versions() -> Iterator[str]:
    yield f"Python {platform.python_version()}"
    for package in _PACKAGES:
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:
            yield f"{package} missing"
    yield f"{platform.system()} {platform.release()} {platform.machine()}"


def _clock() -> Check:
    try:
        now = SystemClock().now()
    except BackendUnavailable as error:
        return failed("clock", error.message, "set the clock, and let NTP keep it")
    told = f"{now:%Y-%m-%d %H:%M:%S} UTC"
    timex = ctypes.create_string_buffer(_TIMEX_BYTES)  # all zeros: only asks
    if ctypes.CDLL(None).adjtimex(timex) == _TIME_ERROR:
        fix = "have NTP keep it (systemd-timesyncd or chrony): expiry depends on it"
        return warned("clock", f"{told}, not synchronised", fix)
    return passed("clock", f"{told}, synchronised")
