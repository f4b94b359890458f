"""Calls for one key share groups; nobody gets another's result, waits for ever or is forgotten."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from keyd.errors import DeadlineExceeded
from keyd.services.group_signing import SigningGroups

WAIT_S = 20.0


class Work:
    """Groups as they were run; each waits for `open` while it is not set."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.open = threading.Event()
        self.begun = threading.Semaphore(0)
        self._lock = threading.Lock()

    def __call__(self, asked: Sequence[int]) -> list[int]:
        with self._lock:
            self.groups.append(list(asked))
        self.begun.release()
        assert self.open.wait(WAIT_S)
        if -1 in asked and len(asked) > 1:
            raise ZeroDivisionError
        if asked == [-1]:
            raise LookupError
        return [number * 10 for number in asked]


class Calls:
    """Callers in threads of their own."""

    def __init__(self, pool: ThreadPoolExecutor, work: Work) -> None:
        self.groups: SigningGroups[int, int] = SigningGroups()
        self._pool = pool
        self._work = work

    def call(
        self, number: int, key: str = "key", timeout_s: float = WAIT_S, size: int = 1
    ) -> Future[int]:
        return self._pool.submit(
            self.groups.run, key, number, size=size, timeout_s=timeout_s, together=self._work
        )

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


def lead_twice(calls: Calls, work: Work) -> list[Future[int]]:
    """Two calls that lead groups of their own and are under way."""
    leaders = []
    for number in (1, 2):
        leaders.append(calls.call(number))
        assert work.begun.acquire(timeout=WAIT_S)
    return leaders


def test_a_lonely_call_goes_at_once(calls: Calls, work: Work) -> None:
    work.open.set()
    assert [calls.call(number).result(WAIT_S) for number in (1, 2)] == [10, 20]
    assert work.groups == [[1], [2]]
    assert not calls.groups._queues


def test_who_arrives_meanwhile_goes_together(calls: Calls, work: Work) -> None:
    futures = lead_twice(calls, work)
    for count, number in enumerate(range(3, 11), start=1):
        futures.append(calls.call(number))
        calls.wait_queued(count)
    work.open.set()
    assert [future.result(WAIT_S) for future in futures] == [n * 10 for n in range(1, 11)]
    assert [1] in work.groups
    assert [2] in work.groups
    assert list(range(3, 11)) in work.groups
    assert not calls.groups._queues


def test_another_key_does_not_wait(calls: Calls, work: Work) -> None:
    lead_twice(calls, work)
    calls.call(3)
    calls.wait_queued(1)
    other = calls.call(4, key="other")
    assert work.begun.acquire(timeout=WAIT_S)
    assert work.groups[-1] == [4]
    work.open.set()
    assert other.result(WAIT_S) == 40


def test_groups_are_bounded_in_number_and_bytes(calls: Calls, work: Work) -> None:
    futures = lead_twice(calls, work)
    large = (4 << 20) // 2
    for count, number in enumerate(range(3, 90), start=1):
        futures.append(calls.call(number, size=large if number in (3, 4, 5) else 1))
        calls.wait_queued(count)
    work.open.set()
    assert [future.result(WAIT_S) for future in futures] == [n * 10 for n in range(1, 90)]
    assert [3, 4] in work.groups
    assert max(map(len, work.groups)) == 64


def test_one_defect_fails_one_call(calls: Calls, work: Work) -> None:
    futures = lead_twice(calls, work)
    for count, number in enumerate((3, -1, 4), start=1):
        futures.append(calls.call(number))
        calls.wait_queued(count)
    work.open.set()
    one, two, three, broken, four = futures
    assert [each.result(WAIT_S) for each in (one, two, three, four)] == [10, 20, 30, 40]
    assert isinstance(broken.exception(WAIT_S), LookupError)
    assert not calls.groups._queues


def test_a_defect_of_a_lonely_call_is_its_own(calls: Calls, work: Work) -> None:
    work.open.set()
    assert isinstance(calls.call(-1).exception(WAIT_S), LookupError)
    assert calls.call(5).result(WAIT_S) == 50
    assert not calls.groups._queues


def test_waiting_ends_with_the_deadline_and_nothing_was_started(calls: Calls, work: Work) -> None:
    leaders = lead_twice(calls, work)
    late = calls.call(3, timeout_s=0.01).exception(WAIT_S)
    assert isinstance(late, DeadlineExceeded)
    assert late.details["outcome"] == "NOT_STARTED"
    work.open.set()
    assert [leader.result(WAIT_S) for leader in leaders] == [10, 20]
    assert sorted(work.groups) == [[1], [2]]
    assert not calls.groups._queues


def test_a_deadline_within_a_started_group_leaves_the_outcome_open(
    calls: Calls, work: Work
) -> None:
    leaders = lead_twice(calls, work)
    first = calls.call(3)
    calls.wait_queued(1)
    impatient = calls.call(4, timeout_s=2.0)
    calls.wait_queued(2)
    # The next group starts and hangs: both leaders are released one after the other.
    blocked, work.open = work.open, threading.Event()
    blocked.set()
    late = impatient.exception(WAIT_S)
    assert isinstance(late, DeadlineExceeded)
    assert late.details["outcome"] == "UNKNOWN_RECORDED"
    work.open.set()
    assert first.result(WAIT_S) == 30
    assert [leader.result(WAIT_S) for leader in leaders] == [10, 20]
    assert not calls.groups._queues
