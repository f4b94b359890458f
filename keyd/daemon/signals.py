"""Signals as a queue that the main thread reads; a second request to stop does not wait."""

from __future__ import annotations

import queue
import signal
from enum import Enum
from types import FrameType


class Wish(Enum):
    """What a signal asks for."""

    STOP = "stop"
    RELOAD = "reload"


class ForcedStop(Exception):
    """A second SIGTERM or SIGINT: calls in flight are cut."""


class Signals:
    """Installed once, in the main thread.

    `impatient` lets a further stop raise ForcedStop, once; `forced` remembers that it did.
    """

    def __init__(self) -> None:
        self._wishes: queue.SimpleQueue[Wish] = queue.SimpleQueue()
        self._stopping = False
        self.impatient = False
        self.forced = False

    def install(self) -> None:
        """Take over SIGTERM, SIGINT and SIGHUP."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._received)

    def ignore(self) -> None:
        """Hear no more of SIGTERM and SIGINT: call it when nothing is left to stop.

        As it exits, the interpreter gives signals back their own effect: one more SIGTERM would
        then turn an orderly end into a death by signal.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)

    def wait(self, timeout_s: float) -> Wish | None:
        """The next wish, or None when there was none in time."""
        try:
            return self._wishes.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            return None

    def _received(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._wishes.put(Wish.RELOAD)
            return
        if self._stopping and self.impatient:
            self.impatient, self.forced = False, True
            raise ForcedStop
        self._stopping = True
        self._wishes.put(Wish.STOP)
