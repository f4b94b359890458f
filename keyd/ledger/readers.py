"""A pool of read-only connections: readers see the last commit and wait for nobody."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from keyd.ledger.database import connect_reader
from keyd.ledger.log import StoredLog
from keyd.ledger.view import Snapshot, SqliteView

T = TypeVar("T")
# Connections kept open between reads; more are opened while needed.
_KEPT = 16


class Readers:
    """Safe between threads; one connection serves one read at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: list[sqlite3.Connection] = []
        self._generation = 0
        self._closed = False

    def read(self, work: Callable[[SqliteView, StoredLog], T]) -> T:
        """Run on one snapshot. Raises: sqlite3.Error, and what `work` raises."""
        # list.pop and append are atomic, so no lock is needed.
        generation = self._generation
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = connect_reader(self._path)
        log = StoredLog(connection)
        view = Snapshot(connection, log)
        try:
            connection.execute("BEGIN")
            return work(view, log)
        finally:
            view.end()
            self._give_back(connection, generation)

    def renew(self) -> None:
        """Open the file anew for later reads; those under way end on what they have."""
        self._generation += 1
        self._close_idle()

    def close(self) -> None:
        """Close what is idle; reads under way close theirs when they end."""
        self._closed = True
        self._close_idle()

    def _close_idle(self) -> None:
        while True:
            try:
                self._idle.pop().close()
            except IndexError:
                return

    def _give_back(self, connection: sqlite3.Connection, generation: int) -> None:
        try:
            connection.rollback()
        except sqlite3.Error:
            connection.close()
            return
        if len(self._idle) >= _KEPT:
            connection.close()
            return
        self._idle.append(connection)
        # Asked last, so that a renewal between any two of these lines misses no connection.
        if self._closed or generation != self._generation:
            self._close_idle()
