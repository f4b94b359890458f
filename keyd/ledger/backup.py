"""Backup while the daemon runs, and putting a backup in place.

A backup holds the ledger of one moment. Restored, it is older than its anchor, and refuses to sign
until `repair` raises the marks: nobody can say what was signed since. Never back up or restore the
anchor together with the ledger.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from keyd.domain.records import LedgerIdentity
from keyd.errors import AlreadyExists, NotFound, StateCorrupt
from keyd.failpoints import Failpoint, failpoint
from keyd.ledger.codec import corrupt
from keyd.ledger.create import LOCK
from keyd.ledger.database import DATABASE, connect_reader, connect_writer, translate
from keyd.ledger.directory import (
    Lock,
    check_directory,
    check_file,
    create_file,
    flush_directory,
    flush_file,
    make_directory,
)
from keyd.ledger.log import StoredLog
from keyd.ledger.schema import check_version, migrations
from keyd.ledger.view import SqliteView
from keyd.ledger.writer import load_frontier

_PARTS = ("", "-wal", "-shm")


@dataclass(frozen=True)
class Backup:
    """What a backup holds: whose ledger, log size and root, bytes of the file."""

    identity: LedgerIdentity
    log_size: int
    root: bytes
    file_bytes: int


def backup(directory: Path, target: Path) -> Backup:
    """Copy the ledger as it is at this moment into the new file `target`, and check the copy.

    Safe while the daemon runs: it goes on reading and writing meanwhile.

    Raises: NotFound (LEDGER_MISSING), AlreadyExists (BACKUP_EXISTS), StateCorrupt, NotAllowed
    (STATE_PATH_UNSAFE), BackendUnavailable (LEDGER_DISK_FULL, LEDGER_WRITE_FAILED), OSError.
    """
    if not (directory / DATABASE).exists():
        raise NotFound("LEDGER_MISSING", f"there is no ledger in {directory}")
    check_directory(directory)
    check_file(directory / DATABASE)
    _refuse_existing(target)
    new = target.with_name(f"{target.name}.new")
    try:
        made = _copy(directory / DATABASE, new)
    except sqlite3.Error as error:
        new.unlink(missing_ok=True)
        raise translate(error) from error
    failpoint(Failpoint.LEDGER_BACKUP_COPIED)
    new.rename(target)
    flush_directory(target.parent)
    return made


def restore(source: Path, directory: Path, now: datetime) -> Backup:
    """Put the backup `source` in the place of the ledger in `directory`; the daemon is stopped.

    The files that were there stay beside it, renamed to `ledger.db.replaced-TIME`. Opening the
    ledger then compares it with its anchor.

    Raises: NotFound (BACKUP_MISSING), BackendUnavailable (LEDGER_IN_USE), StateCorrupt
    (LEDGER_FOREIGN, BACKUP_DAMAGED, LEDGER_SCHEMA_NEWER), NotAllowed, OSError.
    """
    if not source.is_file():
        raise NotFound("BACKUP_MISSING", f"there is no backup {source}")
    make_directory(directory)
    lock = Lock(directory / LOCK, "LEDGER_IN_USE")
    try:
        new = directory / f"{DATABASE}.new"
        new.unlink(missing_ok=True)
        made = _sound_copy(source, new)
        # A WAL of the old file next to the restored one would be taken for the new one's.
        for part in _PARTS:
            old = directory / f"{DATABASE}{part}"
            if os.path.lexists(old):
                old.rename(directory / f"{DATABASE}.replaced-{_stamp(now)}{part}")
        new.rename(directory / DATABASE)
        flush_directory(directory)
        return made
    finally:
        lock.release()


def _sound_copy(source: Path, new: Path) -> Backup:
    """A copy of the backup, whose damage must not be taken for the ledger's."""
    try:
        return _copy(source, new)
    except (sqlite3.Error, StateCorrupt) as error:
        found = translate(error) if isinstance(error, sqlite3.Error) else error
        if found.reason != "LEDGER_CORRUPT":
            raise found from error
        raise StateCorrupt(
            "BACKUP_DAMAGED",
            f"{source} is damaged or no backup of a ledger: nothing was changed; take another",
        ) from error


def _copy(source: Path, new: Path) -> Backup:
    new.unlink(missing_ok=True)
    os.close(create_file(new))
    with closing(connect_reader(source)) as reader, closing(connect_writer(new)) as writer:
        check_version(reader, len(migrations()))
        reader.backup(writer)
        # A file without a WAL can be copied, and read from a read-only medium, by itself.
        writer.execute("PRAGMA journal_mode = DELETE").fetchall()
        made = _check(writer, new)
    flush_file(new)
    return made


def _check(connection: sqlite3.Connection, path: Path) -> Backup:
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise corrupt(f"the copy is damaged ({found})")
    frontier = load_frontier(connection)
    view = SqliteView(connection, StoredLog(connection))
    return Backup(view.identity(), frontier.size, frontier.root(), path.stat().st_size)


def _refuse_existing(target: Path) -> None:
    if os.path.lexists(target):
        raise AlreadyExists("BACKUP_EXISTS", f"{target} is there already; choose another name")


def _stamp(now: datetime) -> str:
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}"
