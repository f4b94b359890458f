"""Socket directories and dead sockets: only what is surely ours is used or removed."""

from __future__ import annotations

import grp
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from keyd.rpc import sockets
from keyd.rpc.options import CannotListen, UnixListener


def listener(path: Path, group: str = "") -> UnixListener:
    return UnixListener(path, "admin", administrator=True, group=group)


def own_group() -> str:
    return grp.getgrgid(os.getegid()).gr_name


def bound(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(str(path))
    return server


def refusal(path: Path, group: str = "") -> str:
    with pytest.raises(CannotListen) as refused:
        sockets.prepare(listener(path, group))
    return refused.value.reason


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_makes_the_directory_for_its_user_alone(socket_dir: Path) -> None:
    path = socket_dir / "new" / "admin.sock"
    sockets.prepare(listener(path))
    assert mode(path.parent) == 0o700
    with bound(path):
        identity = sockets.restrict(listener(path))
        assert mode(path) == 0o600
        sockets.remove(path, identity)
    assert not path.exists()


def test_makes_the_directory_for_a_group(socket_dir: Path) -> None:
    path = socket_dir / "new" / "ci.sock"
    sockets.prepare(listener(path, own_group()))
    assert mode(path.parent) == 0o750
    with bound(path):
        sockets.restrict(listener(path, own_group()))
        assert mode(path) == 0o660
        assert path.lstat().st_gid == os.getegid()
    sockets.prepare(listener(path, own_group()))


@pytest.mark.parametrize("bits", [0o701, 0o710, 0o750, 0o755, 0o777])
def test_an_open_directory_is_refused(socket_dir: Path, bits: int) -> None:
    directory = socket_dir / "open"
    directory.mkdir()
    directory.chmod(bits)
    assert refusal(directory / "s") == "SOCKET_DIRECTORY"


@pytest.mark.parametrize("bits", [0o770, 0o755, 0o751])
def test_a_group_directory_open_to_more_is_refused(socket_dir: Path, bits: int) -> None:
    directory = socket_dir / "open"
    directory.mkdir()
    directory.chmod(bits)
    assert refusal(directory / "s", own_group()) == "SOCKET_DIRECTORY"


def test_unknown_group(socket_dir: Path) -> None:
    assert refusal(socket_dir / "new" / "s", "no-such-group") == "SOCKET_GROUP"


def a_symlink(directory: Path) -> Path:
    (directory / "real").mkdir(mode=0o700)
    (directory / "link").symlink_to(directory / "real")
    return directory / "link" / "s"


def below_a_symlink(directory: Path) -> Path:
    return a_symlink(directory).parent / "deeper" / "s"


def below_a_writable_directory(directory: Path) -> Path:
    (directory / "shared").mkdir()
    (directory / "shared").chmod(0o777)
    (directory / "shared" / "own").mkdir(mode=0o700)
    return directory / "shared" / "own" / "s"


def below_nothing(directory: Path) -> Path:
    return directory / "a" / "b" / "s"


def a_file_for_a_directory(directory: Path) -> Path:
    (directory / "file").touch()
    return directory / "file" / "s"


@pytest.mark.parametrize(
    "make",
    [
        a_symlink,
        below_a_symlink,
        below_a_writable_directory,
        below_nothing,
        a_file_for_a_directory,
    ],
)
def test_unsafe_ways_to_the_socket(socket_dir: Path, make: Callable[[Path], Path]) -> None:
    assert refusal(make(socket_dir)) == "SOCKET_DIRECTORY"


def test_paths_that_no_socket_can_have(socket_dir: Path) -> None:
    assert refusal(Path("relative/s")) == "SOCKET_PATH"
    assert refusal(socket_dir / ".." / "s") == "SOCKET_PATH"
    assert refusal(socket_dir / ("x" * 107)) == "SOCKET_PATH"


def test_a_dead_socket_of_ours_is_cleared_away(socket_dir: Path) -> None:
    path = socket_dir / "s"
    bound(path).close()
    sockets.prepare(listener(path))
    assert not path.exists()


def test_a_live_socket_is_never_removed(socket_dir: Path) -> None:
    path = socket_dir / "s"
    with bound(path) as server:
        server.listen(1)
        assert refusal(path) == "SOCKET_IN_USE"
    assert path.exists()


@pytest.mark.parametrize("kind", ["file", "directory", "symlink", "dangling"])
def test_what_is_no_socket_is_never_removed(socket_dir: Path, kind: str) -> None:
    path = socket_dir / "s"
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        target = socket_dir / "target"
        path.symlink_to(target)
        if kind == "symlink":
            bound(target).close()
    assert refusal(path) == "SOCKET_IN_USE"
    assert path.is_symlink() or path.exists()


def test_only_the_socket_that_was_bound_is_removed(socket_dir: Path) -> None:
    path = socket_dir / "s"
    with bound(path):
        identity = sockets.restrict(listener(path))
        path.rename(socket_dir / "kept")
        with bound(path):
            sockets.remove(path, identity)
            assert path.exists()
    path.unlink()
    sockets.remove(path, identity)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_directories_and_sockets_of_others_are_refused(socket_dir: Path) -> None:
    directory = socket_dir / "theirs"
    directory.mkdir(mode=0o700)
    os.chown(directory, 65534, 65534)
    assert refusal(directory / "s") == "SOCKET_DIRECTORY"
    path = socket_dir / "s"
    bound(path).close()
    os.chown(path, 65534, 65534)
    assert refusal(path) == "SOCKET_IN_USE"
