"""Calls for one key share groups; nobody gets another's result, waits for ever or is forgotten."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from keyd.errors import DeadlineExceeded
from keyd.services.group_signing import Halves, SigningGroups

WAIT_S = 20.0


class Work:
    """Groups as they were begun; each waits for `open` in its second half while it is not set."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.open = threading.Event()
        self.begun = threading.Semaphore(0)

    def begin(self, asked: Sequence[int]) -> Sequence[int]:
        self.groups.append(list(asked))
        self.begun.release()
        return asked

    def finish(self, asked: Sequence[int]) -> list[int]:
        assert self.open.wait(WAIT_S)
        if -1 in asked and len(asked) > 1:
            raise ZeroDivisionError
        if list(asked) == [-1]:
            raise LookupError
        return [number * 10 for number in asked]


class Calls:
    """Callers in threads of their own."""

    def __init__(self, pool: ThreadPoolExecutor, work: Work) -> None:
        self.groups: SigningGroups[int, Sequence[int], int] = SigningGroups(
            Halves(work.begin, work.finish)
        )
        self._pool = pool

    def call(
        self, number: int, key: str = "key", timeout_s: float = WAIT_S, size: int = 1
    ) -> Future[int]:
        return self._pool.submit(self.groups.run, key, number, size=size, timeout_s=timeout_s)

    def queued(self, key: str = "key") -> int:
        with self.groups._lock:
            return len(self.groups._queues[key].seats)

    def wait_queued(self, count: int) -> None:
        while self.queued() < count:
            threading.Event().wait(0.001)


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def calls(work: Work) -> Iterator[Calls]:
    with ThreadPoolExecutor(100) as pool:
        yield Calls(pool, work)
        work.open.set()


def lead(calls: Calls, work: Work) -> Future[int]:
    """A call that leads a group of its own and is under way."""
    leader = calls.call(1)
    assert work.begun.acquire(timeout=WAIT_S)
    return leader


def test_a_call_alone_goes_alone(calls: Calls, work: Work) -> None:
    work.open.set()
    assert [calls.call(number).result(WAIT_S) for number in (1, 2)] == [10, 20]
    assert work.groups == [[1], [2]]
    assert not calls.groups._queues


def test_who_arrives_meanwhile_goes_together(calls: Calls, work: Work) -> None:
    futures = [lead(calls, work)]
    for count, number in enumerate(range(2, 11), start=1):
        futures.append(calls.call(number))
        calls.wait_queued(count)
    work.open.set()
    assert [future.result(WAIT_S) for future in futures] == [n * 10 for n in range(1, 11)]
    assert work.groups == [[1], list(range(2, 11))]
    assert not calls.groups._queues


def test_a_slow_token_has_the_next_group_judged_meanwhile(calls: Calls, work: Work) -> None:
    first = lead(calls, work)
    threading.Event().wait(0.05)  # the token takes this long, judging next to nothing
    work.open.set()
    assert first.result(WAIT_S) == 10
    work.open.clear()
    futures = []
    for number in (2, 3, 4):
        futures.append(calls.call(number))
        assert work.begun.acquire(timeout=WAIT_S)
    for count, number in enumerate(range(5, 45), start=1):
        futures.append(calls.call(number))
        calls.wait_queued(count)
    assert work.groups == [[1], [2], [3], [4]]
    work.open.set()
    assert [each.result(WAIT_S) for each in futures] == [n * 10 for n in range(2, 45)]
    assert work.groups[4] == list(range(5, 37))
    assert not calls.groups._queues


def test_another_key_does_not_wait(calls: Calls, work: Work) -> None:
    lead(calls, work)
    calls.call(3)
    calls.wait_queued(1)
    other = calls.call(4, key="other")
    assert work.begun.acquire(timeout=WAIT_S)
    assert work.groups[-1] == [4]
    work.open.set()
    assert other.result(WAIT_S) == 40


def test_groups_are_bounded_in_number_and_bytes(calls: Calls, work: Work) -> None:
    futures = [lead(calls, work)]
    large = (4 << 20) // 2
    for count, number in enumerate(range(2, 90), start=1):
        futures.append(calls.call(number, size=large if number in (2, 3, 4) else 1))
        calls.wait_queued(count)
    work.open.set()
    assert [future.result(WAIT_S) for future in futures] == [n * 10 for n in range(1, 90)]
    assert work.groups[1] == [2, 3]
    assert max(map(len, work.groups)) <= 64


def test_one_defect_fails_one_call(calls: Calls, work: Work) -> None:
    futures = [lead(calls, work)]
    for count, number in enumerate((3, -1, 4), start=1):
        futures.append(calls.call(number))
        calls.wait_queued(count)
    work.open.set()
    one, three, broken, four = futures
    assert [each.result(WAIT_S) for each in (one, three, four)] == [10, 30, 40]
    assert isinstance(broken.exception(WAIT_S), LookupError)
    assert not calls.groups._queues


def test_a_defect_of_a_lonely_call_is_its_own(calls: Calls, work: Work) -> None:
    work.open.set()
    assert isinstance(calls.call(-1).exception(WAIT_S), LookupError)
    assert calls.call(5).result(WAIT_S) == 50
    assert not calls.groups._queues


def test_waiting_ends_with_the_deadline_and_nothing_was_started(calls: Calls, work: Work) -> None:
    leader = lead(calls, work)
    late = calls.call(3, timeout_s=0.01).exception(WAIT_S)
    assert isinstance(late, DeadlineExceeded)
    assert late.details["outcome"] == "NOT_STARTED"
    work.open.set()
    assert leader.result(WAIT_S) == 10
    assert work.groups == [[1]]
    assert not calls.groups._queues


def test_a_deadline_within_a_started_group_leaves_the_outcome_open(
    calls: Calls, work: Work
) -> None:
    leader = lead(calls, work)
    first = calls.call(3)
    calls.wait_queued(1)
    impatient = calls.call(4, timeout_s=2.0)
    calls.wait_queued(2)
    # The next group starts and hangs.
    blocked, work.open = work.open, threading.Event()
    blocked.set()
    late = impatient.exception(WAIT_S)
    assert isinstance(late, DeadlineExceeded)
    assert late.details["outcome"] == "UNKNOWN_RECORDED"
    work.open.set()
    assert first.result(WAIT_S) == 30
    assert leader.result(WAIT_S) == 10
    assert not calls.groups._queues
