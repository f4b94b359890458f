"""Links, foreign owners, open modes and wrong kinds at every path that state lives at."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from keyd.errors import BackendUnavailable, NotAllowed
from keyd.ledger import directory
from tests.ledgers import Home, furnished

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")

PATHS = [
    "ledger",
    "ledger/ledger.db",
    "ledger/ledger.db-wal",
    "ledger/ledger.db-shm",
    "ledger/ledger.lock",
    "anchor",
    "anchor/anchor.jsonl",
    "anchor/anchor.lock",
]


def as_link(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to("real")


def open_to_others(path: Path) -> None:
    path.chmod(path.stat().st_mode | 0o004)


def open_to_the_group(path: Path) -> None:
    path.chmod(path.stat().st_mode | 0o020)


def another_kind(path: Path) -> None:
    if path.is_dir():
        path.rename(path.with_name("real"))
        path.touch(mode=0o600)
    else:
        path.unlink()
        os.mkfifo(path, 0o600)


def given_away(path: Path) -> None:
    os.chown(path, 65534, -1)


ATTACKS = [
    as_link,
    open_to_others,
    open_to_the_group,
    another_kind,
    pytest.param(given_away, marks=needs_root),
]


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_no_start_from_paths_that_others_can_touch(
    tmp_path: Path, name: str, attack: Callable[[Path], None]
) -> None:
    furnished(tmp_path).close()
    path = tmp_path / name
    if not path.exists():
        path.touch(mode=0o600)
    attack(path)
    with pytest.raises(NotAllowed, match="STATE_PATH_UNSAFE"):
        Home(tmp_path).open()


def test_a_second_name_of_the_ledger_is_refused(tmp_path: Path) -> None:
    furnished(tmp_path).close()
    os.link(tmp_path / "ledger/ledger.db", tmp_path / "other")
    with pytest.raises(NotAllowed, match="second name"):
        Home(tmp_path).open()


def test_everything_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        ledger = furnished(tmp_path)
    finally:
        os.umask(mask)
    modes = {
        str(path.relative_to(tmp_path)): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")
    }
    ledger.close()
    assert modes == {name: 0o700 if "/" not in name else 0o600 for name in PATHS}


def test_a_dangling_link_is_no_vacancy(tmp_path: Path) -> None:
    (tmp_path / "ledger").symlink_to("nowhere")
    with pytest.raises(NotAllowed, match="STATE_PATH_UNSAFE"):
        Home(tmp_path).open()
    with pytest.raises(NotAllowed, match="STATE_PATH_UNSAFE"):
        Home(tmp_path).create()


def test_a_lock_is_exclusive_until_released(tmp_path: Path) -> None:
    lock = directory.Lock(tmp_path / "lock", "LEDGER_IN_USE")
    with pytest.raises(BackendUnavailable, match="LEDGER_IN_USE"):
        directory.Lock(tmp_path / "lock", "LEDGER_IN_USE")
    lock.release()
    directory.Lock(tmp_path / "lock", "LEDGER_IN_USE").release()
