"""What reaches a token's own thread, and which failed request is worth telling it."""

from __future__ import annotations

from collections.abc import Container
from concurrent.futures import Future
from dataclasses import dataclass

from keyd.backends.channel import Channel
from keyd.backends.reconcile import Identity
from keyd.domain.tokens import TokenStatus
from keyd.wire.worker_pb2 import Failure, Request


@dataclass(frozen=True)
class Trouble:
    """A request failed in a way that may mean the token."""

    code: str


@dataclass(frozen=True)
class Lost:
    """A worker's socket closed."""

    channel: Channel
    reason: str


@dataclass(frozen=True)
class Recheck:
    """The keys on the token may have changed."""


@dataclass(frozen=True)
class Unlock:
    """An operator wants a login."""

    pin: bytearray | None
    done: Future[TokenStatus]

    def wipe_pin(self) -> None:
        """Overwrite the PIN: nobody needs it any more."""
        if self.pin is not None:
            self.pin[:] = bytes(len(self.pin))


@dataclass(frozen=True)
class Release:
    """Quarantines were lifted, so many as there had been by then."""

    quarantines: int


@dataclass(frozen=True)
class Stop:
    """The daemon ends."""


News = Trouble | Lost | Recheck | Unlock | Release | Stop


def news_of(
    request: Request, failure: Failure, seen: Container[Identity]
) -> Trouble | Recheck | None:
    """What a caller's failed request says about the token.

    `seen` are keys that the token has had: that one of them is gone may mean that the token is.
    """
    kind = request.WhichOneof("kind")
    if kind == "generate":
        # A full token fails in the same way as a broken one: look, but go on serving.
        return Recheck()
    if failure.kind in (Failure.KIND_TOKEN_FAILED, Failure.KIND_NOT_LOGGED_IN):
        return Trouble(failure.code)
    if kind == "sign" and failure.kind == Failure.KIND_KEY_NOT_FOUND:
        key = request.sign.key
        lost = (key.cka_id, key.public_der) in seen
        return Trouble(failure.code) if lost else Recheck()
    if failure.kind in (Failure.KIND_KEY_AMBIGUOUS, Failure.KIND_PAIR_BROKEN):
        return Recheck()
    return None
