"""Unix sockets that only their principal can reach.

The directory is the guard: gRPC creates the socket with the process's umask, so who may come near
it is settled before it exists. gRPC also removes whatever socket it finds in the way, live or not;
hence the checks here, which leave it nothing to remove.
"""

from __future__ import annotations

import errno
import grp
import os
import socket
import stat
from pathlib import Path

from keyd.rpc.options import CannotListen, UnixListener

# sockaddr_un.sun_path (unix(7)) less its terminating zero.
_PATH_MAX = 107


def prepare(listener: UnixListener) -> None:
    """Make or check the directory and clear away a dead socket of ours.

    Raises: CannotListen (SOCKET_PATH, SOCKET_DIRECTORY, SOCKET_IN_USE).
    """
    path = listener.path
    if not path.is_absolute() or ".." in path.parts or len(os.fsencode(path)) > _PATH_MAX:
        raise CannotListen(
            "SOCKET_PATH",
            f"{path}: a socket's path is absolute, has no '..' and at most {_PATH_MAX} bytes",
        )
    directory = path.parent
    _check_ancestors(directory)
    _make_directory(directory, listener)
    _check_directory(directory, listener)
    _remove_dead_socket(path)


def restrict(listener: UnixListener) -> tuple[int, int]:
    """Set the bound socket's group and mode; returns its device and inode, for `remove`.

    Raises: CannotListen (SOCKET_GROUP) if keyd's user is not in the group.
    """
    path = listener.path
    try:
        if listener.group:
            os.chown(path, -1, _gid(listener.group), follow_symlinks=False)
        path.chmod(0o660 if listener.group else 0o600)
        found = path.lstat()
    except OSError as error:
        raise CannotListen(
            "SOCKET_GROUP", f"{path} cannot be given to group {listener.group}: {error.strerror}"
        ) from error
    return found.st_dev, found.st_ino


def remove(path: Path, identity: tuple[int, int]) -> None:
    """Unlink the socket if it is still the one `restrict` saw."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if (found.st_dev, found.st_ino) == identity:
        path.unlink(missing_ok=True)


def _check_ancestors(directory: Path) -> None:
    """Nobody but root and us may be able to replace a directory on the way to the socket."""
    for part in reversed(directory.parents):
        found = _lstat(part)
        if found is None:
            raise _bad_directory(part, "does not exist; make it first")
        if stat.S_ISLNK(found.st_mode):
            raise _bad_directory(part, "is a symbolic link; name the directory it points to")
        if found.st_uid not in {0, os.geteuid()}:
            raise _bad_directory(
                part, f"belongs to uid {found.st_uid}, neither root nor keyd; type: chown"
            )
        if found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
            raise _bad_directory(part, f"can be written by others; type: chmod go-w {part}")


def _make_directory(directory: Path, listener: UnixListener) -> None:
    if _lstat(directory) is not None:
        return
    try:
        directory.mkdir(mode=0o700)
        if listener.group:
            os.chown(directory, -1, _gid(listener.group), follow_symlinks=False)
            directory.chmod(0o750)
    except OSError as error:
        raise _bad_directory(directory, f"cannot be made: {error.strerror}") from error


def _check_directory(directory: Path, listener: UnixListener) -> None:
    found = _lstat(directory)
    if found is None or not stat.S_ISDIR(found.st_mode):
        raise _bad_directory(directory, "is no directory (a symbolic link will not do)")
    if found.st_uid != os.geteuid():
        raise _bad_directory(
            directory, f"belongs to uid {found.st_uid}, not to keyd's user; chown it"
        )
    mode = stat.S_IMODE(found.st_mode)
    if not listener.group:
        if mode & 0o077:
            raise _bad_directory(directory, f"has mode {mode:04o}; type: chmod 0700 {directory}")
    elif mode & 0o027 or found.st_gid != _gid(listener.group):
        raise _bad_directory(
            directory,
            f"must have group {listener.group} and mode 0750; type: chgrp {listener.group} "
            f"{directory} && chmod 0750 {directory}",
        )


def _remove_dead_socket(path: Path) -> None:
    found = _lstat(path)
    if found is None:
        return
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        raise CannotListen("SOCKET_IN_USE", f"{path} exists and is no socket of ours; move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        outcome = probe.connect_ex(os.fsencode(path))
    if outcome != errno.ECONNREFUSED:
        raise CannotListen(
            "SOCKET_IN_USE", f"something listens on {path}; stop the other daemon first"
        )
    path.unlink()


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _bad_directory(path, f"cannot be looked at: {error.strerror}") from error


def _gid(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise CannotListen("SOCKET_GROUP", f"there is no group {group!r}") from error


def _bad_directory(path: Path, why: str) -> CannotListen:
    return CannotListen("SOCKET_DIRECTORY", f"{path} {why}")
