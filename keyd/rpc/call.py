"""One call on its way through the gate: what is known of it so far."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc

from keyd.domain.policy import Caller
from keyd.errors import DeadlineExceeded, KeydError
from keyd.rpc import limits
from keyd.rpc.drain import Drain
from keyd.rpc.method import Method
from keyd.rpc.turns import Turns

_NOBODY = Caller(principal="", local_admin=False)


@dataclass(eq=False)
class Call:
    """Made when a call gets its thread; the layers fill in the rest.

    `call_id` is random and stands in logs and errors; `request_id` is the client's own, known once
    the request is decoded. `authorise` raises what a new call of the same peer would be refused
    with; streams ask it again and again, because grants and certificates end while they run.
    """

    method: Method
    context: grpc.ServicerContext
    time_limit_s: float
    drain: Drain
    authorise: Callable[[Call], None]
    call_id: str = field(default_factory=lambda: secrets.token_hex(8))
    started: float = field(default_factory=time.monotonic)
    caller: Caller = _NOBODY
    request_id: str = ""
    code: grpc.StatusCode = grpc.StatusCode.OK
    reason: str = ""
    turns: Turns = field(default_factory=Turns)

    @property
    def timeout_s(self) -> float:
        """Seconds that a use case may still take: the client's deadline, cut to our own limit."""
        return min(self.context.time_remaining(), self.time_limit_s)

    def check_time(self) -> None:
        """Raises: DeadlineExceeded if too little is left to start anything."""
        if self.timeout_s < limits.ADMISSION_FLOOR_S:
            raise DeadlineExceeded(
                "DEADLINE_TOO_CLOSE",
                "the deadline left no time to begin; nothing was started, call again with a "
                "later one",
                details={"outcome": "NOT_STARTED"},
            )

    def check_still_allowed(self) -> None:
        """Raises: Unauthenticated, NotAllowed: an answer of a long call is not this peer's."""
        if time.monotonic() - self.started > limits.AUTHORISED_FOR_S:
            self.authorise(self)

    def check_continue(self) -> None:
        """Raises: BackendUnavailable (DRAINING), Unauthenticated, NotAllowed: a stream must end."""
        self.drain.check()
        self.authorise(self)

    def ended(self) -> bool:
        """Whether a stream must end: the peer left, may no longer call, or the daemon drains."""
        if not self.context.is_active():
            return True
        try:
            self.check_continue()
        except KeydError:
            return True
        return False
