"""Reading an identity out of a client certificate: exactly one name, taken byte for byte."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keyd.domain.policy import principal_name
from keyd.errors import Unauthenticated

# What `cryptography` raises for a certificate or key that it cannot read; not all are ValueErrors.
UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
# SPIFFE ID specification, section 2: lower-case trust domain, path segments without escapes, at
# most 2048 bytes.
_SPIFFE = re.compile(r"spiffe://[a-z0-9._-]{1,255}(?:/[A-Za-z0-9._-]+)*")
_DOTS = re.compile(r"/\.{1,2}(?:/|$)")
# RFC 1123 host names in lower case; no wildcard can match.
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DNS = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")


@dataclass(frozen=True)
class Peer:
    """What a verified client certificate says. `key_sha256` is over its SubjectPublicKeyInfo."""

    principal: str
    serial: int
    key_sha256: str
    not_before: datetime
    not_after: datetime

    def check_validity(self, now: datetime) -> None:
        """Raises: Unauthenticated (CERTIFICATE_EXPIRED, CERTIFICATE_NOT_YET_VALID)."""
        if now > self.not_after:
            raise Unauthenticated(
                "CERTIFICATE_EXPIRED", "the client certificate has expired; renew it and reconnect"
            )
        if now < self.not_before:
            raise Unauthenticated(
                "CERTIFICATE_NOT_YET_VALID",
                "the client certificate is not valid yet; compare the clocks of both hosts",
            )


def peer_of(pem_certificates: Sequence[bytes]) -> Peer:
    """The peer of a TLS connection, from gRPC's `x509_pem_cert`.

    Raises: Unauthenticated (CERTIFICATE_MISSING, CERTIFICATE_UNREADABLE, CERTIFICATE_IDENTITY).
    """
    if len(pem_certificates) != 1:
        raise Unauthenticated(
            "CERTIFICATE_MISSING", "connect with a client certificate that names you"
        )
    return _read(pem_certificates[0])


@lru_cache(maxsize=1024)
def _read(pem: bytes) -> Peer:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        uris, hosts = _names(certificate)
    except UNREADABLE as error:
        raise Unauthenticated(
            "CERTIFICATE_UNREADABLE",
            "the client certificate has a key or an extension that keyd cannot read; get another",
        ) from error
    return Peer(
        principal=_principal(uris, hosts),
        serial=certificate.serial_number,
        key_sha256=hashlib.sha256(key).hexdigest(),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )


def _names(certificate: x509.Certificate) -> tuple[list[str], list[str]]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return [], []
    return (
        names.get_values_for_type(x509.UniformResourceIdentifier),
        names.get_values_for_type(x509.DNSName),
    )


def _principal(uris: list[str], hosts: list[str]) -> str:
    # A SPIFFE certificate may carry DNS names besides, for servers; its identity is the URI alone.
    if len(uris) == 1 and _SPIFFE.fullmatch(uris[0]) and not _DOTS.search(uris[0]):
        return principal_name("uri", uris[0])
    if not uris and len(hosts) == 1 and len(hosts[0]) <= 253 and _DNS.fullmatch(hosts[0]):
        return principal_name("dns", hosts[0])
    raise Unauthenticated(
        "CERTIFICATE_IDENTITY",
        "the client certificate must carry exactly one URI SAN that is a SPIFFE id, or else "
        "exactly one DNS SAN in lower case without a wildcard; the common name does not count",
    )
