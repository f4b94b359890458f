"""Fetching the next item while the last one is still being used."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _End:
    """No more items; `error` is what ended them."""

    error: BaseException | None = None


class Ahead(Generic[T]):
    """Runs an iterator on a thread of its own, at most `depth` items ahead."""

    def __init__(self, items: Iterator[T], depth: int) -> None:
        self._items = items
        self._fetched: queue.Queue[T | _End] = queue.Queue()
        self._room = threading.Semaphore(depth)
        self._stopped = False
        context = contextvars.copy_context()
        threading.Thread(
            target=context.run, args=(self._fetch,), name="rpc-ahead", daemon=True
        ).start()

    def __iter__(self) -> Iterator[T]:
        while not isinstance(item := self._fetched.get(), _End):
            self._room.release()
            yield item
        if item.error is not None:
            raise item.error

    def stop(self) -> None:
        """Fetch no more than what is being fetched."""
        self._stopped = True
        self._room.release()

    def _fetch(self) -> None:
        try:
            while self._room.acquire() and not self._stopped:
                self._fetched.put(next(self._items))
            self._fetched.put(_End())
        except StopIteration:
            self._fetched.put(_End())
        except BaseException as error:  # noqa: BLE001 - raised where the items are used
            self._fetched.put(_End(error))


@contextmanager
def fetched_ahead(items: Iterator[T], depth: int = 1) -> Iterator[Iterator[T]]:
    """The same items in the same order; at the end of the block no other one is fetched.

    `items` must end by itself soon after the block does, as the requests of a call do.
    """
    ahead = Ahead(items, depth)
    try:
        yield iter(ahead)
    finally:
        ahead.stop()
