"""Calls for one key that arrive together are signed together.

One snapshot of the ledger, one commit and one exchange with the token then serve all of them, which
costs little more than serving one; with dozens of callers most of a call is otherwise spent on
waking threads. Nobody waits for company: a call that finds its key idle goes alone, and whatever
arrives meanwhile is the next group.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from keyd.errors import DeadlineExceeded

A = TypeVar("A")
R = TypeVar("R")

# Two groups of a key may be under way: one is judged while the token has the other.
_LEADERS = 2
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
    """Who waits for one key, and how many groups of it are under way."""

    seats: deque[_Seat[A, R]] = field(default_factory=deque)
    leaders: int = 0

    def next_group(self) -> list[_Seat[A, R]]:
        """Take those who waited longest, as many as go together."""
        group = [self.seats.popleft()]
        size = group[0].size
        while self.seats and len(group) < _MOST and size + self.seats[0].size <= _MOST_BYTES:
            group.append(self.seats.popleft())
            size += group[-1].size
        return group


class SigningGroups(Generic[A, R]):
    """Groups by key. Safe between threads; callers' threads do the work, there are no others."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: dict[str, _Queue[A, R]] = {}

    def run(
        self,
        key: str,
        asked: A,
        *,
        size: int,
        timeout_s: float,
        together: Callable[[Sequence[A]], Sequence[R]],
    ) -> R:
        """The result for `asked`; `together` is called for its group by one thread of that group.

        `together` returns one result for each that it is given. If it raises, every caller of the
        group calls it alone and gets what it raises then. `size` is in bytes. Raises:
        DeadlineExceeded after `timeout_s` in a group that another thread leads.
        """
        seat: _Seat[A, R] = _Seat(asked, size)
        self._enter(key, seat)
        if not seat.group and not seat.woken.acquire(timeout=max(timeout_s, 0.0)):
            self._leave(key, seat)
        if seat.group:
            self._lead(key, seat.group, together)
        if not seat.results:
            seat.results.append(together([asked])[0])
        return seat.results[0]

    def _enter(self, key: str, seat: _Seat[A, R]) -> None:
        """Lead a group of one, or queue."""
        with self._lock:
            queue = self._queues.setdefault(key, _Queue())
            if queue.leaders < _LEADERS:
                queue.leaders += 1
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

    def _lead(
        self,
        key: str,
        group: Sequence[_Seat[A, R]],
        together: Callable[[Sequence[A]], Sequence[R]],
    ) -> None:
        results: Sequence[R] = ()
        try:
            results = together([seat.asked for seat in group])
        except Exception:
            # Somebody's defect, or a state that concerns all: each finds out for itself.
            if len(group) == 1:
                raise
        finally:
            self._hand_over(key)
            self._settle(group, results)

    def _hand_over(self, key: str) -> None:
        """The first of those who wait leads the next group; if nobody waits, the queue goes."""
        with self._lock:
            queue = self._queues[key]
            if queue.seats:
                group = queue.next_group()
                group[0].group = group
                group[0].woken.release()
                return
            queue.leaders -= 1
            if not queue.leaders:
                del self._queues[key]

    def _settle(self, group: Sequence[_Seat[A, R]], results: Sequence[R]) -> None:
        with self._lock:
            for place, seat in enumerate(group):
                seat.results.extend(results[place : place + 1])
                seat.settled = True
                if not seat.group:
                    seat.woken.release()
