"""Public keys in their two forms, DER and TUF key object, and the signatures under them.

Key *material* is identified by its fingerprint, the SHA-256 of the DER SubjectPublicKeyInfo
(RFC 5280 4.1.2.7) as `cryptography` writes it: the same for every spelling of one key.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)
from securesystemslib.signer import SSlibKey

from keyd.domain import canonical
from keyd.domain.schemes import Suite, check_fit, suite_of
from keyd.errors import InvalidRequest, SelfCheckFailed

# Payloads repeat few keys, so that a small store of decoded ones serves all. Text beyond the
# length limit is never kept; the longest key in use, ML-DSA-87, takes 3,700 characters.
_CACHE_SIZE = 1024
_MAX_PUBLIC_CHARS = 8192

# Exactly one block and nothing around it: clients disagree about what a second one means.
_PEM = re.compile(
    r"-----BEGIN PUBLIC KEY-----\n[A-Za-z0-9+/=\n]+\n-----END PUBLIC KEY-----\n*", re.ASCII
)
_HEX_32_BYTES = re.compile("[0-9a-fA-F]{64}", re.ASCII)
_HEX = re.compile("(?:[0-9a-fA-F]{2})+", re.ASCII)


@dataclass(frozen=True)
class LoadedKey:
    """A decoded public key that fits its scheme.

    `spki` is its DER SubjectPublicKeyInfo, `fingerprint` the SHA-256 of that in lower-case hex.
    """

    public_key: PublicKeyTypes
    spki: bytes
    fingerprint: str
    keytype: str
    scheme: str


def load(key_object: Mapping[str, Any]) -> LoadedKey:
    """Decode a TUF key object (TUF 4.2) as found in a payload that parsed.

    Raises:
        InvalidRequest: KEY_SCHEME_UNKNOWN (also a keytype that does not go with the scheme),
            KEY_UNDECODABLE, KEY_CURVE_MISMATCH or KEY_TOO_WEAK (rule R6). For elliptic points in
            bare hex, which current clients cannot read, `details["fingerprint"]` still tells the
            material.
    """
    return _load(key_object["keytype"], key_object["scheme"], key_object["keyval"]["public"])


def fingerprint_of(key_object: Mapping[str, Any]) -> str:
    """Return the fingerprint of a TUF key object, 64 lower-case hex digits. Raises: as `load`."""
    return load(key_object).fingerprint


def check_matches_scheme(public_der: bytes, scheme: str) -> None:
    """Refuse a DER SubjectPublicKeyInfo that the scheme cannot use.

    Raises: InvalidRequest, as `load`; KEY_UNDECODABLE also for an unusual spelling of the key,
        whose SHA-256 would not be its fingerprint.
    """
    _load_der(public_der, scheme)


def tuf_key(public_der: bytes, scheme: str) -> tuple[str, dict[str, Any]]:
    """Return key id and TUF key object, the same that securesystemslib makes of the key.

    Raises: InvalidRequest, as `check_matches_scheme`.
    """
    key = SSlibKey.from_crypto(_load_der(public_der, scheme), scheme=str(scheme))
    return key.keyid, key.to_dict()


def keyid_three_members(key_object: Mapping[str, Any]) -> str:
    """SHA-256 (hex) over the canonical form of keytype, scheme and keyval: securesystemslib's."""
    members = {name: key_object[name] for name in ("keytype", "scheme", "keyval")}
    return hashlib.sha256(canonical.encode(members)).hexdigest()


def keyid_whole_object(key_object: Mapping[str, Any]) -> str:
    """SHA-256 (hex) over the canonical form of the key object with all its members (TUF 4.3)."""
    return hashlib.sha256(canonical.encode(dict(key_object))).hexdigest()


def verify(public_der: bytes, scheme: str, data: bytes, signature: bytes) -> None:
    """Check one signature in the form that TUF stores (docs/reference/schemes.md).

    ECDSA signatures are strict DER; PSS has MGF1 with the same hash and a salt as long as the
    digest.

    Raises:
        SelfCheckFailed: SIGNATURE_INVALID. It is meant for what a token of ours returned; callers
            who check other people's signatures translate it.
        InvalidRequest: the key does not fit the scheme, as `check_matches_scheme`.
    """
    key = _load_der(public_der, scheme)
    if not _is_valid(key, scheme, data, signature):
        message = f"no valid {scheme} signature of this key over these bytes"
        raise SelfCheckFailed("SIGNATURE_INVALID", message)


