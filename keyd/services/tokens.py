"""The hardware as operators see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from keyd.domain.audit import Entry, Event
from keyd.domain.names import check_comment
from keyd.domain.policy import Action, Caller
from keyd.domain.tokens import FoundKey, TokenEvent, TokenStatus
from keyd.errors import InvalidRequest
from keyd.ports import View
from keyd.services.authorize import demand
from keyd.services.world import World


def list_tokens(world: World, caller: Caller) -> tuple[TokenStatus, ...]:
    """The last known status of every token, by name; waits for none."""
    demand(world, caller, Action("TokenService.ListTokens"))
    return tuple(
        backend.status() for backend in sorted(world.tokens.all(), key=lambda found: found.name)
    )


def unlock(
    world: World, caller: Caller, token: str, pin: bytearray | None, timeout_s: float
) -> TokenStatus:
    """Present a PIN once; None presents the configured credential again. Raises: PinRejected."""
    demand(world, caller, Action("TokenService.UnlockToken", token=token))
    backend = world.tokens.get(token)
    # On record before the token is asked: an attempt without a trace must not be possible.
    source = "typed" if pin is not None else "configured"
    _record(world, caller, Event.TOKEN_UNLOCKED, token, source)
    return backend.unlock(pin, timeout_s)


def quarantine(world: World, caller: Caller, token: str, comment: str) -> TokenStatus:
    """Stop using a token until it is released."""
    demand(world, caller, Action("TokenService.QuarantineToken", token=token))
    check_comment(comment)
    if not comment:
        raise InvalidRequest("COMMENT_REQUIRED", "say why, for those who find the token stopped")
    backend = world.tokens.get(token)
    backend.quarantine(comment)
    _record(world, caller, Event.TOKEN_QUARANTINED, token, comment)
    return backend.status()


def release(world: World, caller: Caller, token: str, comment: str) -> TokenStatus:
    """Lift a quarantine; the token is opened and checked anew."""
    demand(world, caller, Action("TokenService.ReleaseToken", token=token))
    check_comment(comment)
    backend = world.tokens.get(token)
    _record(world, caller, Event.TOKEN_RELEASED, token, comment)
    backend.release()
    return backend.status()


def token_keys(
    world: World, caller: Caller, token: str, timeout_s: float
) -> tuple[tuple[FoundKey, str], ...]:
    """Every key object on a token with the name it is registered under, or ""."""
    demand(world, caller, Action("TokenService.ListTokenKeys", token=token))
    found = world.tokens.get(token).inventory(timeout_s)
    names = world.ledger.read(lambda view: _names(view, token))
    return tuple((key, names.get((key.cka_id, key.public_der), "")) for key in found)


def watch(world: World, caller: Caller, stop: Callable[[], bool]) -> Iterator[TokenEvent]:
    """Token events from now on until `stop()`; first the present status of every token."""
    demand(world, caller, Action("TokenService.WatchTokens"))
    return world.tokens.watch(stop)


def _names(view: View, token: str) -> dict[tuple[bytes, bytes], str]:
    registered = view.keys()
    return {(k.cka_id, k.public_der): k.name for k in registered if k.token == token}


def _record(world: World, caller: Caller, event: Event, token: str, comment: str) -> None:
    fields = {"token": token, "comment": comment}
    entry = Entry(event, world.clock.now(), caller.principal, fields=fields)
    world.ledger.transact(lambda tx: tx.append(entry))
