"""The writing thread: groups, order, failures, stalls, bounds, the end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from keyd.errors import BackendUnavailable, DeadlineExceeded, Exhausted, NotAllowed
from keyd.ledger.group_commit import MAX_GROUP, GroupCommitter, Outcome

PATIENT_S = 30.0


class Disk:
    """Performs groups of numbers; can be held, and made to fail."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.may_go = threading.Event()
        self.may_go.set()
        self.entered = threading.Semaphore(0)
        self.failure: Exception | None = None
        self.idled = threading.Event()

    def perform(self, works: Sequence[int], beat: Callable[[], None]) -> list[Outcome]:
        self.entered.release()
        assert self.may_go.wait(PATIENT_S)
        self.groups.append(list(works))
        if self.failure is not None:
            raise self.failure
        beat()
        return [
            (work * 10, None) if work >= 0 else (None, NotAllowed("NO", str(work)))
            for work in works
        ]


@contextmanager
def committing(
    disk: Disk, stall_s: float = PATIENT_S, idle_s: float = 60.0
) -> Iterator[GroupCommitter[int]]:
    committer: GroupCommitter[int] = GroupCommitter(
        disk.perform, disk.idled.set, stall_s=stall_s, idle_s=idle_s
    )
    try:
        yield committer
    finally:
        disk.may_go.set()
        committer.close()


@contextmanager
def held(disk: Disk, committer: GroupCommitter[int]) -> Iterator[Future[list[Outcome]]]:
    """While one submission (of [0]) is inside the disk."""
    disk.may_go.clear()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(committer.submit, [0])
        assert disk.entered.acquire(timeout=PATIENT_S)
        try:
            yield future
        finally:
            disk.may_go.set()


def wait_for_waiting(committer: GroupCommitter[int], pieces: int) -> None:
    reached = threading.Event()
    while committer.statistics().waiting < pieces:
        reached.wait(0.001)


def test_what_waits_becomes_one_group() -> None:
    disk = Disk()
    with committing(disk) as committer, ThreadPoolExecutor(32) as pool:
        with held(disk, committer):
            callers = [pool.submit(committer.submit, [n, n + 100]) for n in range(1, 32)]
            wait_for_waiting(committer, 62)
        results = [caller.result() for caller in callers]
        assert results == [[(n * 10, None), ((n + 100) * 10, None)] for n in range(1, 32)]
        assert [len(group) for group in disk.groups] == [1, 62]
        counted = committer.statistics()
        assert (counted.groups, counted.pieces, counted.largest_group) == (2, 63, 62)
        assert counted.waiting == 0


def test_pieces_keep_their_order_and_outcomes() -> None:
    disk = Disk()
    with committing(disk) as committer:
        outcomes = committer.submit([1, -2, 3])
        assert [result for result, _ in outcomes] == [10, None, 30]
        assert isinstance(outcomes[1][1], NotAllowed)
        assert committer.statistics().refused == 1
        assert committer.submit([]) == []


def test_a_failed_group_fails_each_caller_with_an_error_of_its_own() -> None:
    disk = Disk()
    disk.failure = BackendUnavailable("LEDGER_WRITE_FAILED", "x", details={"a": "b"})
    with committing(disk) as committer, ThreadPoolExecutor(2) as pool:
        with held(disk, committer) as first:
            second = pool.submit(committer.submit, [1])
            wait_for_waiting(committer, 1)
        errors = [first.exception(), second.exception()]
        assert [getattr(error, "reason", "") for error in errors] == ["LEDGER_WRITE_FAILED"] * 2
        assert [getattr(error, "details", "") for error in errors] == [{"a": "b"}] * 2
        assert errors[0] is not errors[1]
        assert committer.statistics().failed_groups == 2
        disk.failure = None
        assert committer.submit([4]) == [(40, None)]


def test_a_defect_reaches_the_caller_and_the_thread_lives_on() -> None:
    disk = Disk()
    disk.failure = ZeroDivisionError("defect")
    with committing(disk) as committer:
        with pytest.raises(ZeroDivisionError):
            committer.submit([1])
        disk.failure = None
        assert committer.submit([1]) == [(10, None)]


def test_groups_are_bounded() -> None:
    disk = Disk()
    with committing(disk) as committer, ThreadPoolExecutor(3) as pool:
        with held(disk, committer):
            callers = [pool.submit(committer.submit, list(range(MAX_GROUP - 1))) for _ in range(3)]
            wait_for_waiting(committer, 3 * (MAX_GROUP - 1))
        assert [len(caller.result()) for caller in callers] == [MAX_GROUP - 1] * 3
        assert [len(group) for group in disk.groups] == [1] + [MAX_GROUP - 1] * 3


