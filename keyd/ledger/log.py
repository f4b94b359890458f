"""The stored log: reading leaves and tree hashes, and what a running group appends to it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NoReturn, TypeVar

from keyd.domain import merkle
from keyd.domain.audit import Entry, Leaf
from keyd.ledger.codec import Row, corrupt

T = TypeVar("T")

_PAGE = 256
# Rows in one INSERT: each statement gives up the interpreter lock once, whatever it inserts.
_CHUNKS = (64, 16, 4, 1)


def ended(*_: object) -> NoReturn:
    """Stands for a connection's `execute` when its transaction is over."""
    raise RuntimeError("the transaction that this was read in has ended")


class StoredLog:
    """The log as one connection sees it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._execute: Callable[..., sqlite3.Cursor] = connection.execute

    def end(self) -> None:
        """Make every later read an error."""
        self._execute = ended

    def size(self) -> int:
        """Number of leaves."""
        row = self._execute("SELECT coalesce(max(position), -1) + 1 FROM leaves").fetchone()
        return int(row[0])

    def leaves(self, start: int, end: int) -> Iterator[Leaf]:
        """Leaves start..end-1; those beyond the log's end are left out."""
        while start < end:
            rows = self._execute(
                "SELECT position, data, hash FROM leaves WHERE position >= ? AND position < ? "
                "ORDER BY position LIMIT ?",
                (start, end, _PAGE),
            ).fetchall()
            if not rows:
                return
            for row in rows:
                yield Leaf(*row)
            start = rows[-1][0] + 1

    def subtree(self, level: int, index: int) -> bytes:
        """The stored hash of a complete subtree. Raises: StateCorrupt if it is missing."""
        if level == 0:
            row = self._execute("SELECT hash FROM leaves WHERE position = ?", (index,)).fetchone()
        else:
            position = merkle.interior_position(level, index)
            row = self._execute("SELECT hash FROM nodes WHERE position = ?", (position,)).fetchone()
        if row is None:
            raise corrupt(f"the log's tree lacks the subtree {index} of level {level}")
        return bytes(row[0])

    def frontier(self, size: int) -> merkle.Frontier:
        """The compact range of the first `size` leaves."""
        return merkle.Frontier(size, [self.subtree(*peak) for peak in merkle.peaks_of(size)])


class PendingLog:
    """Leaves that the open transaction appends, written at its end in few statements."""

    def __init__(self, connection: sqlite3.Connection, base: merkle.Frontier) -> None:
        self._stored = StoredLog(connection)
        self._connection = connection
        self._base = base
        self._pending: list[tuple[Entry, Leaf]] = []

    def end(self) -> None:
        """Make every later read an error."""
        self._stored.end()

    def size(self) -> int:
        return self._base.size + len(self._pending)

    def append(self, entry: Entry) -> int:
        """Add a leaf; return its index."""
        index = self.size()
        data = entry.encode(index)
        self._pending.append((entry, Leaf(index, data, merkle.leaf_hash(data))))
        return index

    def entry(self, index: int) -> Entry | None:
        """The entry of a leaf that this transaction appended."""
        place = index - self._base.size
        return self._pending[place][0] if 0 <= place < len(self._pending) else None

    def truncate(self, size: int) -> None:
        """Forget leaves appended since the log had `size`."""
        del self._pending[size - self._base.size :]

    def leaves(self, start: int, end: int) -> Iterator[Leaf]:
        """Stored and pending leaves start..end-1."""
        yield from self._stored.leaves(start, min(end, self._base.size))
        first = max(start - self._base.size, 0)
        last = max(end - self._base.size, 0)
        yield from [leaf for _, leaf in self._pending[first:last]]

    def flush(self) -> merkle.Frontier:
        """Write leaves and the nodes they complete; return the frontier of the whole log."""
        frontier = merkle.Frontier(self._base.size, self._base.peaks)
        position = merkle.interior_count(frontier.size)
        nodes: list[tuple[int, bytes]] = []
        for _, leaf in self._pending:
            for node in frontier.append(leaf.leaf_hash):
                nodes.append((position, node))
                position += 1
        leaves = [(leaf.index, leaf.data, leaf.leaf_hash) for _, leaf in self._pending]
        insert_many(self._connection, "leaves", leaves)
        insert_many(self._connection, "nodes", nodes)
        return frontier


def insert_many(
    connection: sqlite3.Connection, table: str, rows: Sequence[Row], tail: str = ""
) -> None:
    """Insert whole rows in few statements; `tail` ends each, e.g. ON CONFLICT."""
    for part in chunks(rows):
        statement = _insertion(table, len(part[0]), len(part), tail)
        connection.execute(statement, [value for row in part for value in row])


@lru_cache(maxsize=64)
def _insertion(table: str, columns: int, rows: int, tail: str) -> str:
    marks = f"({', '.join('?' * columns)})"
    return f"INSERT INTO {table} VALUES {', '.join([marks] * rows)} {tail}"  # noqa: S608 - constants


def chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Parts of few lengths, so that few statements have to be prepared."""
    start = 0
    for size in _CHUNKS:
        while len(items) - start >= size:
            yield items[start : start + size]
            start += size
