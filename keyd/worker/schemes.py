"""TUF signature schemes as PKCS#11 mechanisms, always named and never a module's default."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import MGF, Mechanism
from pkcs11.types import SignMixin, Slot

from keyd.wire.worker_pb2 import Failure
from keyd.worker.failures import WorkerFailure
from keyd.worker.public_keys import ECDSA_SCHEMES, MIN_RSA_BITS, PublicKey


@dataclass(frozen=True)
class _Pss:
    """RSASSA-PSS with MGF1 over the same hash and a salt as long as the digest."""

    hash_name: str
    verifier: hashes.HashAlgorithm
    hashing: Mechanism
    digest: Mechanism
    mgf: MGF

    @property
    def parameters(self) -> tuple[Mechanism, MGF, int]:
        return (self.digest, self.mgf, self.verifier.digest_size)


_PSS = {
    "rsassa-pss-sha256": _Pss(
        "sha256", hashes.SHA256(), Mechanism.SHA256_RSA_PKCS_PSS, Mechanism.SHA256, MGF.SHA256
    ),
    "rsassa-pss-sha384": _Pss(
        "sha384", hashes.SHA384(), Mechanism.SHA384_RSA_PKCS_PSS, Mechanism.SHA384, MGF.SHA384
    ),
    "rsassa-pss-sha512": _Pss(
        "sha512", hashes.SHA512(), Mechanism.SHA512_RSA_PKCS_PSS, Mechanism.SHA512, MGF.SHA512
    ),
}
# Scheme: hash, verifier, bytes of one coordinate, bits of the curve.
_ECDSA: dict[str, tuple[str, hashes.HashAlgorithm, int, int]] = {
    "ecdsa-sha2-nistp256": ("sha256", hashes.SHA256(), 32, 256),
    "ecdsa-sha2-nistp384": ("sha384", hashes.SHA384(), 48, 384),
    "ecdsa-sha2-nistp521": ("sha512", hashes.SHA512(), 66, 521),
}


def is_rsa(scheme: str) -> bool:
    """Whether `scheme` is RSASSA-PSS with one of the three hashes."""
    return scheme in _PSS


def fits(scheme: str, key: PublicKey) -> bool:
    """Whether `key` can make signatures of `scheme` (curve, key type, RSA of 2048 bits or more)."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return scheme != "" and ECDSA_SCHEMES.get(key.curve.name) == scheme
    if isinstance(key, rsa.RSAPublicKey):
        return scheme in _PSS and key.key_size >= MIN_RSA_BITS
    return scheme == "ed25519"


def offered(slot: Slot) -> list[str]:
    """The schemes that this slot's mechanisms can make. Raises: PKCS11Error."""
    mechanisms = slot.get_mechanisms()
    schemes = []
    if Mechanism.ECDSA in mechanisms:
        most = _most_bits(slot, Mechanism.ECDSA)
        schemes += [name for name, (_, _, _, bits) in _ECDSA.items() if bits <= most]
    if Mechanism.EDDSA in mechanisms:
        schemes.append("ed25519")
    schemes += [
        name
        for name, pss in _PSS.items()
        if pss.hashing in mechanisms or Mechanism.RSA_PKCS_PSS in mechanisms
    ]
    return schemes


def sign(key: SignMixin, scheme: str, data: bytes, mechanisms: Collection[Any]) -> bytes:
    """The signature in its TUF form. Raises: PKCS11Error, WorkerFailure."""
    if ecdsa := _ECDSA.get(scheme):
        raw = key.sign(hashlib.new(ecdsa[0], data).digest(), mechanism=Mechanism.ECDSA)
        return _der(raw, ecdsa[2])
    if scheme == "ed25519":
        return _sized(key.sign(data, mechanism=Mechanism.EDDSA), 64)
    pss = _PSS[scheme]
    if pss.hashing in mechanisms:
        return key.sign(data, mechanism=pss.hashing, mechanism_param=pss.parameters)
    digest = hashlib.new(pss.hash_name, data).digest()
    return key.sign(digest, mechanism=Mechanism.RSA_PKCS_PSS, mechanism_param=pss.parameters)


def verifies(key: PublicKey, scheme: str, signature: bytes, data: bytes) -> bool:
    """Check a signature in its TUF form in software."""
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(_ECDSA[scheme][1]))
        elif isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, data)
        else:
            pss = _PSS[scheme]
            salted = padding.PSS(padding.MGF1(pss.verifier), pss.verifier.digest_size)
            key.verify(signature, data, salted, pss.verifier)
    except InvalidSignature:
        return False
    return True


def _most_bits(slot: Slot, mechanism: Mechanism) -> int:
    """The largest key of a mechanism; modules that do not tell are believed capable."""
    try:
        most = slot.get_mechanism_info(mechanism).max_key_length
    except PKCS11Error:
        return 521
    return most or 521


def _der(raw: bytes, size: int) -> bytes:
    """Tokens return r and s side by side; TUF wants the DER SEQUENCE (RFC 3279, 2.2.3)."""
    _sized(raw, 2 * size)
    return encode_dss_signature(int.from_bytes(raw[:size]), int.from_bytes(raw[size:]))


def _sized(signature: bytes, size: int) -> bytes:
    if len(signature) != size:
        raise WorkerFailure(Failure.KIND_TOKEN_FAILED, "SIGNATURE_LENGTH")
    return signature
