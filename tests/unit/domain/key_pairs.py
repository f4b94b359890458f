"""One key pair per scheme, made by software: what a token would make, for tests of the domain."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

SCHEMES = (
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ed25519",
    "rsassa-pss-sha256",
    "rsassa-pss-sha384",
    "rsassa-pss-sha512",
    "rsa-pkcs1v15-sha256",
    "rsa-pkcs1v15-sha384",
    "rsa-pkcs1v15-sha512",
    "ml-dsa-44/1",
    "ml-dsa-65/1",
    "ml-dsa-87/1",
)
_HASHES: dict[str, hashes.HashAlgorithm] = {
    "256": hashes.SHA256(),
    "384": hashes.SHA384(),
    "512": hashes.SHA512(),
    "521": hashes.SHA512(),
}


@cache
def private_key(scheme: str) -> Any:
    """The private key, made on first use; all RSA schemes share one."""
    match scheme:
        case "ecdsa-sha2-nistp256":
            return ec.generate_private_key(ec.SECP256R1())
        case "ecdsa-sha2-nistp384":
            return ec.generate_private_key(ec.SECP384R1())
        case "ecdsa-sha2-nistp521":
            return ec.generate_private_key(ec.SECP521R1())
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case "ml-dsa-44/1":
            return mldsa.MLDSA44PrivateKey.generate()
        case "ml-dsa-65/1":
            return mldsa.MLDSA65PrivateKey.generate()
        case "ml-dsa-87/1":
            return mldsa.MLDSA87PrivateKey.generate()
    return rsa.generate_private_key(65537, 2048) if scheme == "rsa" else private_key("rsa")


def der(public_key: Any) -> bytes:
    """The DER SubjectPublicKeyInfo."""
    encoded: bytes = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


def public_der(scheme: str) -> bytes:
    """The DER SubjectPublicKeyInfo of `private_key(scheme)`."""
    return der(private_key(scheme).public_key())


def sign(scheme: str, data: bytes) -> bytes:
    """A signature in the form that TUF stores."""
    key = private_key(scheme)
    if scheme.startswith("ecdsa"):
        signature = key.sign(data, ec.ECDSA(_HASHES[scheme[-3:]]))
    elif scheme.startswith("rsassa-pss"):
        signature = pss(scheme, data, padding.PSS.DIGEST_LENGTH)
    elif scheme.startswith("rsa"):
        signature = key.sign(data, padding.PKCS1v15(), _HASHES[scheme[-3:]])
    elif scheme.startswith("ml-dsa"):
        signature = key.sign(b"tuf\x01" + hashlib.sha512(data).digest())
    else:
        signature = key.sign(data)
    return bytes(signature)


def pss(scheme: str, data: bytes, salt_length: Any) -> bytes:
    """An RSASSA-PSS signature with a salt length of one's choice."""
    hash_ = _HASHES[scheme[-3:]]
    pad = padding.PSS(padding.MGF1(hash_), salt_length)
    return bytes(private_key(scheme).sign(data, pad, hash_))
