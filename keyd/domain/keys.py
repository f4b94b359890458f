"""Key pairs as keyd knows them: schemes, life states and public keys, never private ones."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cached_property

from keyd.errors import PolicyViolation


class Scheme(StrEnum):
    """TUF signature schemes that tokens can make (TUF 4.2; facts in docs/reference/schemes.md)."""

    ECDSA_P256 = "ecdsa-sha2-nistp256"
    ECDSA_P384 = "ecdsa-sha2-nistp384"
    ECDSA_P521 = "ecdsa-sha2-nistp521"
    ED25519 = "ed25519"
    RSA_PSS_SHA256 = "rsassa-pss-sha256"
    RSA_PSS_SHA384 = "rsassa-pss-sha384"
    RSA_PSS_SHA512 = "rsassa-pss-sha512"

    @property
    def is_rsa(self) -> bool:
        return self.value.startswith("rsassa-pss")


@dataclass(frozen=True)
class KeySpec:
    """What to generate: a scheme and, for RSA, a modulus of 2048, 3072 or 4096 bits (else 0)."""

    scheme: Scheme
    rsa_bits: int = 0


class KeyState(StrEnum):
    """Life of a key pair after NIST SP 800-57 part 1, section 7."""

    PRE_ACTIVE = "PRE_ACTIVE"
    ACTIVE = "ACTIVE"
    SUSPENDED = "SUSPENDED"
    DEACTIVATED = "DEACTIVATED"
    COMPROMISED = "COMPROMISED"
    DESTROYED = "DESTROYED"


class Content(StrEnum):
    """What a key may sign: TUF metadata, any bytes that are no TUF metadata, or checkpoints."""

    TUF = "tuf"
    OPAQUE = "opaque"
    LOG = "log"


class Origin(StrEnum):
    """Where the key pair was made."""

    GENERATED = "generated"
    ADOPTED = "adopted"


_ALLOWED = {
    KeyState.PRE_ACTIVE: {KeyState.ACTIVE, KeyState.DEACTIVATED, KeyState.COMPROMISED},
    KeyState.ACTIVE: {KeyState.SUSPENDED, KeyState.DEACTIVATED, KeyState.COMPROMISED},
    KeyState.SUSPENDED: {KeyState.ACTIVE, KeyState.DEACTIVATED, KeyState.COMPROMISED},
    # Back to ACTIVE only by a quorum of officers (keyd.services.quorum).
    KeyState.DEACTIVATED: {KeyState.ACTIVE, KeyState.COMPROMISED, KeyState.DESTROYED},
    KeyState.COMPROMISED: {KeyState.DESTROYED},
    KeyState.DESTROYED: set[KeyState](),
}


@dataclass(frozen=True)
class Key:
    """One key pair on one token.

    `cka_id` is the PKCS#11 CKA_ID; `public_der` the DER SubjectPublicKeyInfo (RFC 5280 4.1.2.7).
    """

    name: str
    token: str
    cka_id: bytes
    scheme: Scheme
    public_der: bytes
    content: Content
    state: KeyState
    origin: Origin
    created_at: datetime
    rsa_bits: int = 0

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the SubjectPublicKeyInfo, 64 lower-case hex digits: the key *material*."""
        return hashlib.sha256(self.public_der).hexdigest()


def check_transition(old: KeyState, new: KeyState) -> None:
    """Refuse a state change that SP 800-57 does not know. Raises: PolicyViolation."""
    if new not in _ALLOWED[old]:
        allowed = ", ".join(sorted(s.value for s in _ALLOWED[old])) or "none"
        raise PolicyViolation(
            "KEY_STATE_TRANSITION",
            f"a key in state {old.value} cannot become {new.value}; possible: {allowed}",
        )
