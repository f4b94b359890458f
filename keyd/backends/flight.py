"""What a worker has been asked and has not answered yet, and whether it takes too long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from keyd.backends.calls import Call, Group


@dataclass(eq=False)
class _Frame:
    """Requests that left in one message, `left` of them unanswered.

    `since` is when the worker last made progress on it, None while its threads have older ones.
    """

    left: int
    limit_s: float
    slow: bool
    asked: bool
    since: float | None = None


class Flight:
    """Not safe between threads: the lock of the queue that owns it covers it."""

    def __init__(self) -> None:
        self._calls: dict[int, tuple[Call, _Frame]] = {}
        self._frames: list[_Frame] = []
        self._next_id = 1
        self.sessions = 1

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def frames(self) -> int:
        """Messages under way that carry callers' requests."""
        return sum(not frame.asked for frame in self._frames)

    @property
    def slow(self) -> int:
        """Callers' requests under way that may take a token minutes."""
        return sum(frame.slow and not frame.asked for frame in self._frames)

    def depart(self, calls: Sequence[Call], now: float, *, asked: bool) -> None:
        """Number the requests of one message. `asked`: by the supervisor itself."""
        limit_s = max(call.limit_s for call in calls)
        frame = _Frame(len(calls), limit_s, any(call.slow for call in calls), asked)
        for call in calls:
            call.request.id = self._next_id
            self._calls[self._next_id] = call, frame
            self._next_id += 1
        self._frames.append(frame)
        self._begin(now)

    def arrive(self, number: int, now: float) -> tuple[Call, bool] | None:
        """The call that an answer belongs to, and whether the supervisor asked it."""
        found = self._calls.pop(number, None)
        if found is None:
            return None
        call, frame = found
        frame.left -= 1
        frame.since = now
        if not frame.left:
            self._frames.remove(frame)
            self._begin(now)
        return call, frame.asked

    def overdue(self, now: float) -> bool:
        """Whether the worker has made no progress on a frame for longer than its limit.

        While the token generates a key it may keep everybody waiting.
        """
        least = max((frame.limit_s for frame in self._frames if frame.slow), default=0.0)
        return any(
            frame.since is not None and now - frame.since > max(frame.limit_s, least)
            for frame in self._frames
        )

    def of(self, group: Group) -> Iterator[Call]:
        """The calls of one caller."""
        return (call for call, _ in self._calls.values() if call.group is group)

    def clear(self) -> list[Call]:
        """Give everything up: the worker is gone."""
        calls = [call for call, _ in self._calls.values()]
        self._calls.clear()
        self._frames.clear()
        return calls

    def _begin(self, now: float) -> None:
        """A worker has as many threads as sessions, and takes frames in order."""
        busy = 0
        for frame in self._frames:
            if frame.since is None and (frame.asked or busy < self.sessions):
                frame.since = now
            busy += not frame.asked
