"""Refused calls go into the audit log, but a flood of them must not fill it."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from keyd.domain.audit import Entry, Event
from keyd.domain.policy import Caller
from keyd.errors import KeydError
from keyd.ports import Clock, Ledger

PER_SECOND = 5.0
BURST = 50.0


@dataclass
class _Bucket:
    tokens: float
    at: float
    suppressed: int = 0


class DenialLog:
    """One token bucket per principal: `BURST` at once, `PER_SECOND` for ever, the rest counted.

    The number of suppressed entries stands in the next one that is written. Principals are
    authenticated, so their number is bounded by the configuration.
    """

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[str, _Bucket] = {}

    def record(self, caller: Caller, method: str, refusal: KeydError, subject: str) -> None:
        """Append a DENIED entry, or count it. A log that cannot be written hides no refusal."""
        suppressed = self._admit(caller.principal)
        if suppressed is None:
            return
        entry = Entry(
            event=Event.DENIED,
            at=self._clock.now(),
            principal=caller.principal,
            fields={
                "method": method,
                "subject": subject,
                "reason": refusal.reason,
                "reasons": sorted({f.reason for f in refusal.findings}),
                "suppressed_before": suppressed,
            },
        )
        try:
            self._ledger.transact(lambda tx: tx.append(entry))
        except KeydError:
            # The caller gets the refusal either way; nothing was allowed that is not recorded.
            return

    def _admit(self, principal: str) -> int | None:
        now = self._clock.monotonic()
        with self._lock:
            bucket = self._buckets.setdefault(principal, _Bucket(BURST, now))
            bucket.tokens = min(BURST, bucket.tokens + (now - bucket.at) * PER_SECOND)
            bucket.at = now
            if bucket.tokens < 1:
                bucket.suppressed += 1
                return None
            bucket.tokens -= 1
            suppressed, bucket.suppressed = bucket.suppressed, 0
            return suppressed
