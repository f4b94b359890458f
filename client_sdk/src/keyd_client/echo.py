"""Checks of what comes back: the daemon signed what was sent, with the key that was meant."""

from __future__ import annotations

import hashlib
import hmac
import json
from functools import lru_cache
from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.signer import Key, Signature, SSlibKey

from keyd_client.errors import AnswerMismatch, InvalidRequest
from keyd_client.messages import Key as KeyMessage


class Released(Protocol):
    """What SignMetadata and SignOpaque answers have in common."""

    @property
    def signature(self) -> bytes: ...
    @property
    def signature_sha256(self) -> bytes: ...
    @property
    def key_sha256(self) -> bytes: ...
    @property
    def scheme(self) -> str: ...


def sha256(data: bytes) -> bytes:
    """SHA-256 of `data`, 32 raw bytes."""
    return hashlib.sha256(data).digest()


def fingerprint(key: Key) -> bytes:
    """SHA-256 of the DER SubjectPublicKeyInfo (RFC 5280 4.1.2.7), 32 raw bytes.

    Raises: InvalidRequest if the key object holds no public key that can be read.
    """
    try:
        return _fingerprint(key.keytype, str(key.keyval.get("public", "")))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidRequest(
            "KEY_UNDECODABLE", f"key {key.keyid} has no readable public key: import it again"
        ) from error


@lru_cache(maxsize=256)
def _fingerprint(keytype: str, public: str) -> bytes:
    if keytype == "ed25519":
        loaded = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        return sha256(loaded.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    pem = load_pem_public_key(public.encode())
    return sha256(pem.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def public_key(found: KeyMessage) -> Key:
    """The securesystemslib key that a key message describes.

    Raises: AnswerMismatch if the message describes two.
    """
    # Canonical JSON keeps the line feeds of PEM raw; a strict parser refuses them.
    key = Key.from_dict(found.tuf_keyid, json.loads(found.tuf_key_json, strict=False))
    if fingerprint(key) != found.key_sha256:
        raise AnswerMismatch(
            "KEY_MISMATCH", f"the daemon describes two keys as {found.name}: tell its operator"
        )
    return key


def check_digest(sent: bytes, echoed: bytes, what: str) -> None:
    """Refuse an answer about other bytes than were sent. Raises: AnswerMismatch."""
    if not hmac.compare_digest(sent, echoed):
        raise AnswerMismatch(
            "ECHO_MISMATCH", f"the daemon answered about another {what}: report this, sign nothing"
        )


def check_release(answer: Released, key_sha256: bytes) -> None:
    """Refuse a damaged signature, or one by another key than `key_sha256` (empty: any).

    Raises: AnswerMismatch.
    """
    check_digest(sha256(answer.signature), answer.signature_sha256, "signature")
    if key_sha256:
        check_digest(key_sha256, answer.key_sha256, "key")


def verified(key: Key, answer: Released, signed: bytes) -> Signature:
    """The securesystemslib signature, verified with the public key. Raises: AnswerMismatch."""
    signature = Signature(key.keyid, answer.signature.hex())
    if answer.scheme != key.scheme:
        raise AnswerMismatch(
            "SCHEME_MISMATCH",
            f"key {key.keyid} is for {key.scheme}, the signature {answer.scheme}: import it again",
        )
    try:
        _reads_once(key).verify_signature(signature, signed)
    except (UnverifiedSignatureError, VerificationError) as error:
        raise AnswerMismatch(
            "SIGNATURE_INVALID",
            f"the signature does not verify with key {key.keyid}: import it again",
        ) from error
    return signature


class _ReadOnce(SSlibKey):
    """A key whose PEM is read once, which securesystemslib does at every verification.

    If that calls the method otherwise one day, nothing is lost but the time.
    """

    _read: PublicKeyTypes | None = None

    def _crypto_key(self) -> PublicKeyTypes:
        if self._read is None:
            self._read = super()._crypto_key()
        return self._read


def _reads_once(key: Key) -> Key:
    """The same key, for verifying; a kind that we do not know stays as it is."""
    if type(key) is not SSlibKey:
        return key
    return _read_once(key.keyid, key.keytype, key.scheme, str(key.keyval.get("public", "")))


@lru_cache(maxsize=256)
def _read_once(keyid: str, keytype: str, scheme: str, public: str) -> Key:
    return _ReadOnce(keyid, keytype, scheme, {"public": public})
