"""Public keys as PKCS#11 attributes describe them, turned into SubjectPublicKeyInfo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)
from pkcs11.constants import Attribute
from pkcs11.mechanisms import KeyType

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey

# CKA_EC_PARAMS: a DER object identifier, or a printable curve name (PKCS#11 3.0, 2.3.5).
_CURVES: dict[bytes, ec.EllipticCurve] = {
    bytes.fromhex("06082a8648ce3d030107"): ec.SECP256R1(),
    bytes.fromhex("06052b81040022"): ec.SECP384R1(),
    bytes.fromhex("06052b81040023"): ec.SECP521R1(),
}
_ED25519 = (b"\x06\x03\x2b\x65\x70", b"\x13\x0cedwards25519")

MIN_RSA_BITS = 2048  # TUF 4.2.2
ECDSA_SCHEMES: dict[str, str] = {
    "secp256r1": "ecdsa-sha2-nistp256",
    "secp384r1": "ecdsa-sha2-nistp384",
    "secp521r1": "ecdsa-sha2-nistp521",
}


def ec_parameters(scheme: str) -> bytes:
    """CKA_EC_PARAMS to generate a key for `scheme`. Raises: KeyError if it has no curve."""
    if scheme == "ed25519":
        # SoftHSM and most modules take the printable name of PKCS#11 3.0; the object identifier is
        # the older habit and understood by fewer.
        return _ED25519[1]
    names = {ECDSA_SCHEMES[curve.name]: der for der, curve in _CURVES.items()}
    return names[scheme]


def public_key(attributes: Mapping[Attribute, Any]) -> PublicKey | None:
    """The key that these attributes of a public or private key object name, None if they do not."""
    try:
        match attributes.get(Attribute.KEY_TYPE):
            case KeyType.RSA:
                return _rsa(attributes)
            case KeyType.EC:
                curve = _CURVES[attributes[Attribute.EC_PARAMS]]
                point = _point(attributes[Attribute.EC_POINT])
                return ec.EllipticCurvePublicKey.from_encoded_point(curve, point)
            case KeyType.EC_EDWARDS if attributes[Attribute.EC_PARAMS] in _ED25519:
                point = _point(attributes[Attribute.EC_POINT])
                return ed25519.Ed25519PublicKey.from_public_bytes(point)
    except (KeyError, ValueError, UnsupportedAlgorithm):
        return None
    return None


def certified_key(certificate: bytes) -> PublicKey | None:
    """The subject's key of a DER certificate (CKA_VALUE), None if it is unreadable or unknown."""
    try:
        # Few tokens need it, and it costs more than a megabyte.
        from cryptography import x509  # noqa: PLC0415

        return _known(x509.load_der_x509_certificate(certificate).public_key())
    except (ValueError, UnsupportedAlgorithm):
        return None


def to_der(key: PublicKey) -> bytes:
    """The DER SubjectPublicKeyInfo (RFC 5280, 4.1.2.7)."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def from_der(der: bytes) -> PublicKey | None:
    """The key of a DER SubjectPublicKeyInfo, None if it is malformed or of another kind."""
    try:
        return _known(load_der_public_key(der))
    except (ValueError, UnsupportedAlgorithm):
        return None


def default_scheme(key: PublicKey) -> str:
    """The TUF scheme this key can make; PSS with SHA-256 for RSA, "" for a key TUF cannot use."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return ECDSA_SCHEMES.get(key.curve.name, "")
    if isinstance(key, rsa.RSAPublicKey):
        return "rsassa-pss-sha256" if key.key_size >= MIN_RSA_BITS else ""
    return "ed25519"


def rsa_bits(key: PublicKey) -> int:
    """The size of an RSA modulus, 0 for other keys."""
    return key.key_size if isinstance(key, rsa.RSAPublicKey) else 0


def _known(key: object) -> PublicKey | None:
    kinds = (ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey, rsa.RSAPublicKey)
    return key if isinstance(key, kinds) else None


def _rsa(attributes: Mapping[Attribute, Any]) -> rsa.RSAPublicKey:
    exponent = int.from_bytes(attributes[Attribute.PUBLIC_EXPONENT])
    return rsa.RSAPublicNumbers(
        exponent, int.from_bytes(attributes[Attribute.MODULUS])
    ).public_key()


def _point(value: bytes) -> bytes:
    """CKA_EC_POINT is an OCTET STRING around the point; some modules leave the wrapping out."""
    if len(value) > 2 and value[0] == 0x04:
        if value[1] == len(value) - 2:
            return value[2:]
        if value[1] == 0x81 and value[2] == len(value) - 3:
            return value[3:]
    return value
