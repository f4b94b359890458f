"""One thread that commits: whatever waits when it looks becomes one group, one flush.

Callers wait for their group, but never for ever: when the writer makes no progress, those whose
work has not begun are refused as NOT_STARTED and the others learn that the outcome is unknown.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from keyd.errors import BackendUnavailable, DeadlineExceeded, Exhausted, KeydError

W = TypeVar("W")

MAX_GROUP = 1024
MAX_WAITING = 8192
# A caller polls four times within this, so that it is refused before two seconds have passed.
STALL_S = 1.5
_IDLE_S = 1.0

# What became of one piece: its result, or the exception that stands for it.
Outcome = tuple[object, Exception | None]
# Runs a group; calls the second argument after each piece. Raises KeydError for the whole group.
Perform = Callable[[Sequence[W], Callable[[], None]], list[Outcome]]


@dataclass(frozen=True)
class Statistics:
    """Counters since the start; `waiting` is now. A group is one BEGIN…COMMIT with one flush.

    `refused` pieces raised and left nothing behind; `failed_groups` could not be committed.
    """

    groups: int = 0
    pieces: int = 0
    refused: int = 0
    failed_groups: int = 0
    largest_group: int = 0
    waiting: int = 0


class _Job(Generic[W]):
    __slots__ = ("done", "failure", "outcomes", "works")

    def __init__(self, works: Sequence[W]) -> None:
        self.works = works
        self.outcomes: list[Outcome] = []
        self.failure: Exception | None = None
        # A lock that is released once is the cheapest thing to wait for.
        self.done = threading.Lock()
        self.done.acquire()


class GroupCommitter(Generic[W]):
    """A bounded queue and its writing thread. Safe between threads."""

    def __init__(
        self,
        perform: Perform[W],
        idle: Callable[[], None],
        *,
        stall_s: float = STALL_S,
        idle_s: float = _IDLE_S,
    ) -> None:
        """`idle` runs on the writing thread once, when `idle_s` have passed since the last work."""
        self._perform = perform
        self._idle = idle
        self._stall_s = stall_s
        self._idle_s = idle_s
        self._condition = threading.Condition()
        self._waiting: deque[_Job[W]] = deque()
        self._waiting_pieces = 0
        self._busy = False
        self._progress = time.monotonic()
        self._closed = False
        self._counted = Statistics()
        self._thread = threading.Thread(target=self._run, name="keyd-ledger", daemon=True)
        self._thread.start()

    def submit(self, works: Sequence[W]) -> list[Outcome]:
        """Commit the pieces in order, in one group up to MAX_GROUP; return when durable.

        Raises: BackendUnavailable (LEDGER_CLOSED, LEDGER_STALLED, and whatever the group failed
        with), Exhausted (LEDGER_BUSY), DeadlineExceeded (LEDGER_STALLED, outcome UNKNOWN_RECORDED).
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("work inside a transaction must not start another one")
        if not works:
            return []
        job = _Job(works)
        self._enqueue(job)
        while not job.done.acquire(timeout=self._stall_s / 4):
            self._give_up_if_stalled(job)
        if job.failure is not None:
            raise job.failure
        return job.outcomes

    def statistics(self) -> Statistics:
        """A consistent copy of the counters."""
        with self._condition:
            counted = self._counted
            return Statistics(
                counted.groups,
                counted.pieces,
                counted.refused,
                counted.failed_groups,
                counted.largest_group,
                self._waiting_pieces,
            )

    def close(self, timeout_s: float = 10.0) -> bool:
        """Finish what waits, then stop; False if the writer hangs (its thread is left behind)."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _enqueue(self, job: _Job[W]) -> None:
        with self._condition:
            if self._closed:
                raise _unavailable("LEDGER_CLOSED", "keyd is stopping")
            if self._stalled():
                raise _unavailable("LEDGER_STALLED", "the ledger's disk does not answer")
            if self._waiting and self._waiting_pieces + len(job.works) > MAX_WAITING:
                raise Exhausted(
                    "LEDGER_BUSY", "too much work waits for the ledger", retry_after_s=1.0
                )
            self._waiting.append(job)
            self._waiting_pieces += len(job.works)
            self._condition.notify()

    def _stalled(self) -> bool:
        return self._busy and time.monotonic() - self._progress > self._stall_s

    def _give_up_if_stalled(self, job: _Job[W]) -> None:
        with self._condition:
            if not self._stalled():
                return
            if job in self._waiting:
                self._waiting.remove(job)
                self._waiting_pieces -= len(job.works)
                raise _unavailable("LEDGER_STALLED", "the ledger's disk does not answer")
        raise DeadlineExceeded(
            "LEDGER_STALLED",
            "the ledger's disk does not answer; ask for the same bytes again to learn the outcome",
            details={"outcome": "UNKNOWN_RECORDED"},
            retry_after_s=5.0,
        )

    # --- the writing thread -------------------------------------------------------------------

    def _run(self) -> None:
        idle_due = False
        while True:
            jobs = self._take(self._idle_s if idle_due else None)
            if jobs is None:
                return
            if jobs:
                self._commit(jobs)
            else:
                # Counted as work: whoever comes meanwhile waits for the disk as behind a group.
                self._idle()
                with self._condition:
                    self._busy = False
            idle_due = bool(jobs)

    def _take(self, timeout_s: float | None) -> list[_Job[W]] | None:
        """Everything that waits, up to a full group; [] after the timeout, None when closed.

        Unless closed, the thread counts as busy from here on.
        """
        with self._condition:
            while not self._waiting:
                if self._closed:
                    return None
                if not self._condition.wait(timeout_s):
                    self._begin_work()
                    return []
            jobs = [self._waiting.popleft()]
            pieces = len(jobs[0].works)
            while self._waiting and pieces + len(self._waiting[0].works) <= MAX_GROUP:
                jobs.append(self._waiting.popleft())
                pieces += len(jobs[-1].works)
            self._waiting_pieces -= pieces
            self._begin_work()
            return jobs

    def _begin_work(self) -> None:
        self._beat()
        self._busy = True

    def _beat(self) -> None:
        self._progress = time.monotonic()

    def _commit(self, jobs: list[_Job[W]]) -> None:
        works = [work for job in jobs for work in job.works]
        outcomes: list[Outcome] = []
        failure: Exception | None = None
        try:
            outcomes = self._perform(works, self._beat)
        except KeydError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - a defect must not end the thread: callers learn
            failure = error
        self._count(outcomes, failure)
        for job in jobs:
            # Each caller raises an exception of its own: a shared one would mix their tracebacks.
            job.failure = None if failure is None else _copy(failure)
            job.outcomes, outcomes = outcomes[: len(job.works)], outcomes[len(job.works) :]
            job.done.release()

    def _count(self, outcomes: list[Outcome], failure: Exception | None) -> None:
        with self._condition:
            self._busy = False
            counted = self._counted
            self._counted = Statistics(
                groups=counted.groups + (failure is None),
                pieces=counted.pieces + len(outcomes),
                refused=counted.refused + sum(error is not None for _, error in outcomes),
                failed_groups=counted.failed_groups + (failure is not None),
                largest_group=max(counted.largest_group, len(outcomes)),
            )


def _unavailable(reason: str, why: str) -> BackendUnavailable:
    return BackendUnavailable(
        reason,
        f"{why}; nothing was begun, ask again",
        details={"outcome": "NOT_STARTED"},
        retry_after_s=1.0,
    )


def _copy(error: Exception) -> Exception:
    if not isinstance(error, KeydError):
        return error
    twin = type(error)(
        error.reason,
        error.message,
        findings=error.findings,
        details=error.details,
        retry_after_s=error.retry_after_s,
    )
    twin.__cause__ = error
    return twin
