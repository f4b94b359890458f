"""Directories and files that only this user can touch, and the lock that keeps others out.

Everything lies in a directory of mode 0700 that belongs to the user keyd runs as; links are
refused. Within such a directory nobody else can put anything in place of what was checked.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

from keyd.errors import BackendUnavailable, NotAllowed


def make_directory(directory: Path) -> None:
    """Make the directory unless it is there, with its name flushed, then check it.

    Raises: NotAllowed (STATE_PATH_UNSAFE), OSError.
    """
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        pass
    else:
        flush_directory(directory.parent)
    check_directory(directory)


def check_directory(directory: Path) -> None:
    """Raises: NotAllowed unless it is a directory of mode 0700 (or less) of ours, no link."""
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise _unsafe(directory, "is no directory")
    _check_owner_and_mode(directory, found)


def check_file(path: Path) -> None:
    """Raises: NotAllowed unless it is a regular file of mode 0600 (or less) of ours, no link."""
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise _unsafe(path, "is no regular file")
    if found.st_nlink != 1:
        raise _unsafe(path, "has a second name")
    _check_owner_and_mode(path, found)


def check_file_if_there(path: Path) -> None:
    """`check_file`, for files that may be absent."""
    if os.path.lexists(path):
        check_file(path)


def _check_owner_and_mode(path: Path, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid():
        raise _unsafe(
            path, f"belongs to uid {found.st_uid}, not to the user that keyd runs as (chown it)"
        )
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise _unsafe(path, f"has mode {mode:04o}; others must have no access (chmod go= it)")


def _unsafe(path: Path, why: str) -> NotAllowed:
    return NotAllowed("STATE_PATH_UNSAFE", f"{path} {why}")


def create_file(path: Path) -> int:
    """Make a new file of mode 0600; return its descriptor, open for writing.

    Raises: FileExistsError, OSError.
    """
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags, 0o600)


def flush_directory(directory: Path) -> None:
    """Make names created, renamed or removed in the directory durable. Raises: OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_file(path: Path) -> None:
    """Make a file's content durable. Raises: OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Lock:
    """An exclusive flock on a file; it ends with the process or with `release`."""

    def __init__(self, path: Path, reason: str) -> None:
        """Take the lock. Raises: BackendUnavailable with `reason`, NotAllowed, OSError."""
        check_file_if_there(path)
        flags = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise BackendUnavailable(
                reason, f"another process holds {path}; stop that keyd first"
            ) from error

    def release(self) -> None:
        """Give the lock back; the file stays."""
        os.close(self._descriptor)
