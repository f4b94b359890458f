"""Noticing that the ledger's files were removed, replaced or opened to others under way.

SQLite would go on writing into an unlinked file without an error, and lose everything at its end.
"""

from __future__ import annotations

import os
from pathlib import Path

from keyd.errors import StateCorrupt


class FileWatch:
    """Remembers which files belong to a connection; two `stat` calls per check."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, int, int]] = {}

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
