"""Calls for one key that arrive together are signed together.

One snapshot of the ledger, one commit and one exchange with the token then serve all of them, which
costs little more than serving one; with dozens of callers most of a call is otherwise spent on
waking threads. Nobody waits for company: a call that finds its key idle goes alone, and whatever
arrives meanwhile is the next group. Where the token takes most of the time, the next groups are
judged while others are at the token, smaller ones, so that it always has something to do; elsewhere
several small groups would be made of a large one.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from keyd.errors import DeadlineExceeded

A = TypeVar("A")
B = TypeVar("B")
R = TypeVar("R")

# With a slow token: one is judged while the token has the others.
_UNDER_WAY_SLOW = 3
_MOST_SLOW = 32
# So much longer must a group's second half take for the next group to begin beside it.
_SLOW = 1.5
_KEYS_KEPT = 1024
_MOST = 64
_MOST_BYTES = 4 << 20


class _Seat(Generic[A, R]):
    """One caller's place; its thread sleeps until there is a result, or a group for it to lead."""

    def __init__(self, asked: A, size: int) -> None:
        self.asked = asked
        self.size = size
        self.group: list[_Seat[A, R]] = []
        self.results: list[R] = []
        self.settled = False
        # A lock that is released once is the cheapest thing to wait for.
        self.woken = threading.Lock()
        self.woken.acquire()


@dataclass
class _Queue(Generic[A, R]):
    """Who waits for one key; how many groups are under way, and whether one is being judged."""

    seats: deque[_Seat[A, R]] = field(default_factory=deque)
    under_way: int = 0
    beginning: bool = False

    def may_begin(self) -> bool:
        """Whether another group may begin now."""
        return not self.beginning and self.under_way < _UNDER_WAY_SLOW

    def begin(self) -> None:
        """Count a group that begins."""
        self.under_way += 1
        self.beginning = True

    def next_group(self, most: int) -> list[_Seat[A, R]]:
        """Take those who waited longest, as many as go together."""
        group = [self.seats.popleft()]
        size = group[0].size
        while self.seats and len(group) < most and size + self.seats[0].size <= _MOST_BYTES:
            group.append(self.seats.popleft())
            size += group[-1].size
        return group


@dataclass(frozen=True)
class Halves(Generic[A, B, R]):
    """How a group is served: `begin` takes what was asked, `finish` returns one result for each."""

    begin: Callable[[Sequence[A]], B]
    finish: Callable[[B], Sequence[R]]

    def together(self, asked: Sequence[A]) -> Sequence[R]:
        """Both, one after the other."""
        return self.finish(self.begin(asked))


class SigningGroups(Generic[A, B, R]):
    """Groups by key. Safe between threads; callers' threads do the work, there are no others."""

    def __init__(self, halves: Halves[A, B, R]) -> None:
        self._halves = halves
        self._lock = threading.Lock()
        self._queues: dict[str, _Queue[A, R]] = {}
        # Keys whose groups take longest in their second half.
        self._slow: set[str] = set()

    def run(self, key: str, asked: A, *, size: int, timeout_s: float) -> R:
        """The result for `asked`, whose group is served by one thread of that group.

        If serving a group raises, every caller of it is served alone and gets what is raised then.
        `size` is in bytes. Raises: DeadlineExceeded after `timeout_s` in a group that another
        thread leads.
        """
        seat: _Seat[A, R] = _Seat(asked, size)
        self._enter(key, seat)
        if not seat.group and not seat.woken.acquire(timeout=max(timeout_s, 0.0)):
            self._leave(key, seat)
        if seat.group:
            self._lead(key, seat.group)
        if not seat.results:
            seat.results.append(self._halves.together([asked])[0])
        return seat.results[0]

    def _enter(self, key: str, seat: _Seat[A, R]) -> None:
        """Lead a group of one, or queue."""
        with self._lock:
            queue = self._queues.setdefault(key, _Queue())
            if queue.may_begin():
                queue.begin()
                seat.group = [seat]
            else:
                queue.seats.append(seat)

    def _leave(self, key: str, seat: _Seat[A, R]) -> None:
        """Time is up. Returns if the caller was woken at this very moment.

        Raises: DeadlineExceeded (outcome NOT_STARTED, or UNKNOWN_RECORDED once its group started).
        """
        with self._lock:
            if seat.group or seat.settled:
                return
            queue = self._queues.get(key)
            waiting = queue is not None and seat in queue.seats
            if queue is not None and waiting:
                queue.seats.remove(seat)
        raise DeadlineExceeded(
            "DEADLINE_EXCEEDED",
            "time ran out while other calls for this key were served; send the same request again",
            details={"outcome": "NOT_STARTED" if waiting else "UNKNOWN_RECORDED"},
        )

    def _lead(self, key: str, group: Sequence[_Seat[A, R]]) -> None:
        results: Sequence[R] = ()
        overlaps = False
        try:
            started = time.monotonic()
            begun = self._halves.begin([seat.asked for seat in group])
            between = time.monotonic()
            overlaps = key in self._slow
            if overlaps:
                self._hand_over(key, ended=False)
            results = self._halves.finish(begun)
            self._learn(key, slow=time.monotonic() - between > _SLOW * (between - started))
        except Exception:
            # Somebody's defect, or a state that concerns all: each finds out for itself.
            if len(group) == 1:
                raise
        finally:
            self._hand_over(key, ended=True, began=overlaps)
            self._settle(group, results)

    def _hand_over(self, key: str, *, ended: bool, began: bool = False) -> None:
        """The first of those who wait leads the next group, if it may begin.

        `ended`: this group has; `began`: it had handed over before.
        """
        with self._lock:
            queue = self._queues[key]
            queue.under_way -= ended
            if not began:
                queue.beginning = False
            if queue.seats and queue.may_begin():
                queue.begin()
                group = queue.next_group(_MOST_SLOW if key in self._slow else _MOST)
                group[0].group = group
                group[0].woken.release()
            elif not (queue.seats or queue.under_way):
                del self._queues[key]

    def _learn(self, key: str, *, slow: bool) -> None:
        with self._lock:
            if not slow:
                self._slow.discard(key)
            elif len(self._slow) < _KEYS_KEPT:
                self._slow.add(key)

    def _settle(self, group: Sequence[_Seat[A, R]], results: Sequence[R]) -> None:
        with self._lock:
            for place, seat in enumerate(group):
                seat.results.extend(results[place : place + 1])
                seat.settled = True
                if not seat.group:
                    seat.woken.release()
