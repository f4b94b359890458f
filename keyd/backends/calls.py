"""One request to a worker, and the group of them that a caller waits for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from keyd.errors import DeadlineExceeded, KeydError
from keyd.wire.worker_pb2 import Request, Response

Outcome = Response | KeydError
# Told of an answer, by the request's place in its group, that came after its caller had gone. Under
# the queue's lock: it must neither wait nor call the queue.
LateAnswer = Callable[[int, Response], None]


class Group:
    """A caller's requests; each is settled once, by whoever holds the queue's lock."""

    def __init__(self, size: int, late: LateAnswer | None = None) -> None:
        self.outcomes: list[Outcome | None] = [None] * size
        self._left = size
        self._done = threading.Event()
        self._late = late

    def settle(self, index: int, outcome: Outcome) -> None:
        """Record the outcome of one request; a later answer is only told of."""
        if self.outcomes[index] is None:
            self.outcomes[index] = outcome
            self._left -= 1
            if not self._left:
                self._done.set()
        elif self._late is not None and isinstance(outcome, Response):
            self._late(index, outcome)

    def settled(self) -> list[Outcome]:
        """The outcomes, one for every request, once all are settled."""
        return [outcome for outcome in self.outcomes if outcome is not None]

    def wait(self, timeout_s: float) -> bool:
        """Whether every request is settled within `timeout_s`."""
        return self._done.wait(max(timeout_s, 0.0))


@dataclass(eq=False, slots=True)
class Call:
    """One request. A worker that makes no progress on it for `limit_s` counts as hung."""

    request: Request
    group: Group
    index: int
    limit_s: float
    kind: str
    cost_s: float
    size: int
    slow: bool

    def settle(self, outcome: Outcome) -> None:
        """Tell the caller."""
        self.group.settle(self.index, outcome)


def not_started(reason: str = "TOKEN_DEADLINE") -> DeadlineExceeded:
    """The caller's time is up before the token was asked."""
    return DeadlineExceeded(
        reason,
        "the token was not asked in time; retry the same request with a longer deadline",
        details={"outcome": "NOT_STARTED"},
    )


def unlock_unanswered(token: str) -> DeadlineExceeded:
    """A PIN may have been tried."""
    return DeadlineExceeded(
        "TOKEN_DEADLINE",
        f"token {token} did not answer in time, and the PIN may have been tried: see keyd token "
        "list before it is tried again",
        details={"outcome": "UNKNOWN_RECORDED"},
    )


def unknown_outcome(reason: str = "TOKEN_DEADLINE") -> DeadlineExceeded:
    """The token was asked and did not answer in time."""
    return DeadlineExceeded(
        reason,
        "the token did not answer in time; retry the same request",
        details={"outcome": "UNKNOWN_RECORDED"},
    )
