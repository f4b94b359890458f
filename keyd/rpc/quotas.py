"""What one identity may use, so that it cannot starve the others (calls in flight, rate, bytes)."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from keyd.errors import Exhausted
from keyd.rpc import limits
from keyd.rpc.lanes import LaneName
from keyd.rpc.options import Quota

_BURST_S = 2.0
# Identities are authenticated, yet one CA can name many: the oldest idle ones are forgotten.
_IDENTITIES_MAX = 4_096
# What gRPC keeps for a call whose answer is not taken in, however small the answer is.
_ANSWER_COST = 16 * limits.KIB


class _Bucket:
    """Tokens that come back at `rate` per second, up to two seconds' worth."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._level = rate * _BURST_S
        self._at = now

    def take(self, amount: float, now: float) -> float:
        """Take it and return 0, or take nothing and return the seconds until there is enough.

        More than a full bucket is let through when the bucket is full and leaves it in debt, so
        that a small rate slows large messages down instead of refusing them for ever.
        """
        burst = self._rate * _BURST_S
        self._level = min(burst, self._level + (now - self._at) * self._rate)
        self._at = now
        lacking = min(amount, burst) - self._level
        if lacking > 0:
            return lacking / self._rate
        self._level -= amount
        return 0.0


class _Usage:
    def __init__(self, quota: Quota, now: float) -> None:
        self.in_flight: Counter[LaneName] = Counter()
        self.calls = _Bucket(quota.calls_per_s, now)
        self.bytes = _Bucket(quota.bytes_per_s, now)
        self.unread = 0

    @property
    def idle(self) -> bool:
        return not self.in_flight.total() and not self.unread


class Quotas:
    """Counts per principal. Safe between threads."""

    def __init__(self, quota: Quota, monotonic: Callable[[], float]) -> None:
        self._quota = quota
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._usage: OrderedDict[str, _Usage] = OrderedDict()

    @contextmanager
    def admit(self, principal: str, lane: LaneName) -> Iterator[None]:
        """Count one call for as long as the block runs.

        Raises: Exhausted (QUOTA_CALLS_IN_FLIGHT, QUOTA_CALL_RATE).
        """
        usage = self._enter(principal, lane)
        try:
            yield
        finally:
            with self._lock:
                usage.in_flight[lane] -= 1

    def spend_bytes(self, principal: str, amount: int) -> None:
        """Count a received message. Raises: Exhausted (QUOTA_BYTE_RATE)."""
        with self._lock:
            wait = self._of(principal).bytes.take(amount, self._monotonic())
        if wait:
            raise Exhausted(
                "QUOTA_BYTE_RATE",
                f"more than {self._quota.bytes_per_s:.0f} bytes a second; wait and send it again",
                retry_after_s=wait,
            )

    @contextmanager
    def unread(self, principal: str, size: int) -> Iterator[None]:
        """Count an answer as one that its peer has not taken in, for as long as the block runs.

        Raises: Exhausted (QUOTA_UNREAD_ANSWERS). A single answer is never too large.
        """
        charged = max(size, _ANSWER_COST)
        with self._lock:
            usage = self._of(principal)
            if usage.unread and usage.unread + charged > limits.UNREAD_MAX:
                raise _unread()
            usage.unread += charged
        try:
            yield
        finally:
            with self._lock:
                usage.unread -= charged

    def _enter(self, principal: str, lane: LaneName) -> _Usage:
        allowed = self._allowed(lane)
        with self._lock:
            usage = self._of(principal)
            if usage.unread > limits.UNREAD_MAX // 2:
                raise _unread()
            busy = usage.in_flight[lane] >= allowed
            wait = 0.0 if busy else usage.calls.take(1, self._monotonic())
            if not busy and not wait:
                usage.in_flight[lane] += 1
                return usage
        if busy:
            raise Exhausted(
                "QUOTA_CALLS_IN_FLIGHT",
                f"{allowed} calls of this identity are in flight; wait for one of them",
                retry_after_s=limits.RETRY_AFTER_S,
            )
        raise Exhausted(
            "QUOTA_CALL_RATE",
            f"more than {self._quota.calls_per_s:g} calls a second; slow down",
            retry_after_s=wait,
        )

    def _allowed(self, lane: LaneName) -> int:
        return {
            LaneName.ADMIN: self._quota.admin_in_flight,
            LaneName.HEALTH: self._quota.probes_in_flight,
            LaneName.WATCH: self._quota.watches,
        }.get(lane, self._quota.calls_in_flight)

    def _of(self, principal: str) -> _Usage:
        usage = self._usage.get(principal)
        if usage is None:
            self._forget_idle()
            usage = self._usage[principal] = _Usage(self._quota, self._monotonic())
        self._usage.move_to_end(principal)
        return usage

    def _forget_idle(self) -> None:
        while len(self._usage) >= _IDENTITIES_MAX:
            idle = next((p for p, u in self._usage.items() if u.idle), None)
            if idle is None:
                return
            del self._usage[idle]


def _unread() -> Exhausted:
    return Exhausted(
        "QUOTA_UNREAD_ANSWERS",
        f"{limits.UNREAD_MAX // limits.MIB} MiB of answers to this identity wait to be read; read "
        "them before you ask for more",
        retry_after_s=limits.RETRY_AFTER_S,
    )
