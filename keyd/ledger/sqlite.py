"""The ledger in SQLite, as the use cases see it: the `Ledger` port."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

from keyd.domain import merkle
from keyd.domain.audit import Checkpoint
from keyd.errors import InvalidRequest, KeydError, StateCorrupt
from keyd.ledger.database import translate
from keyd.ledger.directory import Lock
from keyd.ledger.gap import Gap, Refusal
from keyd.ledger.group_commit import GroupCommitter, Outcome, Statistics
from keyd.ledger.log import StoredLog
from keyd.ledger.readers import Readers
from keyd.ledger.transaction import SqliteTransaction
from keyd.ledger.view import SqliteView
from keyd.ledger.writer import Work, Writer

T = TypeVar("T")


class SqliteLedger:
    """An open ledger, owned by this process; made by `open_ledger`. Safe between threads."""

    def __init__(
        self,
        writer: Writer,
        readers: Readers,
        lock: Lock,
        refusal: Refusal | None,
        stall_s: float,
    ) -> None:
        self._writer = writer
        self._readers = readers
        self._lock = lock
        self._refusal = refusal
        self._closed = False
        self._committer: GroupCommitter[Work] = GroupCommitter(
            writer.perform, writer.idle, stall_s=stall_s
        )

    def transact(self, work: Callable[[SqliteTransaction], T]) -> T:
        """Run, commit, flush. Raises what `work` raises (then nothing of it is stored).

        Raises: StateCorrupt while `refusal()` says why; BackendUnavailable when the group could not
        be written (LEDGER_DISK_FULL, LEDGER_WRITE_FAILED, ANCHOR_WRITE_FAILED); Exhausted,
        DeadlineExceeded (see `GroupCommitter.submit`).
        """
        result, error = self._submit([work])[0]
        if error is not None:
            raise error
        return cast("T", result)

    def transact_each(
        self, works: Sequence[Callable[[SqliteTransaction], T]]
    ) -> list[T | Exception]:
        """Many pieces in one group (up to MAX_GROUP), in order.

        An exception stands for each piece that raised, or could not be committed.
        """
        try:
            outcomes = self._submit(works)
        except KeydError as error:
            return [error for _ in works]
        return [cast("T", result) if error is None else error for result, error in outcomes]

    def read(self, work: Callable[[SqliteView], T]) -> T:
        """Run on a consistent snapshot without waiting for writers. Raises what `work` raises."""
        return self._read(lambda view, _: work(view))

    def checkpoint(self) -> Checkpoint | None:
        """The newest signed checkpoint."""
        return self.read(lambda view: view.checkpoint())

    def unsigned_checkpoint(self) -> Checkpoint:
        """Origin, size and root of what is committed now, to be signed by the log key."""
        size, root = self._writer.head
        origin = self.read(lambda view: view.identity().origin)
        return Checkpoint(origin=origin, size=size, root=root)

    def put_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Store a signed checkpoint, durable here and in the anchor.

        Raises: StateCorrupt (LEDGER_INVARIANT) for one that is not of this log, InvalidRequest for
        a note that is none, BackendUnavailable. Signatures are not verified here.
        """
        self.transact(lambda tx: tx.put_checkpoint(checkpoint))

    def inclusion_proof(self, index: int, size: int) -> tuple[bytes, ...]:
        """RFC 6962 2.1.1 audit path, 32 bytes each. Raises: InvalidRequest."""
        self._check_size(size)
        return self._read(lambda _, log: merkle.inclusion_proof(log.subtree, index, size))

    def consistency_proof(self, first: int, second: int) -> tuple[bytes, ...]:
        """RFC 6962 2.1.2 proof, 32 bytes each. Raises: InvalidRequest."""
        self._check_size(second)
        return self._read(lambda _, log: merkle.consistency_proof(log.subtree, first, second))

    def refusal(self) -> str | None:
        """Why nothing may be signed (behind its anchor, contradiction), or None."""
        return None if self._refusal is None else str(self._refusal)

    def gaps(self) -> tuple[Gap, ...]:
        """What the anchor saw and this ledger does not know, per role."""
        return () if self._refusal is None else self._refusal.gaps

    def statistics(self) -> Statistics:
        """Counters of groups, pieces and refusals since the start."""
        return self._committer.statistics()

    def close(self) -> None:
        """Commit what waits, flush the anchor, give the lock back.

        Raises: OSError when the anchor cannot be flushed.
        """
        if self._closed:
            return
        self._closed = True
        finished = self._committer.close()
        self._readers.close()
        try:
            # A writer that hangs keeps its files and the lock: they end with the process.
            if finished:
                self._writer.close()
        finally:
            if finished:
                self._lock.release()

    def _submit(self, works: Sequence[Work]) -> list[Outcome]:
        if self._refusal is not None:
            raise self._refusal.error()
        try:
            outcomes = self._committer.submit(works)
        except StateCorrupt as error:
            self._note(error)
            raise
        for _, failed in outcomes:
            self._note(failed)
        return outcomes

    def _read(self, work: Callable[[SqliteView, StoredLog], T]) -> T:
        try:
            return self._readers.read(work)
        except sqlite3.Error as error:
            translated = translate(error)
            self._note(translated)
            raise translated from error
        except StateCorrupt as error:
            self._note(error)
            raise

    def _note(self, error: Exception | None) -> None:
        """Stay up, sign nothing: a ledger found to be corrupt writes no more until a restart."""
        if isinstance(error, StateCorrupt) and error.reason == "LEDGER_CORRUPT":
            self._refusal = Refusal(error.reason, error.message)

    def _check_size(self, size: int) -> None:
        known = self._writer.head[0]
        if size > known:
            raise InvalidRequest(
                "TREE_SIZE_OUT_OF_RANGE", f"the log has {known} entries, not {size}"
            )
