"""Running one group: BEGIN, pieces that can be undone one by one, COMMIT, anchor.

After any failure of SQLite the connection is thrown away: after a failed fsync the kernel may have
dropped dirty pages and report success next time. The next group opens the file anew, reads the
log's end back and compares it with the anchor before it writes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from keyd.domain import merkle
from keyd.errors import BackendUnavailable, StateCorrupt
from keyd.failpoints import Failpoint, failpoint
from keyd.ledger.anchor import Anchor
from keyd.ledger.codec import corrupt
from keyd.ledger.database import connect_writer, translate
from keyd.ledger.file_watch import FileWatch
from keyd.ledger.group_commit import Outcome
from keyd.ledger.known import Known
from keyd.ledger.log import PendingLog, StoredLog
from keyd.ledger.marks import Mark
from keyd.ledger.reached import current_state
from keyd.ledger.staging import GroupContradicts
from keyd.ledger.transaction import SqliteTransaction

Work = Callable[[SqliteTransaction], object]
# Leaves at the log's end that are hashed again whenever the file is opened.
_TAIL = 64


def load_frontier(connection: sqlite3.Connection) -> merkle.Frontier:
    """The log's compact range, after checking its last leaves and nodes.

    Raises: StateCorrupt (LEDGER_CORRUPT), sqlite3.Error.
    """
    log = StoredLog(connection)
    size = log.size()
    nodes = connection.execute("SELECT coalesce(max(position), -1) + 1 FROM nodes").fetchone()[0]
    if size < 1 or nodes != merkle.interior_count(size):
        raise corrupt(f"the log has {size} entries and {nodes} interior hashes")
    start = max(0, size - _TAIL)
    tail = list(log.leaves(start, size))
    if [leaf.index for leaf in tail] != list(range(start, size)):
        raise corrupt(f"entries are missing from the log after {start}")
    for leaf in tail:
        if merkle.leaf_hash(leaf.data) != leaf.leaf_hash:
            raise corrupt(f"the log's entry {leaf.index} was changed")
    return log.frontier(size)


@dataclass(frozen=True)
class _Committed:
    """What became of a group's pieces, and what the anchor is to be told."""

    outcomes: list[Outcome]
    frontier: merkle.Frontier
    marks: Sequence[Mark] = ()
    note: str = ""

    def followed_by(self, other: _Committed) -> _Committed:
        return _Committed(
            [*self.outcomes, *other.outcomes],
            other.frontier,
            [*self.marks, *other.marks],
            other.note or self.note,
        )


def _refused(error: Exception, frontier: merkle.Frontier) -> _Committed:
    """The outcome of a piece whose rows contradict the ledger."""
    refusal = translate(error) if isinstance(error, sqlite3.Error) else error
    refusal.__cause__ = error.__cause__ or error
    return _Committed([(None, refusal)], frontier)


