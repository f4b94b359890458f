"""The present state of one token: read without waiting, changed in one place, published."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import structlog

from keyd.backends.events import EventBus
from keyd.domain.keys import Scheme
from keyd.domain.tokens import TokenEvent, TokenEventKind, TokenState, TokenStatus
from keyd.errors import BackendUnavailable
from keyd.ports import Clock
from keyd.wire.worker_pb2 import Opened

_log = structlog.get_logger(__name__)
_WANTS_PIN = (TokenState.PIN_REQUIRED, TokenState.PIN_LOCKED)


class StateBoard:
    """Holds a token's status; `lock` orders changes that must go with others."""

    def __init__(self, name: str, clock: Clock, bus: EventBus) -> None:
        self.lock = threading.RLock()
        self._clock = clock
        self._bus = bus
        self._last_time = datetime.fromtimestamp(0, UTC)
        self.status = TokenStatus(name, TokenState.OFFLINE, "not started", self.now())

    def now(self) -> datetime:
        """The clock's time; its last good one while it is not sane, for these are only stamps."""
        try:
            self._last_time = self._clock.now()
        except BackendUnavailable:
            _log.warning("clock_not_sane")
        return self._last_time

    def enter(self, state: TokenState, detail: str = "") -> None:
        """Change state; the same state with the same words is no change."""
        with self.lock:
            before = self.status
            if (before.state, before.detail) == (state, detail):
                return
            since = before.since if before.state is state else self.now()
            self.status = replace(before, state=state, detail=detail, since=since)
            status = self.status
        _log.info("token_state_changed", token=status.name, state=state.value, detail=detail)
        self._publish(TokenEventKind.STATE_CHANGED, status)
        if state in _WANTS_PIN:
            self._publish(TokenEventKind.PIN_WANTED, status)

    def describe(self, change: Callable[[TokenStatus], TokenStatus]) -> None:
        """Change what is known of the token besides its state."""
        with self.lock:
            before, self.status = self.status, change(self.status)
            status = self.status
        if status != before:
            self._publish(TokenEventKind.STATE_CHANGED, status)

    def _publish(self, kind: TokenEventKind, status: TokenStatus) -> None:
        self._bus.publish(TokenEvent(kind, status, status.since))


def described(status: TokenStatus, opened: Opened) -> TokenStatus:
    """The status with what an opened token says of itself; schemes that keyd has no name for go."""
    known = {scheme.value for scheme in Scheme}
    return replace(
        status,
        serial=opened.serial,
        label=opened.label,
        manufacturer=opened.manufacturer,
        model=opened.model,
        firmware=opened.firmware_version,
        schemes=tuple(Scheme(name) for name in opened.schemes if name in known),
    )
