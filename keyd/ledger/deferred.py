"""What a group writes once, at its end, instead of once for every piece."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from keyd.ledger.codec import Row
from keyd.ledger.log import insert_many


@dataclass(frozen=True)
class Table:
    """Whole rows of `name`; `conflict` says what becomes of one that is there already."""

    name: str
    conflict: str


INTENTS = Table("intents", "ON CONFLICT (leaf) DO UPDATE SET state = excluded.state")
REQUESTS = Table(
    "requests",
    "ON CONFLICT (principal, request_id) DO UPDATE SET body_digest = excluded.body_digest, "
    "outcome = excluded.outcome, at = excluded.at",
)
VERSIONS = Table(
    "versions",
    "ON CONFLICT (repository, role, epoch, version) DO UPDATE SET "
    "digest = iif(digest = '', excluded.digest, digest), "
    "accepted = max(accepted, excluded.accepted), "
    "imported = max(imported, excluded.imported), "
    "length = coalesce(excluded.length, length), "
    "hashes = coalesce(excluded.hashes, hashes)",
)
_TABLES = (INTENTS, REQUESTS, VERSIONS)
_RAISE_REVISION = "UPDATE repositories SET revision = revision + 1 WHERE name = ?"


class Deferred:
    """Rows, and repositories whose revision rises, of one transaction.

    Rows wait until the last piece has ended. Written before, for a statement that reads them, they
    stay here: the piece may be rolled back and take them along, and writing the same rows in the
    same order again changes nothing.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._changed: set[str] = set()
        self._rows: list[tuple[Table, Row]] = []

    def changed(self, repository: str) -> None:
        """Raise a repository's revision, by one however often it changes in this transaction."""
        self._changed.add(repository)

    def has_changed(self, repository: str) -> bool:
        """Whether the revision is to be one more than is stored."""
        return repository in self._changed

    def put(self, table: Table, row: Row) -> None:
        """Insert the row, or change the one in its place."""
        self._rows.append((table, row))

    def of(self, table: Table) -> Iterator[Row]:
        """The rows that wait for a table, oldest first."""
        return (row for where, row in self._rows if where is table)

    def size(self) -> int:
        """How many rows are waiting, for `truncate`."""
        return len(self._rows)

    def truncate(self, size: int) -> None:
        """Forget the rows put since `size`; a revision that rises in vain does no harm."""
        del self._rows[size:]

    def write(self, table: Table) -> None:
        """Let SQLite see a table's rows."""
        insert_many(self._connection, table.name, list(self.of(table)), table.conflict)

    def flush(self) -> None:
        """Write all, before the commit."""
        for repository in self._changed:
            self._connection.execute(_RAISE_REVISION, (repository,))
        for table in _TABLES:
            self.write(table)