class Writer:
    """The one connection that writes, the log's frontier and the anchor. Used by one thread."""

    def __init__(
        self, path: Path, anchor: Anchor | None, renew_readers: Callable[[], None]
    ) -> None:
        """Open the ledger's file. Raises: KeydError."""
        self._path = path
        self._anchor = anchor
        self._renew_readers = renew_readers
        self._connection: sqlite3.Connection | None = None
        self._watch = FileWatch()
        # Size and root of what was last acknowledged; read by other threads.
        self.head = (0, merkle.EMPTY_ROOT)
        self._frontier = merkle.Frontier()
        self._known = Known()
        try:
            self._open()
        except sqlite3.Error as error:
            raise translate(error) from error

    def perform(self, works: Sequence[Work], beat: Callable[[], None]) -> list[Outcome]:
        """Commit the pieces as one group.

        Returns an outcome for each. Raises: KeydError when nothing was committed, or when it was
        and the anchor could not be told.
        """
        try:
            connection = self._connection or self._open()
            self._check_files(connection)
            committed = self._commit(connection, works, beat)
        except sqlite3.Error as error:
            self._discard()
            raise translate(error) from error
        except BaseException:
            self._discard()
            raise
        failpoint(Failpoint.LEDGER_GROUP_COMMITTED)
        self._frontier = committed.frontier
        self.head = (self._frontier.size, self._frontier.root())
        self._tell_anchor(committed)
        failpoint(Failpoint.LEDGER_GROUP_ANCHORED)
        return committed.outcomes

    def idle(self) -> None:
        """Flush the anchor; called when nothing else is to be done."""
        if self._anchor is None:
            return
        try:
            self._anchor.sync()
        except OSError:
            # The anchor writes itself anew with the next group, which reports what goes wrong then.
            return

    def close(self) -> None:
        """Close file and anchor. Raises: OSError."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._anchor is not None:
            self._anchor.close()

    def _commit(
        self, connection: sqlite3.Connection, works: Sequence[Work], beat: Callable[[], None]
    ) -> _Committed:
        """One group; if a staged row contradicts the ledger, a group for each piece instead."""
        try:
            return _group(connection, self._frontier, self._known, works, beat)
        except (sqlite3.IntegrityError, GroupContradicts) as refused:
            connection.rollback()
            self._known = Known()
            if len(works) == 1:
                return _refused(refused, self._frontier)
        done = _Committed([], self._frontier)
        for work in works:
            alone = self._commit(connection, [work], beat)
            self._frontier = alone.frontier
            done = done.followed_by(alone)
        return done

    def _open(self) -> sqlite3.Connection:
        self._known = Known()
        self._watch.admit(self._path)
        connection = connect_writer(self._path)
        try:
            frontier = load_frontier(connection)
            self._check_nothing_lost(connection, frontier)
        except BaseException:
            connection.close()
            raise
        self._frontier, self._connection = frontier, connection
        self.head = (frontier.size, frontier.root())
        self._watch.start(self._path)
        self._tell_what_was_found(connection)
        return connection

    def _tell_what_was_found(self, connection: sqlite3.Connection) -> None:
        """A group may be durable although it was reported failed: the anchor lacks its marks."""
        if self._anchor is not None and self._frontier.size > self._anchor.state.size:
            marks = list(current_state(connection).marks)
            self._tell_anchor(_Committed([], self._frontier, marks))

    def _check_nothing_lost(
        self, connection: sqlite3.Connection, frontier: merkle.Frontier
    ) -> None:
        """What was acknowledged before a failure must still be there after it."""
        size, root = self.head
        log = StoredLog(connection)
        if frontier.size < size or merkle.root_at(log.subtree, size) != root:
            raise corrupt(f"the log lost entries: it has {frontier.size}, it had {size}")

    def _check_files(self, connection: sqlite3.Connection) -> None:
        try:
            self._watch.check(self._path)
        except StateCorrupt:
            # This connection still has the files, whatever became of their names: bring what is
            # in the WAL into the database before both are let go.
            connection.execute("PRAGMA wal_checkpoint(FULL)").fetchall()
            raise

    def _discard(self) -> None:
        """Never trust a connection again that failed, nor any other that shares its WAL."""
        if self._connection is None:
            return
        connection, self._connection = self._connection, None
        self._renew_readers()
        try:
            connection.close()
        except sqlite3.Error:
            return

    def _tell_anchor(self, committed: _Committed) -> None:
        if self._anchor is None:
            return
        try:
            self._anchor.record(*self.head, committed.marks)
            if committed.note:
                self._anchor.record_checkpoint(committed.note)
        except OSError as error:
            raise BackendUnavailable(
                "ANCHOR_WRITE_FAILED",
                f"the ledger's anchor cannot be written ({error.strerror}); what was recorded is "
                "kept, ask again when its disk is mended",
                details={"outcome": "UNKNOWN_RECORDED"},
                retry_after_s=5.0,
            ) from error


def _group(
    connection: sqlite3.Connection,
    frontier: merkle.Frontier,
    known: Known,
    works: Sequence[Work],
    beat: Callable[[], None],
) -> _Committed:
    log = PendingLog(connection, frontier)
    transaction = SqliteTransaction(connection, log, known)
    try:
        connection.execute("BEGIN IMMEDIATE")
        outcomes = [_piece(transaction, work, beat) for work in works]
        grown = transaction.flush()
        failpoint(Failpoint.LEDGER_GROUP_WRITTEN)
        connection.execute("COMMIT")
    finally:
        transaction.end()
    known.trim()
    return _Committed(outcomes, grown, transaction.marks, transaction.note)


def _piece(transaction: SqliteTransaction, work: Work, beat: Callable[[], None]) -> Outcome:
    """Run one piece; what it raises becomes its outcome and undoes it alone."""
    beat()
    transaction.begin_piece()
    error: Exception
    try:
        result = work(transaction)
    except sqlite3.IntegrityError as refused:
        error = translate(refused)
        error.__cause__ = refused
    except (sqlite3.OperationalError, sqlite3.InternalError, GroupContradicts):
        # The file or the group, not the piece, is at fault.
        raise
    except Exception as raised:
        if type(raised) is sqlite3.DatabaseError:  # a damaged file
            raise
        error = raised
    else:
        transaction.keep_piece()
        return result, None
    transaction.undo_piece()
    return None, error
