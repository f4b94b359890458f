"""Knowing that the daemon is about to stop, and when the last call has ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from keyd.errors import BackendUnavailable
from keyd.rpc import limits


class Drain:
    """Shared by all listening addresses. Once begun it never ends."""

    def __init__(self) -> None:
        self._begun = threading.Event()
        self._in_flight = 0
        self._idle = threading.Condition()

    @property
    def begun(self) -> bool:
        return self._begun.is_set()

    def begin(self) -> None:
        """From now on `check` refuses and `pause` returns at once."""
        self._begun.set()

    def pause(self, seconds: float) -> bool:
        """Wait until draining begins, at most so long; whether it has begun."""
        return self._begun.wait(seconds)

    def check(self) -> None:
        """Raises: BackendUnavailable (DRAINING) once begun."""
        if self.begun:
            raise BackendUnavailable(
                "DRAINING",
                "the daemon is stopping and takes no new calls; send the same request again",
                retry_after_s=limits.RETRY_AFTER_S,
            )

    @contextmanager
    def call(self) -> Iterator[None]:
        """Count a call as in flight."""
        with self._idle:
            self._in_flight += 1
        try:
            yield
        finally:
            with self._idle:
                self._in_flight -= 1
                self._idle.notify_all()

    def wait_idle(self, seconds: float) -> bool:
        """Wait until no call is in flight; whether that came true in time."""
        deadline = time.monotonic() + seconds
        with self._idle:
            while self._in_flight and (left := deadline - time.monotonic()) > 0:
                self._idle.wait(left)
            return not self._in_flight
