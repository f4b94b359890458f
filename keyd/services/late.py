"""Signatures that a token makes after its caller's time was up.

Hardware cannot be cancelled. What it signs all the same is verified and recorded, and the next
request for the same bytes gets it instead of asking the token again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import structlog

from keyd.domain.keys import Key
from keyd.domain.tokens import SignItem
from keyd.errors import KeydError
from keyd.services.token_call import sign_item, verified
from keyd.services.world import World

_log = structlog.get_logger(__name__)

# They come on threads that read from workers and must not wait for the ledger.
_recorder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="keyd-late")


class Recorded(Protocol):
    """What a recorded signature tells: the leaf of its completion."""

    @property
    def log_index(self) -> int: ...


@dataclass(frozen=True)
class Awaited:
    """A signature of `key` over `data`; `record` writes down what became of it, late as it is."""

    key: Key
    data: bytes
    record: Callable[[bytes | KeydError], Recorded | KeydError]


class LateSignatures:
    """Of one exchange with the tokens.

    Its own end, which says that these signatures did not come, is recorded first: until `take_up`
    they wait.
    """

    def __init__(self, world: World, awaited: Sequence[Awaited]) -> None:
        self._world = world
        self._awaited = awaited
        self._lock = threading.Lock()
        self._waiting: list[tuple[SignItem, bytes]] | None = []

    def arrived(self, item: SignItem, signature: bytes) -> None:
        """Record it soon; returns at once."""
        with self._lock:
            if self._waiting is not None:
                self._waiting.append((item, signature))
                return
        _recorder.submit(self._record, item, signature)

    def take_up(self) -> None:
        """The exchange has been recorded."""
        with self._lock:
            waiting, self._waiting = self._waiting or [], None
        for each in waiting:
            _recorder.submit(self._record, *each)

    def _record(self, item: SignItem, signature: bytes) -> None:
        awaited = next(each for each in self._awaited if sign_item(each.key, each.data) == item)
        key = awaited.key
        try:
            outcome = awaited.record(verified(self._world, key, item.data, signature))
        # The edge of this thread: nobody waits who could be told.
        except Exception:  # noqa: BLE001
            _log.exception("late_signature_lost", key=key.name)
            return
        if isinstance(outcome, KeydError):
            _log.warning("late_signature_refused", key=key.name, reason=outcome.reason)
        else:
            _log.info("late_signature_recorded", key=key.name, log_index=outcome.log_index)
