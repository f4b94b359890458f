"""Making a ledger: explicit, once, and never where one was lost."""

from __future__ import annotations

import os
import secrets
import sqlite3
from datetime import datetime
from pathlib import Path

from keyd.domain import merkle
from keyd.domain.audit import Entry, Event
from keyd.domain.checkpoint import check_origin
from keyd.domain.records import LedgerIdentity
from keyd.errors import AlreadyExists, InvalidRequest, StateCorrupt
from keyd.failpoints import Failpoint, failpoint
from keyd.ledger import anchor as anchors
from keyd.ledger.codec import time_text
from keyd.ledger.database import DATABASE, connect_writer, translate
from keyd.ledger.directory import (
    Lock,
    create_file,
    flush_directory,
    flush_file,
    make_directory,
)
from keyd.ledger.log import PendingLog
from keyd.ledger.schema import migrate, migrations
from keyd.ledger.transaction import SqliteTransaction
from keyd.ports import Clock

LOCK = "ledger.lock"
ANCHOR_SETTING = "anchor"
_PRINCIPAL = "keyd"


def create_ledger(
    directory: Path,
    *,
    origin: str,
    development: bool,
    clock: Clock,
    anchor: Path | None = None,
    replace_anchor: bool = False,
) -> LedgerIdentity:
    """Make an empty ledger whose log begins with the genesis entry, and its anchor.

    `directory` and `anchor` (a directory apart from it) are made if missing, their parents are not.
    `origin` names the log, like "keyd.example.com/log". `replace_anchor` begins anew where an
    anchor tells of a ledger that had been in use.

    Raises: AlreadyExists (LEDGER_EXISTS), StateCorrupt (ANCHOR_EXISTS: the ledger was lost; restore
    it instead), InvalidRequest (LOG_ORIGIN_MALFORMED, ANCHOR_NOT_APART), NotAllowed
    (STATE_PATH_UNSAFE), BackendUnavailable (LEDGER_IN_USE, LEDGER_DISK_FULL), OSError.
    """
    check_origin(origin)
    check_apart(directory, anchor)
    make_directory(directory)
    lock = Lock(directory / LOCK, "LEDGER_IN_USE")
    try:
        _check_vacant(directory, anchor, replace_anchor)
        identity = LedgerIdentity(
            ledger_id=secrets.token_hex(16),
            origin=origin,
            development=development,
            created_at=clock.now(),
        )
        new = directory / f"{DATABASE}.new"
        try:
            root = _write_database(new, identity, anchor)
        except sqlite3.Error as error:
            raise translate(error) from error
        if anchor is not None:
            state = anchors.AnchorState(identity.ledger_id, 1, root)
            _write_anchor(anchor, state, identity.created_at if replace_anchor else None)
        failpoint(Failpoint.LEDGER_CREATED_UNNAMED)
        new.rename(directory / DATABASE)
        flush_directory(directory)
        return identity
    finally:
        lock.release()


def check_apart(directory: Path, anchor: Path | None) -> None:
    """An anchor inside the ledger's directory is lost with it. Raises: InvalidRequest."""
    if anchor is not None and anchor.resolve().is_relative_to(directory.resolve()):
        raise InvalidRequest(
            "ANCHOR_NOT_APART",
            f"the anchor {anchor} lies in the ledger's directory and would be lost, or restored, "
            "with it; put it on another file system",
        )


def _check_vacant(directory: Path, anchor: Path | None, replace_anchor: bool) -> None:
    remains = [directory / f"{DATABASE}{suffix}" for suffix in ("", "-wal", "-shm")]
    for path in remains:
        if os.path.lexists(path):
            raise AlreadyExists(
                "LEDGER_EXISTS", f"{path} is there; open it, or choose another directory"
            )
    if anchor is None or replace_anchor or not anchors.exists(anchor):
        return
    known = anchors.load(anchor)
    # A creation that was cut short leaves an anchor that saw nothing but the genesis entry.
    if known.size > 1 or list(known.marks):
        raise StateCorrupt(
            "ANCHOR_EXISTS",
            f"the anchor in {anchor} tells of ledger {known.ledger_id} with {known.size} entries, "
            f"but {directory} holds none; restore it from a backup instead of beginning anew",
        )


def _write_database(path: Path, identity: LedgerIdentity, anchor: Path | None) -> bytes:
    """Write the whole file under its working name; return the root of its log."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    os.close(create_file(path))
    connection = connect_writer(path)
    try:
        migrate(connection, migrations(), 0)
        root = _genesis(connection, identity, anchor)
    finally:
        connection.close()
    flush_file(path)
    return root


def _write_anchor(directory: Path, state: anchors.AnchorState, replaced: datetime | None) -> None:
    lock = anchors.lock(directory)
    try:
        if replaced is not None:
            anchors.set_aside(directory, replaced)
        os.close(anchors.write(directory, state))
    finally:
        lock.release()


def _genesis(
    connection: sqlite3.Connection, identity: LedgerIdentity, anchor: Path | None
) -> bytes:
    log = PendingLog(connection, merkle.Frontier())
    transaction = SqliteTransaction(connection, log)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(
        "INSERT INTO identity VALUES (1, ?, ?, ?, ?)",
        (
            identity.ledger_id,
            identity.origin,
            identity.development,
            time_text(identity.created_at),
        ),
    )
    if anchor is not None:
        transaction.put_setting(ANCHOR_SETTING, str(anchor))
    transaction.append(
        Entry(
            event=Event.GENESIS,
            at=identity.created_at,
            principal=_PRINCIPAL,
            fields={
                "ledger_id": identity.ledger_id,
                "origin": identity.origin,
                "development": identity.development,
            },
        )
    )
    frontier = transaction.flush()
    connection.execute("COMMIT")
    return frontier.root()
