"""Lanes: thread pools of their own for what must not wait behind tokens.

gRPC for Python runs a handler in the server's pool unless the handler carries the attribute
`experimental_thread_pool`; that attribute is how a call gets into its lane. A server has one
thread that submits, so asking `full` and submitting cannot race.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from enum import StrEnum
from typing import Any, TypeVar

from keyd.rpc import limits

T = TypeVar("T")


class LaneName(StrEnum):
    """Which pool a method runs in."""

    WORK = "work"
    ADMIN = "admin"
    HEALTH = "health"
    WATCH = "watch"
    REFUSE = "refuse"


class Lane(ThreadPoolExecutor):
    """A bounded pool that knows when it has enough: `full` once `capacity` calls run or wait."""

    def __init__(self, name: LaneName, threads: int, queue: int = 0) -> None:
        super().__init__(max_workers=threads, thread_name_prefix=f"rpc-{name}")
        self.lane_name = name
        self.capacity = threads + queue
        self._pending = 0
        self._pending_lock = threading.Lock()

    @property
    def full(self) -> bool:
        return self._pending >= self.capacity

    @property
    def pending(self) -> int:
        return self._pending

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """As ThreadPoolExecutor.submit, counted."""
        with self._pending_lock:
            self._pending += 1
        try:
            future = super().submit(fn, *args, **kwargs)
        except BaseException:
            self._ended()
            raise
        future.add_done_callback(self._ended)
        return future

    def _ended(self, _future: Future[Any] | None = None) -> None:
        with self._pending_lock:
            self._pending -= 1


def make_lanes(work_threads: int) -> Mapping[LaneName, Lane]:
    """The lanes of one listening address; threads start when they are first needed."""
    return {
        LaneName.WORK: Lane(LaneName.WORK, work_threads),
        LaneName.ADMIN: Lane(LaneName.ADMIN, limits.ADMIN_THREADS),
        LaneName.HEALTH: Lane(LaneName.HEALTH, limits.HEALTH_THREADS, limits.HEALTH_QUEUE),
        LaneName.WATCH: Lane(LaneName.WATCH, limits.WATCH_THREADS),
        LaneName.REFUSE: Lane(LaneName.REFUSE, limits.REFUSE_THREADS, limits.REFUSE_QUEUE),
    }
