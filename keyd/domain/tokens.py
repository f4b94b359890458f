"""Tokens as the daemon sees them: identity, state, found keys and events."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from keyd.domain.keys import Scheme


class TokenState(StrEnum):
    """Whether a token can sign, and if not, whose move it is."""

    ONLINE = "ONLINE"
    RECOVERING = "RECOVERING"
    OFFLINE = "OFFLINE"
    PIN_REQUIRED = "PIN_REQUIRED"
    PIN_LOCKED = "PIN_LOCKED"
    QUARANTINED = "QUARANTINED"


@dataclass(frozen=True)
class TokenStatus:
    """The last known state of a token; `detail` is one line for an operator, without secrets."""

    name: str
    state: TokenState
    detail: str
    since: datetime
    serial: str = ""
    label: str = ""
    manufacturer: str = ""
    model: str = ""
    firmware: str = ""
    schemes: tuple[Scheme, ...] = ()
    strays: int = 0
    missing_keys: tuple[str, ...] = ()


class TokenEventKind(StrEnum):
    """What a watcher of tokens is told."""

    STATE_CHANGED = "STATE_CHANGED"
    PIN_WANTED = "PIN_WANTED"
    TOUCH_WANTED = "TOUCH_WANTED"


@dataclass(frozen=True)
class TokenEvent:
    kind: TokenEventKind
    status: TokenStatus
    at: datetime


@dataclass(frozen=True)
class FoundKey:
    """Key objects sharing one CKA_ID on a token, as read from it.

    `healthy` tells a usable pair (one private key, readable public key, demanded attributes);
    `problem` says otherwise what is wrong, in words. `waived` names demanded attributes that are
    not so and that the token's configuration does not insist on.
    """

    cka_id: bytes
    label: str
    public_der: bytes
    scheme: Scheme | None
    rsa_bits: int
    healthy: bool
    problem: str = ""
    waived: tuple[str, ...] = ()


@dataclass(frozen=True)
class SignItem:
    """One message for one key. The token finds the key by CKA_ID *and* public key."""

    cka_id: bytes
    public_der: bytes
    scheme: Scheme
    data: bytes
