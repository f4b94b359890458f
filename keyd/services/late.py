"""Signatures that a token makes after its caller's time was up.

Hardware cannot be cancelled. What it signs all the same is verified and recorded, and the next
request for the same bytes gets it instead of asking the token again.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog

from keyd.domain.tokens import SignItem
from keyd.errors import KeydError
from keyd.services.answers import Answer
from keyd.services.complete import record_signatures
from keyd.services.reserve import Reserved
from keyd.services.token_call import sign_item, verified
from keyd.services.world import World

_log = structlog.get_logger(__name__)

# They come on threads that read from workers and must not wait for the ledger.
_recorder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="keyd-late")


class LateSignatures:
    """Of one exchange with the tokens.

    Its own end, which says that these signatures did not come, is recorded first: until `take_up`
    they wait.
    """

    def __init__(self, world: World, reserved: Sequence[Reserved]) -> None:
        self._world = world
        self._reserved = reserved
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
        reserved = next(each for each in self._reserved if _item(each) == item)
        key = reserved.prepared.key
        try:
            answer = verified(self._world, key, item.data, signature)
            [outcome] = record_signatures(self._world, [Answer(reserved, answer)])
        # The edge of this thread: nobody waits who could be told.
        except Exception:  # noqa: BLE001
            _log.exception("late_signature_lost", key=key.name)
            return
        if isinstance(outcome, KeydError):
            _log.warning("late_signature_refused", key=key.name, reason=outcome.reason)
        else:
            _log.info("late_signature_recorded", key=key.name, log_index=outcome.log_index)


def _item(reserved: Reserved) -> SignItem:
    return sign_item(reserved.prepared.key, reserved.prepared.payload.raw)
