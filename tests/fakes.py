"""Stand-ins for the ports, for tests of what lies above them: real signatures, no hardware."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from keyd.domain.keys import Content, Key, KeySpec, KeyState, Origin, Scheme
from keyd.domain.records import PinAttempt, TokenIdentity
from keyd.domain.tokens import (
    FoundKey,
    SignItem,
    TokenEvent,
    TokenEventKind,
    TokenState,
    TokenStatus,
)
from keyd.errors import BackendUnavailable, KeydError, NotFound
from keyd.ports import KeyBackend, Late

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

_CURVES = {
    Scheme.ECDSA_P256: (ec.SECP256R1(), hashes.SHA256()),
    Scheme.ECDSA_P384: (ec.SECP384R1(), hashes.SHA384()),
    Scheme.ECDSA_P521: (ec.SECP521R1(), hashes.SHA512()),
}
_RSA_HASHES = {
    Scheme.RSA_PSS_SHA256: hashes.SHA256(),
    Scheme.RSA_PSS_SHA384: hashes.SHA384(),
    Scheme.RSA_PSS_SHA512: hashes.SHA512(),
}


class TestClock:
    """A clock that a test sets; monotonic time follows it."""

    __test__ = False

    def __init__(self, now: datetime = datetime(2030, 6, 1, tzinfo=UTC)) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._now.timestamp()

    def advance(self, **delta: float) -> None:
        self._now += timedelta(**delta)


class SoftwareToken:
    """A `KeyBackend` whose keys live in this process.

    `failures` are raised instead of signing, one per call of `sign`; `spoil` flips a bit in every
    signature. `signed` counts the messages it was asked to sign.
    """

    def __init__(self, name: str, clock: TestClock) -> None:
        self._name = name
        self._clock = clock
        self._keys: dict[bytes, tuple[PrivateKey, FoundKey]] = {}
        self._lock = threading.Lock()
        self.failures: list[KeydError] = []
        self.before_sign: Callable[[], None] = lambda: None
        self.spoil = False
        self.signed = 0
        self.quarantined: str | None = None
        self.state = TokenState.ONLINE

    @property
    def name(self) -> str:
        return self._name

    def status(self) -> TokenStatus:
        state = TokenState.QUARANTINED if self.quarantined else self.state
        return TokenStatus(
            name=self._name,
            state=state,
            detail=self.quarantined or "software keys for tests",
            since=self._clock.now(),
            serial="0000",
            label=self._name,
            schemes=tuple(Scheme),
        )

    def sign(
        self, items: Sequence[SignItem], timeout_s: float, late: Late | None = None
    ) -> list[bytes | Exception]:
        with self._lock:
            if self.failures:
                raise self.failures.pop(0)
            self.signed += len(items)
        self.before_sign()
        self._check_usable()
        return [self._sign(item) for item in items]

    def generate(self, spec: KeySpec, cka_id: bytes, label: str, timeout_s: float) -> FoundKey:
        self._check_usable()
        private = new_private_key(spec)
        found = FoundKey(
            cka_id=cka_id,
            label=label,
            public_der=public_der(private),
            scheme=spec.scheme,
            rsa_bits=spec.rsa_bits,
            healthy=True,
        )
        self._keys[cka_id] = private, found
        return found

    def find(self, cka_id: bytes, timeout_s: float) -> FoundKey:
        if cka_id not in self._keys:
            raise NotFound("TOKEN_KEY_UNKNOWN", "the token holds no key with this CKA_ID")
        return self._keys[cka_id][1]

    def inventory(self, timeout_s: float) -> tuple[FoundKey, ...]:
        self._check_usable()
        return tuple(found for _, found in self._keys.values())

    def destroy(self, key: Key, timeout_s: float) -> int:
        self._check_usable()
        if key.cka_id in self._keys and self._keys[key.cka_id][1].public_der != key.public_der:
            raise NotFound("KEY_NOT_ON_TOKEN", "the token holds no such key pair")
        return 2 if self._keys.pop(key.cka_id, None) else 0

    def plant(self, cka_id: bytes) -> None:
        """Put another pair in the place of one."""
        self.generate(KeySpec(Scheme.ED25519), cka_id, "planted", 1.0)

    def unlock(self, pin: bytearray | None, timeout_s: float) -> TokenStatus:
        self.state = TokenState.ONLINE
        return self.status()

    def quarantine(self, reason: str) -> None:
        self.quarantined = reason

    def release(self) -> None:
        self.quarantined = None

    def _check_usable(self) -> None:
        if self.status().state is not TokenState.ONLINE:
            raise BackendUnavailable("TOKEN_UNAVAILABLE", f"token {self._name!r} is not online")

    def _sign(self, item: SignItem) -> bytes | Exception:
        private, found = self._keys.get(item.cka_id, (None, None))
        if private is None or found is None or found.public_der != item.public_der:
            return NotFound("TOKEN_KEY_UNKNOWN", "the token holds no such key pair")
        signature = sign_with(private, item.scheme, item.data)
        return signature[:-1] + bytes([signature[-1] ^ 1]) if self.spoil else signature


class FakeTokens:
    """The `Tokens` port over any backends; `watch` tells the present state and then waits."""

    def __init__(self, *backends: KeyBackend) -> None:
        self._backends = {backend.name: backend for backend in backends}

    def get(self, name: str) -> KeyBackend:
        if name not in self._backends:
            raise NotFound("TOKEN_UNKNOWN", f"there is no token {name!r}")
        return self._backends[name]

    def all(self) -> tuple[KeyBackend, ...]:
        return tuple(self._backends.values())

    def watch(self, stop: Callable[[], bool]) -> Iterator[TokenEvent]:
        for backend in self._backends.values():
            status = backend.status()
            yield TokenEvent(TokenEventKind.STATE_CHANGED, status, status.since)
        pause = threading.Event()
        while not stop():
            pause.wait(0.05)


def new_private_key(spec: KeySpec) -> PrivateKey:
    """A fresh software key of the kind a token would generate."""
    if spec.scheme is Scheme.ED25519:
        return ed25519.Ed25519PrivateKey.generate()
    if spec.scheme.is_rsa:
        return rsa.generate_private_key(65537, spec.rsa_bits)
    return ec.generate_private_key(_CURVES[spec.scheme][0])


def public_der(private: PrivateKey) -> bytes:
    """Its SubjectPublicKeyInfo."""
    return private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def sign_with(private: PrivateKey, scheme: Scheme, data: bytes) -> bytes:
    """A signature in TUF form."""
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return private.sign(data)
    if isinstance(private, rsa.RSAPrivateKey):
        digest = _RSA_HASHES[scheme]
        return private.sign(data, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
    return private.sign(data, ec.ECDSA(_CURVES[scheme][1]))


class MemoryTokenJournal:
    """The `TokenJournal` port in memory; `attempts` keeps every record of a PIN attempt, in order.

    Handed to one fleet after another it survives restarts as the ledger does.
    """

    def __init__(self) -> None:
        self.identities: dict[str, TokenIdentity] = {}
        self.registered: list[Key] = []
        self.attempts: list[PinAttempt | None] = []
        self._attempt: dict[str, PinAttempt | None] = {}
        self._quarantines: dict[str, str | None] = {}

    def identity(self, token: str) -> TokenIdentity | None:
        return self.identities.get(token)

    def pin_identity(self, identity: TokenIdentity) -> None:
        self.identities[identity.token] = identity

    def pin_attempt(self, token: str) -> PinAttempt | None:
        return self._attempt.get(token)

    def record_pin_attempt(self, attempt: PinAttempt | None, token: str) -> None:
        self.attempts.append(attempt)
        self._attempt[token] = attempt

    def quarantined(self, token: str) -> str | None:
        return self._quarantines.get(token)

    def record_quarantine(self, token: str, reason: str | None) -> None:
        self._quarantines[token] = reason

    def keys(self, token: str) -> tuple[Key, ...]:
        return tuple(key for key in self.registered if key.token == token)

    def register(self, token: str, name: str, found: FoundKey) -> Key:
        """Record a pair found on a token, as the service that creates keys does."""
        assert found.scheme is not None
        key = Key(
            name=name,
            token=token,
            cka_id=found.cka_id,
            scheme=found.scheme,
            public_der=found.public_der,
            content=Content.TUF,
            state=KeyState.ACTIVE,
            origin=Origin.GENERATED,
            created_at=datetime(2030, 6, 1, tzinfo=UTC),
            rsa_bits=found.rsa_bits,
        )
        self.registered.append(key)
        return key
