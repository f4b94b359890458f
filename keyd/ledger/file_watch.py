"""Noticing that the ledger's files were removed, replaced or opened to others under way.

SQLite would go on writing into an unlinked file without an error, and lose everything at its end.
"""

from __future__ import annotations

import os
from pathlib import Path

from keyd.errors import StateCorrupt
from keyd.ledger.directory import check_file, check_file_if_there


class FileWatch:
    """Remembers which files belong to a connection; two `stat` calls per check."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, int, int]] = {}

    def admit(self, database: Path) -> None:
        """Before opening. Raises: NotAllowed (STATE_PATH_UNSAFE), StateCorrupt."""
        try:
            check_file(database)
            check_file_if_there(database.with_name(f"{database.name}-wal"))
        except OSError as error:
            raise _replaced(database, f"{database}: {error.strerror}") from error

    def start(self, database: Path) -> None:
        """Remember the database and its WAL, which a WAL connection keeps while it is open."""
        self._known = {name: _identity(name) for name in (str(database), f"{database}-wal")}

    def check(self, database: Path) -> None:
        """Raises: StateCorrupt (LEDGER_FILE_REPLACED)."""
        for name, known in self._known.items():
            try:
                found = _identity(name)
            except OSError as error:
                raise _replaced(database, f"{name}: {error.strerror}") from error
            if found != known:
                raise _replaced(database, f"{name} is another file or has another mode")


def _identity(name: str) -> tuple[int, int, int]:
    found = os.lstat(name)
    return found.st_dev, found.st_ino, found.st_mode


def _replaced(database: Path, why: str) -> StateCorrupt:
    return StateCorrupt(
        "LEDGER_FILE_REPLACED",
        f"{why}; nothing is written until {database.parent} is as it was",
    )
