"""The one token of this process: found by its attributes, logged in by one anchor session."""

from __future__ import annotations

import time
from typing import Any

from pkcs11.constants import TokenFlag
from pkcs11.exceptions import PKCS11Error
from pkcs11.types import Session, SignMixin, Slot
from pkcs11.types import Token as TokenInfo

from keyd.wire.worker_pb2 import Failure, Login, Open, Opened, PinState, TokenMatch
from keyd.worker import schemes
from keyd.worker.failures import WorkerFailure
from keyd.worker.module import Module
from keyd.worker.pin import pin_of
from keyd.worker.turns import Turns

# SoftHSM rewrites a token's file at each login anywhere and cannot be read meanwhile.
_READ_TRIES = 10
_READ_PAUSE_S = 0.03


class Token:
    """Shared by the session threads; what changes it runs while all others rest."""

    def __init__(self, request: Open) -> None:
        """Load the module. Raises: PKCS11Error, WorkerFailure."""
        self._match = request.token
        self._wanted_sessions = request.sessions
        self.module = Module(request.module, request.module_parameters)
        self._anchor: Session | None = None
        self._logged_in = False
        self.entered = False
        self.incarnation = 0
        # Private key handles and the public keys they were seen to belong to.
        self.proven: set[tuple[int | None, bytes]] = set()
        self.turns = Turns()

    def enter(self) -> None:
        """Find the token. Raises: PKCS11Error, WorkerFailure."""
        self._slot, self._info = self._find()
        self.mechanisms: set[Any] = set(self._slot.get_mechanisms())
        self._schemes = schemes.offered(self._slot)
        self._anchor = self.module.open_anchor(self._info)
        self.sessions = self._affordable()
        self.entered = True

    def reopen(self) -> None:
        """C_Finalize, C_Initialize, find the token. Raises: PKCS11Error, WorkerFailure."""
        self.entered = self._logged_in = False
        self._anchor = None
        self.incarnation += 1
        self.proven.clear()
        self.module.reinitialize()
        self.enter()

    def describe(self) -> Opened:
        """What the token says of itself."""
        info = self._info
        return Opened(
            serial=_text(info.serial),
            label=info.label,
            manufacturer=info.manufacturer_id,
            model=info.model,
            cryptoki_version=".".join(map(str, self.module.cryptoki_version)),
            firmware_version=".".join(map(str, info.firmware_version)),
            schemes=self._schemes,
            login_required=bool(info.flags & TokenFlag.LOGIN_REQUIRED),
            pin=_pin_state(info),
        )

    def probe(self) -> PinState:
        """Read the token's information afresh. Raises: PKCS11Error."""
        return _pin_state(_patiently(self._slot))

    def open_session(self, *, read_write: bool = False) -> Session:
        """A session without PIN: the anchor's login covers it. Raises: PKCS11Error."""
        return self._info.open(rw=read_write)

    def forget_proofs(self, public_der: bytes) -> None:
        """Believe no handle any more to be of this key pair: a token may give it out again."""
        self.proven = {proof for proof in self.proven if proof[1] != public_der}

    def login(self, request: Login) -> PinState:
        """Present the PIN exactly once, unless the token's flags or the file forbid it.

        Raises: WorkerFailure, whose `pin_presented` says whether a try may be spent.
        """
        if self._logged_in:
            # C_Login would not even look at the PIN.
            raise WorkerFailure(Failure.KIND_INVALID, "ALREADY_LOGGED_IN")
        try:
            before = self.probe()
        except PKCS11Error as error:
            raise WorkerFailure(Failure.KIND_TOKEN_FAILED, "TOKEN_UNREADABLE") from error
        if before.locked:
            raise WorkerFailure(Failure.KIND_PIN_LOCKED, "USER_PIN_LOCKED")
        if before.final_try or (before.count_low and not request.accept_count_low):
            code = "USER_PIN_FINAL_TRY" if before.final_try else "USER_PIN_COUNT_LOW"
            raise WorkerFailure(Failure.KIND_PIN_TRIES_LOW, code)
        with pin_of(request) as pin:
            self._anchor = self.module.login(self._info, self._anchor, pin)
        self._logged_in = True
        return before

    def _find(self) -> tuple[Slot, TokenInfo]:
        for left in reversed(range(_READ_TRIES)):
            found, unreadable = self._matching()
            if len(found) == 1:
                return found[0]
            if found:
                raise WorkerFailure(Failure.KIND_TOKEN_NOT_FOUND, "SEVERAL_TOKENS_MATCH")
            if not unreadable:
                break
            if left:
                time.sleep(_READ_PAUSE_S)
        raise WorkerFailure(Failure.KIND_TOKEN_NOT_FOUND, "NO_TOKEN_MATCHES")

    def _matching(self) -> tuple[list[tuple[Slot, TokenInfo]], bool]:
        found, unreadable = [], False
        for slot in self.module.slots():
            try:
                info = slot.get_token()
            except PKCS11Error:
                unreadable = True
                continue
            if _matches(self._match, info):
                found.append((slot, info))
        return found, unreadable

    def _affordable(self) -> int:
        if not self.module.threaded:
            return 1
        wanted = self._wanted_sessions
        if not wanted:
            wanted = 2 if any(map(schemes.is_rsa, self._schemes)) else 1
        limit = self.module.max_sessions(self._slot)
        # The anchor takes one and a key generation another.
        return wanted if limit is None else max(1, min(wanted, limit - 2))


