"""The queue before one token: bounded, aware of deadlines, sent on in micro-batches.

A few frames are under way at a time; whatever arrives meanwhile leaves together in the next one.
So one caller waits for nobody, and many callers share wake-ups, flushes and messages.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from keyd.backends.calls import Call, Group, LateAnswer, Outcome, not_started, unknown_outcome
from keyd.backends.channel import Channel
from keyd.backends.flight import Flight
from keyd.errors import BackendUnavailable, Exhausted, InvalidRequest, KeydError
from keyd.wire.frames import (
    MAX_FRAME_BYTES,
    MAX_REQUESTS_PER_FRAME,
    FrameError,
    encode_frame,
)
from keyd.wire.worker_pb2 import Failure, Request, Response, ToWorker

_FRAME_BYTES = 1024 * 1024
_ENVELOPE_BYTES = 64
_FRAME_WORK_S = 0.1
_FIRST_ESTIMATE_S = 0.01
_LEARNING = 0.2
_WATCHDOG_SLACK_S = 10.0
_SLOW = frozenset({"destroy", "generate", "inventory"})

Refusal = Callable[[], KeydError]
Troubled = Callable[[Request, Failure], bool]


@dataclass(frozen=True)
class QueueStatistics:
    """Counts since the start. `requests` answered or not, `frames` they went out in."""

    requests: int = 0
    frames: int = 0
    answers: int = 0
    waiting: int = 0
    under_way: int = 0


class RequestQueue:
    """All requests to one token, whichever worker serves it at the moment.

    `troubled` is told of a failed request before its caller is, and says whether the token needs
    attention: then nothing more is sent until `run`. It is called on the reading thread under the
    queue's lock, so it must neither wait nor call the queue.
    """

    def __init__(self, max_requests: int, max_bytes: int, troubled: Troubled) -> None:
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._troubled = troubled
        self._lock = threading.Lock()
        self._emptied = threading.Condition(self._lock)
        self._quick: deque[Call] = deque()
        self._slow: deque[Call] = deque()
        self._flight = Flight()
        self._load_s = 0.0
        self._load_bytes = 0
        self._estimates: dict[str, float] = {}
        self._channel: Channel | None = None
        self._running = False
        self._slow_last = False
        self._refusal: Refusal | None = None
        self._requests = self._frames = self._answers = 0

    # --- callers --------------------------------------------------------------------------------

    def submit(
        self,
        requests: Sequence[Request],
        limit_s: float,
        timeout_s: float,
        late: LateAnswer | None = None,
    ) -> Group:
        """Queue requests that the caller will wait `timeout_s` for, and `late` for ever.

        Raises: the refusal in force, Exhausted (TOKEN_QUEUE_FULL), DeadlineExceeded (TOKEN_BUSY,
        outcome NOT_STARTED).
        """
        group = Group(len(requests), late)
        calls = [self._call(each, group, i, limit_s) for i, each in enumerate(requests)]
        with self._lock:
            if self._refusal is not None:
                raise self._refusal()
            self._admit(calls, timeout_s)
            for call in calls:
                (self._slow if call.slow else self._quick).append(call)
        self._pump()
        return group

    def give_up(self, group: Group) -> None:
        """The caller's time is up: unsent requests are withdrawn, sent ones are left to end."""
        with self._lock:
            for waiting in (self._quick, self._slow):
                kept = []
                for call in waiting:
                    if call.group is group:
                        self._forget(call)
                        call.settle(not_started())
                    else:
                        kept.append(call)
                waiting.clear()
                waiting.extend(kept)
            for call in self._flight.of(group):
                call.settle(unknown_outcome())

    # --- the supervisor -------------------------------------------------------------------------

    def attach(self, channel: Channel) -> None:
        """Use a new worker, at first only for `ask`."""
        with self._lock:
            self._channel = channel
            self._running = False

    def run(self, sessions: int) -> None:
        """Send waiting and coming requests to the worker, which has `sessions` threads."""
        with self._lock:
            # The worker's word, which is not believed to the point of dividing by it.
            self._flight.sessions = max(sessions, 1)
            self._running = True
            self._refusal = None
        self._pump()

    def hold(self) -> None:
        """Take requests but send none: the token recovers."""
        with self._lock:
            self._running = False
            self._refusal = None

    def refuse(self, refusal: Refusal) -> None:
        """Take no requests, and fail those that wait."""
        with self._lock:
            self._running = False
            self._refusal = refusal
            for waiting in (self._quick, self._slow):
                while waiting:
                    call = waiting.popleft()
                    self._forget(call)
                    call.settle(refusal())

    def drain(self, refusal: Refusal) -> None:
        """Take no more requests, but let those that wait be served."""
        with self._lock:
            self._refusal = refusal

    def detach(self, channel: Channel, failure: Refusal) -> bool:
        """The worker is gone: fail what it was asked. False: it was replaced before."""
        with self._lock:
            if self._channel is not channel:
                return False
            self._channel = None
            self._running = False
            for call in self._flight.clear():
                self._forget(call)
                call.settle(failure())
            return True

    def ask(self, requests: Sequence[Request], limit_s: float) -> list[Outcome]:
        """The supervisor's own requests: past the queue, ended by an answer or the worker's end."""
        group = Group(len(requests))
        calls = [self._call(each, group, i, limit_s) for i, each in enumerate(requests)]
        with self._lock:
            channel = self._channel
            if channel is None:
                raise BackendUnavailable("TOKEN_WORKER_GONE", "the worker ended; it is replaced")
            for call in calls:
                self._load(call)
            self._depart(calls, asked=True)
        channel.send(_frame(calls))
        # The watchdog ends a worker that does not answer, and with it this wait.
        group.wait(limit_s + _WATCHDOG_SLACK_S)
        return [outcome or unknown_outcome() for outcome in group.outcomes]

    def overdue(self, now: float) -> bool:
        """Whether the worker keeps a request beyond its limit."""
        with self._lock:
            return self._flight.overdue(now)

    def idle(self) -> bool:
        """Whether nothing waits and the worker has nothing to do."""
        with self._lock:
            return self._is_idle()

    def wait_idle(self, deadline: float) -> bool:
        """Wait until `deadline` (monotonic) for the queue to be idle."""
        with self._emptied:
            return self._emptied.wait_for(self._is_idle, max(deadline - time.monotonic(), 0.0))

    def _is_idle(self) -> bool:
        return not (self._flight or self._quick or self._slow)

    def statistics(self) -> QueueStatistics:
        """Counts for metrics; cheap."""
        with self._lock:
            return QueueStatistics(
                self._requests,
                self._frames,
                self._answers,
                len(self._quick) + len(self._slow),
                len(self._flight),
            )

    # --- answers --------------------------------------------------------------------------------

    def answered(self, responses: Sequence[Response]) -> None:
        """Settle what was answered. Raises: FrameError for an answer to no question."""
        now = time.monotonic()
        with self._lock:
            for response in responses:
                arrived = self._flight.arrive(response.id, now)
                if arrived is None:
                    raise FrameError("an answer without a question")
                self._settle(*arrived, response)
        self._pump()

    def _settle(self, call: Call, asked: bool, response: Response) -> None:
        self._answers += 1
        self._forget(call)
        if not response.HasField("failure"):
            self._learn(call.kind, response.spent_us / 1e6)
        elif self._running and not asked:
            self._running = not self._troubled(call.request, response.failure)
        call.settle(response)

    def _learn(self, kind: str, spent_s: float) -> None:
        known = self._estimates.get(kind, spent_s)
        self._estimates[kind] = known + _LEARNING * (spent_s - known)

    # --- sending --------------------------------------------------------------------------------

    def _call(self, request: Request, group: Group, index: int, limit_s: float) -> Call:
        kind = request.WhichOneof("kind") or ""
        size = request.ByteSize()
        if size > MAX_FRAME_BYTES - _ENVELOPE_BYTES:
            raise InvalidRequest(
                "TOKEN_MESSAGE_TOO_LARGE", f"{size} bytes are too many to sign at once"
            )
        learned = request.sign.key.scheme if kind == "sign" else kind
        return Call(
            request=request,
            group=group,
            index=index,
            limit_s=limit_s,
            kind=learned,
            cost_s=self._estimates.get(learned, _FIRST_ESTIMATE_S),
            size=size,
            slow=kind in _SLOW,
        )

    def _admit(self, calls: Sequence[Call], timeout_s: float) -> None:
        requests = len(self._quick) + len(self._slow) + len(calls)
        size = self._load_bytes + sum(call.size for call in calls)
        if requests > self._max_requests or size > self._max_bytes:
            raise Exhausted(
                "TOKEN_QUEUE_FULL",
                "too many requests wait for this token; slow down and retry",
                retry_after_s=max(self._load_s / self._flight.sessions, 0.1),
            )
        if timeout_s <= 0:
            raise not_started()
        # While there is time an empty queue is entered: else one stall would be believed for ever.
        if self._load_s and self._load_s / self._flight.sessions > timeout_s:
            raise not_started("TOKEN_BUSY")
        for call in calls:
            self._load(call)

    def _load(self, call: Call) -> None:
        self._load_s += call.cost_s
        self._load_bytes += call.size
        self._requests += 1

    def _forget(self, call: Call) -> None:
        self._load_s -= call.cost_s
        self._load_bytes -= call.size
        if not self._load_bytes:
            self._load_s = 0.0  # sums of fractions drift
            self._emptied.notify_all()

    def _pump(self) -> None:
        while True:
            with self._lock:
                channel = self._channel
                calls = self._next_frame() if self._running else []
                if channel is None or not calls:
                    return
                self._depart(calls, asked=False)
            channel.send(_frame(calls))

    def _next_frame(self) -> list[Call]:
        flight = self._flight
        if flight.sessions == 1:
            return self._next_of_one_session()
        if self._slow and flight.slow < flight.sessions - 1:
            return [self._slow.popleft()]
        return [] if flight.frames > flight.sessions else self._quick_frame()

    def _next_of_one_session(self) -> list[Call]:
        """Slow and quick requests never share its time: quick ones behind slow would look hung.

        Where both wait they take turns, a frame each, so that neither starves the other.
        """
        slow_next = self._slow and not (self._slow_last and self._quick)
        if self._flight.slow or (slow_next and self._flight):
            return []
        if slow_next:
            self._slow_last = True
            return [self._slow.popleft()]
        if self._flight.frames > 1:
            return []
        self._slow_last = False
        return self._quick_frame()

    def _quick_frame(self) -> list[Call]:
        calls: list[Call] = []
        work_s, size = 0.0, 0
        while self._quick and len(calls) < MAX_REQUESTS_PER_FRAME:
            call = self._quick[0]
            # Of a kind never seen, one at a time: it may take a second each.
            work_s += self._estimates.get(call.kind, _FRAME_WORK_S)
            size += call.size
            if calls and (work_s > _FRAME_WORK_S or size > _FRAME_BYTES):
                break
            calls.append(self._quick.popleft())
        return calls

    def _depart(self, calls: Sequence[Call], *, asked: bool) -> None:
        self._frames += 1
        self._flight.depart(calls, time.monotonic(), asked=asked)


def _frame(calls: Sequence[Call]) -> bytes:
    message = ToWorker(requests=[call.request for call in calls])
    return encode_frame(message.SerializeToString())
