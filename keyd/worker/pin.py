"""The PIN's way through the worker: one buffer, read late, overwritten at once.

Python and the vendor's module may keep copies that nobody can wipe; that is why the worker is a
small process without network or core dumps.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from keyd.wire.worker_pb2 import Failure, Login
from keyd.worker.failures import WorkerFailure

_MAX_PIN_BYTES = 1024


@contextmanager
def pin_of(login: Login) -> Iterator[bytearray]:
    """The PIN to present; overwritten with zeros on leaving.

    Raises: WorkerFailure (PIN_UNAVAILABLE) when there is none or its file is not kept safely.
    """
    if login.WhichOneof("pin") == "typed":
        pin = bytearray(login.typed)
    else:
        pin = _read(login.credential_file)
    _keep_in_memory(pin)
    try:
        if not pin:
            raise _unavailable("PIN_EMPTY")
        yield pin
    finally:
        pin[:] = bytes(len(pin))


def _read(path: str) -> bytearray:
    # Without O_NONBLOCK a FIFO would keep us waiting for its writer.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise _unavailable(f"PIN_FILE_{type(error).__name__}") from error
    try:
        _check_keeping(os.fstat(descriptor))
        pin = bytearray(_MAX_PIN_BYTES + 1)
        length = os.readv(descriptor, [pin])
    finally:
        os.close(descriptor)
    if length > _MAX_PIN_BYTES:
        raise _unavailable("PIN_FILE_TOO_LONG")
    del pin[length:]
    if pin.endswith(b"\n"):
        del pin[-1:]
    return pin


def _check_keeping(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise _unavailable("PIN_FILE_NOT_REGULAR")
    if found.st_uid not in (0, os.geteuid()):
        raise _unavailable("PIN_FILE_OWNER")
    forbidden = 0o077
    if found.st_uid == 0 and found.st_gid == 0:
        # systemd hands credentials to a service's user by an ACL, whose mask shows up as the
        # group's right to read. The group is root's, so nobody else gains by it.
        forbidden = 0o037
    if found.st_mode & forbidden:
        raise _unavailable("PIN_FILE_MODE")


def _keep_in_memory(pin: bytearray) -> None:
    if not pin:
        return
    buffer = (ctypes.c_char * len(pin)).from_buffer(pin)
    # Refused where LimitMEMLOCK allows nothing; then the PIN may reach the swap.
    ctypes.CDLL(None).mlock(ctypes.byref(buffer), ctypes.c_size_t(len(pin)))


def _unavailable(code: str) -> WorkerFailure:
    return WorkerFailure(Failure.KIND_PIN_UNAVAILABLE, code)
