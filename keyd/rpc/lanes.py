"""Lanes: thread pools of their own for what must not wait behind tokens.

gRPC for Python runs a handler in the server's pool unless the handler carries the attribute
`experimental_thread_pool`; that attribute is how a call gets into its lane. A server has one
thread that submits, so asking `full` and submitting cannot race.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
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
    """A bounded pool that knows when it has enough.

    `full` is true once every thread is at work, or threads and queue hold `capacity` calls. The
    queue is for bursts of calls that are refused at once: without it they would take the threads
    for a moment, and with them the place of somebody else's call.
    """

    def __init__(self, name: LaneName, threads: int, queue: int) -> None:
        super().__init__(max_workers=threads, thread_name_prefix=f"rpc-{name}")
        self.lane_name = name
        self.capacity = threads + queue
        self._threads_max = threads
        self._pending = 0
        self._working = 0
        self._count_lock = threading.Lock()

    @property
    def full(self) -> bool:
        return self._working >= self._threads_max or self._pending >= self.capacity

    @property
    def pending(self) -> int:
        return self._pending

    @contextmanager
    def work(self) -> Iterator[None]:
        """Count the call in this thread as more than a quick refusal."""
        with self._count_lock:
            self._working += 1
        try:
            yield
        finally:
            with self._count_lock:
                self._working -= 1

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """As ThreadPoolExecutor.submit, counted."""
        with self._count_lock:
            self._pending += 1
        try:
            future = super().submit(fn, *args, **kwargs)
        except BaseException:
            self._ended()
            raise
        future.add_done_callback(self._ended)
        return future

    def _ended(self, _future: Future[Any] | None = None) -> None:
        with self._count_lock:
            self._pending -= 1


def make_lanes(work_threads: int) -> Mapping[LaneName, Lane]:
    """The lanes of one listening address; threads start when they are first needed."""
    sizes = {
        LaneName.WORK: (work_threads, limits.WORK_QUEUE),
        LaneName.ADMIN: (limits.ADMIN_THREADS, limits.ADMIN_QUEUE),
        LaneName.HEALTH: (limits.HEALTH_THREADS, limits.HEALTH_QUEUE),
        LaneName.WATCH: (limits.WATCH_THREADS, limits.WATCH_QUEUE),
        LaneName.REFUSE: (limits.REFUSE_THREADS, limits.REFUSE_QUEUE),
    }
    return {name: Lane(name, threads, queue) for name, (threads, queue) in sizes.items()}
