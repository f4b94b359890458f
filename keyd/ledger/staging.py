"""Rows that a group writes at its end, many in one statement, instead of one at a time.

A statement costs several times what a row costs, and each gives up the interpreter's lock, which
dozens of waiting threads then fight for.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from keyd.ledger.codec import Row
from keyd.ledger.log import chunks, insert_many


class GroupContradicts(Exception):
    """Some row of an earlier piece contradicts the ledger: no piece of the group can stay."""


@dataclass(frozen=True, eq=False)
class Table:
    """Whole rows of `name`; `conflict` says what becomes of one that is there already."""

    name: str
    conflict: str = ""


ROLES = Table(
    "roles",
    "ON CONFLICT (repository, name) DO UPDATE SET epoch = excluded.epoch, "
    "high_water = excluded.high_water, trusted_version = excluded.trusted_version, "
    "trusted_digest = excluded.trusted_digest, rules = excluded.rules, "
    "revision = excluded.revision",
)
PAYLOADS = Table("payloads", "ON CONFLICT DO NOTHING")
RESERVATIONS = Table("reservations")
# (state, id): no rows of their own.
STATES = Table("states of reservations")
SIGNATURES = Table("signatures")
VERSIONS = Table(
    "versions",
    "ON CONFLICT (repository, role, epoch, version) DO UPDATE SET "
    "digest = iif(digest = '', excluded.digest, digest), "
    "accepted = max(accepted, excluded.accepted), "
    "imported = max(imported, excluded.imported), "
    "length = coalesce(excluded.length, length), "
    "hashes = coalesce(excluded.hashes, hashes)",
)
INTENTS = Table("intents", "ON CONFLICT (leaf) DO UPDATE SET state = excluded.state")
REQUESTS = Table(
    "requests",
    "ON CONFLICT (principal, request_id) DO UPDATE SET body_digest = excluded.body_digest, "
    "outcome = excluded.outcome, at = excluded.at",
)
# Rows refer to rows of the tables before theirs.
_TABLES = (ROLES, PAYLOADS, RESERVATIONS, STATES, SIGNATURES, VERSIONS, INTENTS, REQUESTS)


class Staging:
    """The rows of one transaction that wait, and the savepoint of the piece that runs.

    The savepoint is opened by the first statement that changes something: most pieces only stage.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._rows: list[tuple[Table, Row]] = []
        # Where the rows of the running piece begin.
        self._begin = 0
        self._protected = False

    def put(self, table: Table, row: Row) -> None:
        """Insert the row, or change the one in its place, when the group ends or is settled."""
        self._rows.append((table, row))

    def begin(self) -> None:
        """A piece begins."""
        self._begin = len(self._rows)

    def keep(self) -> None:
        """The piece ended well."""
        if self._protected:
            self._connection.execute("RELEASE piece")
            self._protected = False

    def undo(self) -> None:
        """The piece failed: nothing of it stays."""
        del self._rows[self._begin :]
        if self._protected:
            self._connection.execute("ROLLBACK TO piece")
            self.keep()

    def protect(self) -> None:
        """Before the piece's first direct change: what earlier pieces staged is beyond its undo.

        Raises: GroupContradicts.
        """
        if self._protected:
            return
        try:
            self._write(self._rows[: self._begin])
        except sqlite3.IntegrityError as refused:
            raise GroupContradicts from refused
        del self._rows[: self._begin]
        self._begin = 0
        self._connection.execute("SAVEPOINT piece")
        self._protected = True

    def settle(self) -> None:
        """Let SQLite see all rows, for a statement that reads them. Raises: GroupContradicts."""
        if self._rows:
            self.protect()
            self.flush()

    def flush(self) -> None:
        """Write what waits. Raises: sqlite3.IntegrityError."""
        self._write(self._rows)
        self._rows.clear()
        self._begin = 0

    def _write(self, rows: Sequence[tuple[Table, Row]]) -> None:
        waiting: dict[Table, list[Row]] = {}
        for table, row in rows:
            waiting.setdefault(table, []).append(row)
        for table in _TABLES:
            if table is STATES:
                self._advance(waiting.get(table, ()))
            elif table in waiting:
                insert_many(self._connection, table.name, waiting[table], table.conflict)

    def _advance(self, rows: Sequence[Row]) -> None:
        by_state: dict[str, list[int]] = {}
        for state, number in rows:
            by_state.setdefault(state, []).append(number)
        for state, numbers in by_state.items():
            for part in chunks(numbers):
                self._connection.execute(
                    f"UPDATE reservations SET state = ? WHERE id IN ({','.join('?' * len(part))})",  # noqa: S608 - marks
                    (state, *part),
                )
