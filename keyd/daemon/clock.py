"""The host's clocks, with enough distrust that a wrong one cannot make or break an expiry."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from keyd.errors import BackendUnavailable
from keyd.ports import Ledger

JUMP_S = 300.0
# Smaller steps may add up to this share of the time that passed, and to JUMP_S besides.
_DRIFT = 0.01
# Nothing signed by this code can be older than the code.
EARLIEST = datetime(2026, 1, 1, tzinfo=UTC)
_EARLIEST_S = EARLIEST.timestamp()


def _boot_seconds() -> float:
    """Seconds since boot, suspension included: what the wall clock should have advanced by."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class SystemClock:
    """Wall clock checked against the time since boot; safe between threads.

    A step of more than five minutes between two looks is refused until the step is undone or keyd
    is started again: every expiry that is judged meanwhile would be judged by an unknown time. So
    are smaller steps that add up. Slewing by NTP is no step.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        since_boot: Callable[[], float] = _boot_seconds,
    ) -> None:
        self._wall = wall
        self._since_boot = since_boot
        self._lock = threading.Lock()
        self._first = self._seen = wall(), since_boot()

    def now(self) -> datetime:
        """Current UTC time. Raises: BackendUnavailable (CLOCK_JUMPED, CLOCK_BEFORE_BUILD)."""
        with self._lock:
            wall, since_boot = self._wall(), self._since_boot()
            self._check_steps(wall, since_boot)
            self._seen = wall, since_boot
        if wall < _EARLIEST_S:
            raise BackendUnavailable(
                "CLOCK_BEFORE_BUILD",
                f"the system clock is before {EARLIEST:%Y-%m-%d}; set it right",
            )
        return datetime.fromtimestamp(wall, UTC)

    def _check_steps(self, wall: float, since_boot: float) -> None:
        step = (wall - self._seen[0]) - (since_boot - self._seen[1])
        passed = since_boot - self._first[1]
        total = (wall - self._first[0]) - passed
        if abs(step) > JUMP_S or abs(total) > JUMP_S + _DRIFT * passed:
            raise BackendUnavailable(
                "CLOCK_JUMPED",
                f"the system clock jumped by {max(step, total, key=abs):+.0f} s; set it right, "
                "then restart keyd",
            )

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()


def check_clock_against_log(clock: SystemClock, ledger: Ledger) -> None:
    """Refuse to start in the past of the log. Raises: BackendUnavailable (CLOCK_BEHIND_LOG)."""

    def newest(size: int) -> bytes:
        return ledger.read(lambda view: next(iter(view.leaves(size - 1, size))).data)

    size = ledger.read(lambda view: view.log_size())
    if not size:
        return
    recorded = datetime.fromisoformat(json.loads(newest(size))["time"])
    behind = (recorded - clock.now()).total_seconds()
    if behind > JUMP_S:
        raise BackendUnavailable(
            "CLOCK_BEHIND_LOG",
            f"the system clock is {behind:.0f} s behind the newest log entry; set it right",
        )
