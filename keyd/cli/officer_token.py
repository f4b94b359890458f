"""An officer's key on a PKCS#11 token, driven by the same worker program as the daemon's tokens."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from keyd.backends.config import TokenConfig
from keyd.backends.token import WorkerToken
from keyd.backends.tokens import TokenFleet
from keyd.cli.pins import read_pin, typed_pin
from keyd.domain.keys import Key
from keyd.domain.officers import OfficerKey, OfficerKeyKind
from keyd.domain.records import PinAttempt, TokenIdentity
from keyd.domain.token_uri import parse_token_uri
from keyd.domain.tokens import FoundKey, SignItem, TokenState
from keyd.errors import BackendUnavailable, DeadlineExceeded, InvalidRequest, PinRejected

_NAME = "officer"
_START_S = 20.0
# A touch on the device, or a slow smart card.
_SIGN_S = 60.0
# What libraries need to find their tokens; no other variables reach the worker.
_PASSED_ON = ("SOFTHSM2_CONF", "HOME")


class _Now:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


class _Forgetful:
    """A journal for one approval: the PIN is presented once, by the person who typed it."""

    def __init__(self) -> None:
        self._attempt: PinAttempt | None = None

    def identity(self, token: str) -> TokenIdentity | None:  # noqa: ARG002
        return None

    def pin_identity(self, identity: TokenIdentity) -> None: ...

    def pin_attempt(self, token: str) -> PinAttempt | None:  # noqa: ARG002
        return self._attempt

    def record_pin_attempt(self, attempt: PinAttempt | None, token: str) -> None:  # noqa: ARG002
        self._attempt = attempt

    def quarantined(self, token: str) -> str | None:  # noqa: ARG002
        return None

    def record_quarantine(self, token: str, reason: str | None) -> None: ...

    def keys(self, token: str) -> tuple[Key, ...]:  # noqa: ARG002
        return ()


@dataclass(frozen=True)
class TokenSigner:
    """One key on an unlocked token. Implements `keyd.cli.officer_keys.OfficerSigner`."""

    token: WorkerToken
    key: FoundKey

    @property
    def public(self) -> OfficerKey:
        assert self.key.scheme is not None  # noqa: S101 - chosen so
        return OfficerKey(self.key.scheme, self.key.public_der, OfficerKeyKind.PKCS11)

    def sign(self, pae: bytes) -> bytes:
        item = SignItem(self.key.cka_id, self.key.public_der, self.public.scheme, pae)
        [outcome] = self.token.sign([item], _SIGN_S)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@contextmanager
def opened_token(
    address: str, module: Path, key_id: bytes, pin_fd: int | None
) -> Iterator[TokenSigner]:
    """Start a worker, unlock the token by the PIN typed on the terminal, and find the key.

    Raises: KeydError, click.UsageError.
    """
    _refuse_pin_source(address)
    # The worker's comings and goings are no news here, and stdout is for data.
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    config = TokenConfig(
        _NAME,
        module.resolve(),
        address,
        sessions=1,
        environment=passed_on,
        waive_local=True,
        sign_timeout_s=_SIGN_S,
    )
    fleet = TokenFleet([config], _Forgetful(), _Now())
    fleet.start()
    try:
        fleet.wait_settled(_START_S)
        token = fleet.get(_NAME)
        _unlock(token, pin_fd, address)
        yield TokenSigner(token, _chosen(token.inventory(_SIGN_S), key_id))
    finally:
        fleet.stop()


def _refuse_pin_source(address: str) -> None:
    # Nothing here remembers a rejected PIN: each run would present the same file's once more.
    if parse_token_uri(address).pin_source:
        raise InvalidRequest(
            "OFFICER_PIN_SOURCE",
            "an officer's PIN is typed each time, never taken from a file that is named for good: "
            "leave pin-source out of --key, and type the PIN or hand it over by --pin-fd",
        )


def _unlock(token: WorkerToken, pin_fd: int | None, address: str) -> None:
    status = token.status()
    if status.state is not TokenState.PIN_REQUIRED:
        raise BackendUnavailable(
            "OFFICER_TOKEN_UNUSABLE", f"the token is {status.state.value}: {status.detail}"
        )
    # What the token calls itself is read once it is unlocked, not before.
    pin = _pin(pin_fd, address)
    try:
        token.unlock(pin, _SIGN_S)
    except DeadlineExceeded as error:
        if error.details.get("outcome") == "NOT_STARTED":
            raise
        # Not "try again", neither in words nor as exit code: that would present the PIN once more.
        raise PinRejected(
            "PIN_OUTCOME_UNKNOWN",
            "the token did not answer in time, and the PIN may have been tried: look with its "
            "vendor's tool how many tries are left before you enter it again",
        ) from error
    finally:
        pin[:] = bytes(len(pin))


def _pin(pin_fd: int | None, address: str) -> bytearray:
    found = typed_pin(f"the token {address!a}") if pin_fd is None else read_pin(pin_fd)
    return bytearray(found)


def _chosen(found: tuple[FoundKey, ...], key_id: bytes) -> FoundKey:
    """The one key that is meant. Raises: InvalidRequest."""
    usable = [key for key in found if key.scheme is not None and key.healthy]
    meant = [key for key in usable if not key_id or key.cka_id == key_id]
    if len(meant) == 1:
        return meant[0]
    there = ", ".join(key.cka_id.hex() for key in usable) or "none"
    problems = "; ".join(sorted({key.problem for key in found if key.problem}))
    raise InvalidRequest(
        "OFFICER_KEY_UNUSABLE",
        f"name one key of the token by --key-id; usable: {there}{problems and f' ({problems})'}",
    )