def test_one_large_submission_is_one_group() -> None:
    disk = Disk()
    with committing(disk) as committer:
        assert len(committer.submit(list(range(20_000)))) == 20_000
        assert len(disk.groups) == 1


def test_too_much_waiting_work_is_refused() -> None:
    disk = Disk()
    with committing(disk) as committer, ThreadPoolExecutor(1) as pool:
        with held(disk, committer):
            queued = pool.submit(committer.submit, list(range(8000)))
            wait_for_waiting(committer, 8000)
            with pytest.raises(Exhausted, match="LEDGER_BUSY"):
                committer.submit(list(range(500)))
        assert len(queued.result()) == 8000


def test_a_hung_disk_is_told_from_work_not_begun() -> None:
    disk = Disk()
    with (
        committing(disk, stall_s=0.2) as committer,
        ThreadPoolExecutor(1) as pool,
        held(disk, committer) as begun,
    ):
        queued = pool.submit(committer.submit, [1])
        error = begun.exception(PATIENT_S)
        assert isinstance(error, DeadlineExceeded)
        assert error.details["outcome"] == "UNKNOWN_RECORDED"
        error = queued.exception(PATIENT_S)
        assert isinstance(error, BackendUnavailable)
        assert error.details["outcome"] == "NOT_STARTED"
        with pytest.raises(BackendUnavailable, match="LEDGER_STALLED"):
            committer.submit([2])
    # Closed: the writing thread has come to its end.
    assert disk.groups[0] == [0]
    assert [1] not in disk.groups


def test_a_disk_that_hangs_between_groups_is_not_waited_for() -> None:
    hung, go_on = threading.Event(), threading.Event()

    def idle() -> None:
        hung.set()
        assert go_on.wait(PATIENT_S)

    disk = Disk()
    committer: GroupCommitter[int] = GroupCommitter(disk.perform, idle, stall_s=0.2, idle_s=0.01)
    with ThreadPoolExecutor(1) as pool:
        assert committer.submit([1]) == [(10, None)]
        assert hung.wait(PATIENT_S)
        try:
            error = pool.submit(committer.submit, [2]).exception(PATIENT_S / 3)
            assert isinstance(error, BackendUnavailable)
            assert error.details["outcome"] == "NOT_STARTED"
        finally:
            go_on.set()
        committed = threading.Event()
        while not committed.is_set():
            try:
                assert committer.submit([3]) == [(30, None)]
                committed.set()
            except BackendUnavailable:
                committed.wait(0.01)
    assert committer.close()
    assert [2] not in disk.groups


def test_a_disk_that_answers_again_is_used_again() -> None:
    disk = Disk()
    with committing(disk, stall_s=0.2) as committer:
        with held(disk, committer) as begun:
            assert begun.exception(PATIENT_S) is not None
        retried = threading.Event()
        while True:
            try:
                assert committer.submit([5]) == [(50, None)]
                break
            except BackendUnavailable:
                retried.wait(0.01)


def test_closing_finishes_what_waits() -> None:
    disk = Disk()
    with committing(disk) as committer, ThreadPoolExecutor(2) as pool:
        with held(disk, committer) as first:
            second = pool.submit(committer.submit, [1])
            wait_for_waiting(committer, 1)
            closing = threading.Thread(target=committer.close)
            closing.start()
        closing.join(PATIENT_S)
        assert (first.result(), second.result()) == ([(0, None)], [(10, None)])
        with pytest.raises(BackendUnavailable, match="LEDGER_CLOSED"):
            committer.submit([2])


def test_closing_gives_up_on_a_hung_disk() -> None:
    disk = Disk()
    with committing(disk, stall_s=0.1) as committer, held(disk, committer) as begun:
        assert begun.exception(PATIENT_S) is not None
        assert committer.close(timeout_s=0.1) is False


def test_work_must_not_start_transactions() -> None:
    caught: list[BaseException] = []

    def perform(works: Sequence[int], beat: Callable[[], None]) -> list[Outcome]:
        try:
            committer.submit([1])
        except RuntimeError as error:
            caught.append(error)
        return [(None, None) for _ in works]

    committer: GroupCommitter[int] = GroupCommitter(perform, lambda: None)
    committer.submit([0])
    committer.close()
    assert "must not start another" in str(caught[0])


def test_idleness_is_reported_once_after_work() -> None:
    disk = Disk()
    with committing(disk, idle_s=0.05) as committer:
        assert not disk.idled.wait(0.2)
        committer.submit([1])
        assert disk.idled.wait(PATIENT_S)
        disk.idled.clear()
        assert not disk.idled.wait(0.2)
