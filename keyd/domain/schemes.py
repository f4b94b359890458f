"""Signature schemes of TUF: which keys they take, and how one signature is checked.

The table is docs/reference/schemes.md in code. Tokens sign with the schemes of `keyd.domain.keys`;
the others here are only verified, for roots whose keys are partly held elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa

from keyd.errors import InvalidRequest

MIN_RSA_BITS = 2048
# Beyond this, checking one signature costs milliseconds, and payloads are not trusted to ask that.
MAX_RSA_BITS = 8192

_P = 2**255 - 19
# y of the points whose order divides the cofactor (RFC 7748 6.1, RFC 8032 5.1.7): under such a key
# anybody can make signatures.
_ORDER_8_Y = int.from_bytes(
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
)
_SMALL_ORDER_Y = frozenset({0, 1, _P - 1, _ORDER_8_Y, _P - _ORDER_8_Y})


@dataclass(frozen=True)
class Suite:
    """One scheme: TUF keytypes it goes with, the class of its keys, and the check.

    `check(key, signature, data)` raises `cryptography.exceptions.InvalidSignature`. `curve` is set
    for elliptic keys with a choice of curves.
    """

    keytypes: tuple[str, ...]
    kind: type[Any]
    check: Callable[[Any, bytes, bytes], None]
    curve: ec.EllipticCurve | None = None


def suite_of(scheme: str) -> Suite:
    """Return the suite of a TUF scheme name. Raises: InvalidRequest KEY_SCHEME_UNKNOWN."""
    suite = _SUITES.get(scheme)
    if suite is None:
        known = ", ".join(_SUITES)
        raise InvalidRequest("KEY_SCHEME_UNKNOWN", f"use one of the schemes {known}")
    return suite


def check_fit(key: Any, suite: Suite) -> None:
    """Refuse a key that the scheme cannot use, or that is too weak for any.

    Raises:
        InvalidRequest: KEY_CURVE_MISMATCH for another kind of key or another curve, KEY_TOO_WEAK
            for RSA below 2048 bits (TUF 4.2.2) and Ed25519 points of small order, KEY_UNDECODABLE
            for RSA above 8192 bits and Ed25519 encodings of no point (RFC 8032 5.1.3).
    """
    if not isinstance(key, suite.kind):
        raise InvalidRequest("KEY_CURVE_MISMATCH", "the key is of another kind than its scheme")
    if suite.curve is not None and key.curve.name != suite.curve.name:
        message = f"the scheme needs a key on {suite.curve.name}, this is on {key.curve.name}"
        raise InvalidRequest("KEY_CURVE_MISMATCH", message)
    if isinstance(key, rsa.RSAPublicKey):
        _check_rsa(key)
    if isinstance(key, ed25519.Ed25519PublicKey):
        _check_ed25519(key)


def _check_rsa(key: rsa.RSAPublicKey) -> None:
    if key.key_size < MIN_RSA_BITS:
        message = f"RSA keys need {MIN_RSA_BITS} bits, this one has {key.key_size}"
        raise InvalidRequest("KEY_TOO_WEAK", message)
    if key.key_size > MAX_RSA_BITS:
        message = f"RSA keys above {MAX_RSA_BITS} bits are not supported"
        raise InvalidRequest("KEY_UNDECODABLE", message)


def _check_ed25519(key: ed25519.Ed25519PublicKey) -> None:
    # The highest bit is the sign of x.
    y = int.from_bytes(key.public_bytes_raw(), "little") & (2**255 - 1)
    if y >= _P:
        raise InvalidRequest("KEY_UNDECODABLE", "the bytes encode no Ed25519 point")
    if y in _SMALL_ORDER_Y:
        raise InvalidRequest("KEY_TOO_WEAK", "an Ed25519 point of small order protects nothing")


def _ecdsa(curve: ec.EllipticCurve, hash_: hashes.HashAlgorithm, scheme: str) -> Suite:
    algorithm = ec.ECDSA(hash_)

    def check(key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes) -> None:
        key.verify(signature, data, algorithm)

    # Older roots name the scheme as keytype.
    return Suite(("ecdsa", scheme), ec.EllipticCurvePublicKey, check, curve)


def _rsa(hash_: hashes.HashAlgorithm, pad: padding.AsymmetricPadding) -> Suite:
    def check(key: rsa.RSAPublicKey, signature: bytes, data: bytes) -> None:
        key.verify(signature, data, pad, hash_)

    return Suite(("rsa",), rsa.RSAPublicKey, check)


def _pss(hash_: hashes.HashAlgorithm) -> Suite:
    # Other clients than python-tuf insist on this salt length, hence so do we.
    return _rsa(hash_, padding.PSS(padding.MGF1(hash_), padding.PSS.DIGEST_LENGTH))


def _check_ed25519_signature(key: ed25519.Ed25519PublicKey, signature: bytes, data: bytes) -> None:
    key.verify(signature, data)


def _ml_dsa(kind: type[Any]) -> Suite:
    def check(key: Any, signature: bytes, data: bytes) -> None:
        key.verify(signature, b"tuf\x01" + hashlib.sha512(data).digest())  # TAP 21

    return Suite(("ml-dsa",), kind, check)


_SUITES = {
    "ecdsa-sha2-nistp256": _ecdsa(ec.SECP256R1(), hashes.SHA256(), "ecdsa-sha2-nistp256"),
    "ecdsa-sha2-nistp384": _ecdsa(ec.SECP384R1(), hashes.SHA384(), "ecdsa-sha2-nistp384"),
    "ecdsa-sha2-nistp521": _ecdsa(ec.SECP521R1(), hashes.SHA512(), "ecdsa-sha2-nistp521"),
    "ed25519": Suite(("ed25519",), ed25519.Ed25519PublicKey, _check_ed25519_signature),
    "rsassa-pss-sha256": _pss(hashes.SHA256()),
    "rsassa-pss-sha384": _pss(hashes.SHA384()),
    "rsassa-pss-sha512": _pss(hashes.SHA512()),
    "rsa-pkcs1v15-sha256": _rsa(hashes.SHA256(), padding.PKCS1v15()),
    "rsa-pkcs1v15-sha384": _rsa(hashes.SHA384(), padding.PKCS1v15()),
    "rsa-pkcs1v15-sha512": _rsa(hashes.SHA512(), padding.PKCS1v15()),
    "ml-dsa-44/1": _ml_dsa(mldsa.MLDSA44PublicKey),
    "ml-dsa-65/1": _ml_dsa(mldsa.MLDSA65PublicKey),
    "ml-dsa-87/1": _ml_dsa(mldsa.MLDSA87PublicKey),
}