def verify_metadata_signatures(
    raw_payload: bytes,
    signatures: Iterable[tuple[str, str]],
    key_objects: Mapping[str, Mapping[str, Any]],
) -> frozenset[str]:
    """Return the fingerprints of the listed keys that validly signed `raw_payload`.

    `signatures` are (key id, signature in hex) as in a metadata file; `key_objects` maps key ids
    to TUF key objects. Unknown key ids, keys that do not decode, empty signatures (the
    placeholders of signers to come) and wrong signatures count for nothing. A key listed under
    several ids counts once.
    """
    return frozenset(
        fingerprint
        for keyid, signature in signatures
        if (key_object := key_objects.get(keyid)) is not None
        and (fingerprint := _signed_by(key_object, raw_payload, signature))
    )


def _signed_by(key_object: Mapping[str, Any], data: bytes, signature: str) -> str | None:
    if not _HEX.fullmatch(signature):
        return None
    try:
        key = load(key_object)
    except InvalidRequest:
        return None
    valid = _is_valid(key.public_key, key.scheme, data, bytes.fromhex(signature))
    return key.fingerprint if valid else None


def _is_valid(key: PublicKeyTypes, scheme: str, data: bytes, signature: bytes) -> bool:
    try:
        suite_of(scheme).check(key, signature, data)
    except InvalidSignature:
        return False
    return True


@lru_cache(_CACHE_SIZE)
def _load_der(public_der: bytes, scheme: str) -> PublicKeyTypes:
    suite = suite_of(scheme)
    try:
        key = load_der_public_key(public_der)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _undecodable("send a DER SubjectPublicKeyInfo (RFC 5280)") from error
    check_fit(key, suite)
    if _spki(key) != public_der:
        raise _undecodable("write the SubjectPublicKeyInfo in DER, elliptic points uncompressed")
    return key


@lru_cache(_CACHE_SIZE)
def _load(keytype: str, scheme: str, public: str) -> LoadedKey:
    suite = suite_of(scheme)
    if keytype not in suite.keytypes:
        message = f"scheme {scheme} goes with keytype {suite.keytypes[0]}"
        raise InvalidRequest("KEY_SCHEME_UNKNOWN", message)
    key = _decode(public, suite)
    check_fit(key, suite)
    spki = _spki(key)
    return LoadedKey(key, spki, hashlib.sha256(spki).hexdigest(), keytype, scheme)


def _decode(public: str, suite: Suite) -> PublicKeyTypes:
    if len(public) > _MAX_PUBLIC_CHARS:
        raise _undecodable(f"no public key takes more than {_MAX_PUBLIC_CHARS} characters")
    if suite.kind is Ed25519PublicKey:
        if not _HEX_32_BYTES.fullmatch(public):
            raise _undecodable("write Ed25519 keys as 64 hex digits")
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
    if suite.curve is not None and _HEX.fullmatch(public):
        raise _bare_point(bytes.fromhex(public), suite.curve)
    if not _PEM.fullmatch(public):
        raise _undecodable("write one PEM block, BEGIN PUBLIC KEY to END PUBLIC KEY")
    try:
        return load_pem_public_key(public.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _undecodable("the PEM block holds no public key that can be read") from error


def _bare_point(point: bytes, curve: ec.EllipticCurve) -> InvalidRequest:
    """Refuse an elliptic point in hex, the form of TUF implementations before 2022."""
    refused = _undecodable("write elliptic keys in PEM: current clients cannot read bare points")
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(curve, point)
    except ValueError:
        return refused
    refused.details["fingerprint"] = hashlib.sha256(_spki(key)).hexdigest()
    return refused


def _spki(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _undecodable(message: str) -> InvalidRequest:
    return InvalidRequest("KEY_UNDECODABLE", message)
