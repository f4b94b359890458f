"""SQLite connections as the ledger needs them, and what their errors mean.

WAL with synchronous=FULL: a COMMIT returns after fdatasync of the WAL. NORMAL loses acknowledged
commits at power loss (181 of 242 replayed crash states).
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from urllib.parse import quote

from keyd.errors import BackendUnavailable, KeydError, StateCorrupt
from keyd.ledger.codec import corrupt

APPLICATION_ID = 0x6B657964  # "keyd"
DATABASE = "ledger.db"
_WAL_LIMIT_BYTES = 16 << 20
_BUSY_TIMEOUT_S = 1.0
# Primary codes, the low byte of SQLite's extended ones (sqlite.org/rescode.html).
_CODE_FULL = 13
_CODE_CORRUPT = 11
_CODE_NOT_A_DATABASE = 26
_CODE_CONSTRAINT = 19


def connect_writer(path: Path) -> sqlite3.Connection:
    """Open the one connection that writes. Raises: sqlite3.Error."""
    connection = _connect(path, "rw")
    if connection.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
        connection.close()
        raise sqlite3.OperationalError("this file system cannot hold a WAL; use a local one")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}").fetchall()
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA cell_size_check = ON")
    return connection


def connect_reader(path: Path) -> sqlite3.Connection:
    """Open a connection that cannot write. Raises: sqlite3.Error."""
    connection = _connect(path, "ro")
    connection.execute("PRAGMA query_only = ON")
    return connection


def connect_verifier(path: Path) -> sqlite3.Connection:
    """Open a connection that changes nothing, for looking at files that may be anything.

    SQLite leaves CHECK constraints out of `PRAGMA integrity_check` when it opens a file as
    read-only, so this one may write as far as the file is concerned. Raises: sqlite3.Error.
    """
    connection = _connect(path, "rw")
    connection.execute("PRAGMA query_only = ON")
    return connection


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    # Every statement is explicit (isolation_level None); SQLite is built thread-safe, and each
    # connection is used by one thread at a time.
    connection = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=_BUSY_TIMEOUT_S,
        cached_statements=256,
    )
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def translate(error: sqlite3.Error) -> KeydError:
    """What a failure of SQLite means for a caller of the ledger."""
    code = (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
    if code == _CODE_CONSTRAINT:
        return StateCorrupt(
            "LEDGER_INVARIANT", f"the ledger refused a record that contradicts another: {error}"
        )
    if code in (_CODE_CORRUPT, _CODE_NOT_A_DATABASE):
        return corrupt(f"the ledger's file is damaged ({error})")
    if code == _CODE_FULL:
        return BackendUnavailable(
            "LEDGER_DISK_FULL",
            "the ledger's disk is full, so nothing is signed; free space and ask again",
            retry_after_s=5.0,
        )
    return BackendUnavailable(
        "LEDGER_WRITE_FAILED",
        f"the ledger cannot be read or written ({error}); ask again, and check its disk",
        details={"outcome": "UNKNOWN_RECORDED"},
        retry_after_s=1.0,
    )
