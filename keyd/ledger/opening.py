"""Opening a ledger: refuse what is missing, damaged, foreign or newer; compare with the anchor."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from keyd.errors import KeydError, NotFound, StateCorrupt
from keyd.ledger import anchor as anchors
from keyd.ledger.codec import corrupt
from keyd.ledger.create import ANCHOR_SETTING, LOCK, check_apart
from keyd.ledger.database import DATABASE, connect_verifier, connect_writer, translate
from keyd.ledger.directory import Lock, check_directory, check_file, check_file_if_there
from keyd.ledger.gap import Refusal, compare
from keyd.ledger.group_commit import STALL_S
from keyd.ledger.log import StoredLog
from keyd.ledger.reached import current_state
from keyd.ledger.readers import Readers
from keyd.ledger.schema import check_version, migrate, migrations, schema_objections
from keyd.ledger.sqlite import SqliteLedger
from keyd.ledger.transaction import PUT_SETTING
from keyd.ledger.view import SqliteView
from keyd.ledger.writer import Writer


def open_ledger(
    directory: Path, *, anchor: Path | None = None, stall_s: float = STALL_S
) -> SqliteLedger:
    """Open an existing ledger for this process alone.

    A ledger that is behind its anchor, or whose recorded anchor is missing, damaged or foreign, can
    be read; `refusal()` says why it cannot be written. `stall_s`: how long the disk may keep
    silent before callers are refused.

    Raises: NotFound (LEDGER_MISSING), BackendUnavailable (LEDGER_IN_USE, ANCHOR_IN_USE), NotAllowed
    (STATE_PATH_UNSAFE), StateCorrupt (LEDGER_CORRUPT, LEDGER_FOREIGN, LEDGER_SCHEMA_NEWER),
    InvalidRequest (ANCHOR_NOT_APART), OSError.
    """
    check_apart(directory, anchor)
    lock = lock_ledger(directory)
    try:
        prepare(directory / DATABASE, migrations())
        held, refusal = _anchor(directory / DATABASE, anchor)
        readers = Readers(directory / DATABASE)
        writer = _writer(directory / DATABASE, held, readers)
    except sqlite3.Error as error:
        lock.release()
        raise translate(error) from error
    except UnicodeDecodeError as error:  # damage in what SQLite says, or keeps as text
        lock.release()
        raise corrupt("the ledger's file is damaged (text that is not UTF-8)") from error
    except BaseException:
        lock.release()
        raise
    return SqliteLedger(writer, readers, lock, refusal, stall_s)


def _writer(path: Path, anchor: anchors.Anchor | None, readers: Readers) -> Writer:
    try:
        return Writer(path, anchor, readers.renew)
    except BaseException:
        if anchor is not None:
            anchor.close()
        raise


def lock_ledger(directory: Path) -> Lock:
    """Own the ledger in `directory`, after checking who may touch it. Raises: as `open_ledger`."""
    path = directory / DATABASE
    for needed, check in ((directory, check_directory), (path, check_file)):
        if not os.path.lexists(needed):
            raise NotFound(
                "LEDGER_MISSING",
                f"there is no ledger in {directory}; restore it, or make the first one with "
                "keyd init",
            )
        check(needed)
    lock = Lock(directory / LOCK, "LEDGER_IN_USE")
    try:
        check_file_if_there(path.with_name(f"{DATABASE}-wal"))
        check_file_if_there(path.with_name(f"{DATABASE}-shm"))
    except KeydError:
        lock.release()
        raise
    return lock


def prepare(path: Path, steps: Sequence[str]) -> None:
    """Check what the file is and bring its schema up to date.

    Raises: StateCorrupt (LEDGER_CORRUPT, LEDGER_FOREIGN, LEDGER_SCHEMA_NEWER), sqlite3.Error.
    """
    # Another program's file is not even given another journal mode.
    with closing(connect_verifier(path)) as connection:
        done = check_version(connection, known=len(steps))
        if wrong := schema_objections(connection, steps[:done]):
            raise corrupt(f"the ledger's schema was changed ({', '.join(wrong)})")
    with closing(connect_writer(path)) as connection:
        migrate(connection, steps, done)


def _anchor(path: Path, directory: Path | None) -> tuple[anchors.Anchor | None, Refusal | None]:
    """The anchor to write to, or why there is none and nothing may be written."""
    lock = None if directory is None else anchors.lock(directory)
    try:
        with closing(connect_writer(path)) as connection:
            view = SqliteView(connection, StoredLog(connection))
            refusal = inspect_anchor(connection, view, directory)
            if directory is None or lock is None or refusal is not None:
                return None, refusal
            if view.setting(ANCHOR_SETTING) != str(directory):
                connection.execute(PUT_SETTING, (ANCHOR_SETTING, str(directory)))
            held = anchors.Anchor(directory, current_state(connection), lock)
        lock = None
        return held, None
    finally:
        if lock is not None:
            lock.release()


def inspect_anchor(
    connection: sqlite3.Connection, view: SqliteView, directory: Path | None
) -> Refusal | None:
    """Compare the ledger with its anchor; None: it lacks nothing, or there never was an anchor."""
    recorded = view.setting(ANCHOR_SETTING)
    if directory is None:
        return _missing(f"the one in {recorded} is not configured") if recorded else None
    if not anchors.exists(directory):
        return _missing(f"{directory} holds none") if recorded else None
    try:
        return compare(anchors.load(directory), view, StoredLog(connection))
    except StateCorrupt as error:
        if error.reason != "ANCHOR_CORRUPT":
            raise
        return Refusal(error.reason, error.message)


def _missing(where: str) -> Refusal:
    return Refusal(
        "ANCHOR_MISSING",
        f"this ledger has an anchor, but {where}; without it nobody can tell whether the ledger is "
        "the newest one: bring the anchor back, or run keyd ledger repair --replace-anchor",
    )
