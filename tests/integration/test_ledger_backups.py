"""Backups and restores: one private file, one moment, and what was there is kept."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from keyd.errors import AlreadyExists, KeydError, NotFound, StateCorrupt
from keyd.ledger.backup import backup, restore
from tests.ledgers import NOW, ORIGIN, Home, fix, go_on, sign


def test_a_backup_is_one_private_checked_file(home: Home, tmp_path: Path) -> None:
    target = tmp_path / "backup.db"
    made = backup(home.state, target)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert made.file_bytes == target.stat().st_size
    ledger = home.open()
    head = ledger.unsigned_checkpoint()
    assert (made.identity.origin, made.log_size, made.root) == (ORIGIN, head.size, head.root)
    ledger.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["anchor", "backup.db", "ledger"]
    with pytest.raises(AlreadyExists, match="BACKUP_EXISTS"):
        backup(home.state, target)


def test_backups_while_signing_hold_one_moment_each(home: Home, tmp_path: Path) -> None:
    ledger = home.open()
    stop = threading.Event()
    failures: list[KeydError] = []

    def keep_signing() -> None:
        version = 6
        while not stop.is_set():
            try:
                sign(ledger, version)
            except KeydError as error:
                failures.append(error)
                return
            version += 1

    thread = threading.Thread(target=keep_signing)
    thread.start()
    sizes = [backup(home.state, tmp_path / f"b{n}").log_size for n in range(5)]
    stop.set()
    thread.join()
    ledger.close()
    assert failures == []
    assert sizes == sorted(sizes)
    assert sizes[-1] > sizes[0]
    for number, size in enumerate(sizes):
        other = Home(tmp_path / f"restored{number}")
        other.base.mkdir()
        made = restore(tmp_path / f"b{number}", other.state, NOW)
        assert made.log_size == size


def test_restoring_keeps_what_was_there(home: Home, tmp_path: Path) -> None:
    backup(home.state, tmp_path / "b")
    before = home.database.read_bytes()
    restore(tmp_path / "b", home.state, NOW)
    kept = home.state / "ledger.db.replaced-20300601T120000.123456Z"
    assert kept.read_bytes() == before
    go_on(home, 6)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "LEDGER_FOREIGN"),
        (b"a shopping list", "BACKUP_DAMAGED"),
        (b"SQLite format 3\0" + b"x" * 4096, "BACKUP_DAMAGED"),
    ],
)
def test_what_is_no_ledger_is_not_restored(
    home: Home, tmp_path: Path, content: bytes, reason: str
) -> None:
    (tmp_path / "b").write_bytes(content)
    with pytest.raises(StateCorrupt, match=reason):
        restore(tmp_path / "b", home.state, NOW)
    go_on(home, 6)


def test_a_running_ledger_is_neither_restored_nor_repaired(home: Home, tmp_path: Path) -> None:
    backup(home.state, tmp_path / "b")
    ledger = home.open()
    with pytest.raises(KeydError, match="LEDGER_IN_USE"):
        restore(tmp_path / "b", home.state, NOW)
    with pytest.raises(KeydError, match="LEDGER_IN_USE"):
        fix(home)
    ledger.close()


def test_missing_sources_are_named(home: Home, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="BACKUP_MISSING"):
        restore(tmp_path / "nothing", home.state, NOW)
    with pytest.raises(NotFound, match="LEDGER_MISSING"):
        backup(tmp_path / "nowhere", tmp_path / "b")
