"""Token events for whoever watches: each watcher has a bounded queue and never slows a token."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator

from keyd.domain.tokens import TokenEvent

_WAITING_EVENTS = 256
_LOOK_S = 0.25


class EventBus:
    """Hands every event to every watcher."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watchers: set[queue.Queue[TokenEvent]] = set()

    def publish(self, event: TokenEvent) -> None:
        """Never waits: a watcher that does not keep up loses its oldest events."""
        with self._lock:
            for watcher in self._watchers:
                try:
                    watcher.put_nowait(event)
                except queue.Full:
                    with contextlib.suppress(queue.Empty):
                        watcher.get_nowait()
                    watcher.put_nowait(event)

    def watch(
        self, first: Callable[[], list[TokenEvent]], stop: Callable[[], bool]
    ) -> Iterator[TokenEvent]:
        """`first`, then everything published since the first one was taken, until `stop()`."""
        mine: queue.Queue[TokenEvent] = queue.Queue(_WAITING_EVENTS)
        with self._lock:
            self._watchers.add(mine)
        try:
            yield from first()
            while not stop():
                try:
                    yield mine.get(timeout=_LOOK_S)
                except queue.Empty:
                    continue
        finally:
            with self._lock:
                self._watchers.discard(mine)