class ThreadSeat:
    """One thread's session and the keys found through it."""

    def __init__(self, token: Token) -> None:
        self.token = token
        self._session: Session | None = None
        self._keys: dict[tuple[bytes, bytes], SignMixin] = {}
        self._incarnation = 0

    def key(self, identity: tuple[bytes, bytes]) -> SignMixin | None:
        """The private key found before under this CKA_ID and public key, if it still counts."""
        return self._keys.get(identity) if self._incarnation == self.token.incarnation else None

    def keep(self, identity: tuple[bytes, bytes], key: SignMixin) -> None:
        """Remember what `session` found; before a login no private key is ever found."""
        self._keys[identity] = key

    def session(self) -> Session:
        """The session, opened if need be. Raises: PKCS11Error."""
        if self._incarnation != self.token.incarnation:
            # Finalised under us: by now its handle may be another session's.
            self._session = None
            self._keys.clear()
        if self._session is None:
            self._session = self.token.open_session()
            self._incarnation = self.token.incarnation
        return self._session

    def drop(self) -> None:
        """Close the session, whatever state it is in, and forget its handles."""
        session, self._session = self._session, None
        self._keys.clear()
        if session is not None and self._incarnation == self.token.incarnation:
            try:
                session.close()
            except PKCS11Error:
                return


def _patiently(slot: Slot) -> TokenInfo:
    for _ in range(_READ_TRIES - 1):
        try:
            return slot.get_token()
        except PKCS11Error:
            time.sleep(_READ_PAUSE_S)
    return slot.get_token()


def _matches(match: TokenMatch, info: TokenInfo) -> bool:
    if not info.flags & TokenFlag.TOKEN_INITIALIZED:
        return False
    demands = (
        ("serial", match.serial, _text(info.serial)),
        ("label", match.label, info.label),
        ("manufacturer", match.manufacturer, info.manufacturer_id),
        ("model", match.model, info.model),
    )
    return all(
        wanted == told
        for name, wanted, told in demands
        if match.HasField(name)  # type: ignore[arg-type]
    )


def _pin_state(info: TokenInfo) -> PinState:
    flags = info.flags
    return PinState(
        count_low=bool(flags & TokenFlag.USER_PIN_COUNT_LOW),
        final_try=bool(flags & TokenFlag.USER_PIN_FINAL_TRY),
        locked=bool(flags & TokenFlag.USER_PIN_LOCKED),
        to_be_changed=bool(flags & TokenFlag.USER_PIN_TO_BE_CHANGED),
    )


def _text(padded: bytes) -> str:
    return padded.rstrip(b"\0 ").decode("utf-8", "replace")
