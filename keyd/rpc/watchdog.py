"""Ends calls whose peer neither sends nor reads: Python's gRPC waits for it without a limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from keyd.rpc import limits


@dataclass(eq=False)
class _Watch:
    seconds: float
    cancel: Callable[[], object]
    since: Callable[[], float]
    begun: float
    fired: bool = False

    def late(self, now: float) -> bool:
        return now - max(self.begun, self.since()) >= self.seconds


def always() -> float:
    """A count that nothing stops."""
    return 0.0


class Watchdog:
    """One thread that cancels what `limit` was promised to be quicker; `TICK_S` late at most."""

    def __init__(self) -> None:
        self._watches: set[_Watch] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rpc-watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; nothing is cancelled any more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    @contextmanager
    def limit(
        self,
        seconds: float,
        cancel: Callable[[], object],
        since: Callable[[], float] = always,
    ) -> Iterator[_Watch]:
        """Call `cancel` once, from another thread, unless the block ends within `seconds`.

        They count from its begin or from what `since` says, monotonic, whichever is later; math.inf
        stops the count. It is asked again and again, by the watchdog's thread.
        """
        watch = _Watch(seconds, cancel, since, time.monotonic())
        with self._lock:
            self._watches.add(watch)
        try:
            yield watch
        finally:
            with self._lock:
                self._watches.discard(watch)

    def _run(self) -> None:
        while not self._stop.wait(limits.TICK_S):
            now = time.monotonic()
            with self._lock:
                late = [watch for watch in self._watches if watch.late(now)]
                self._watches.difference_update(late)
            for watch in late:
                watch.fired = True
                watch.cancel()
