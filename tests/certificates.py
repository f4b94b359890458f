"""Certificates for tests: an authority and what it issues, good or bad on purpose."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER = ExtendedKeyUsageOID.SERVER_AUTH
Validity = tuple[timedelta, timedelta]
_NOW_FOR_A_DAY: Validity = timedelta(minutes=-5), timedelta(days=1)


# What `cryptography` will not read: an extension of an authority's certificate (OID, content), and
# bytes of the DER to replace by others. The signature no longer fits; nobody checks it.
UNREADABLE = {
    "an extension twice": ("2.5.29.99", "3000", "0603551d63", "0603551d13"),
    "version 4": ("2.5.29.99", "3000", "a003020102", "a003020103"),
    "an ediPartyName": ("2.5.29.17", "3008a506a1040c026161", "", ""),
}


@dataclass(frozen=True)
class Issued:
    """A certificate and its key in PEM."""

    certificate: bytes
    key: bytes

    @property
    def parsed(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate)

    @property
    def serial(self) -> str:
        return f"{self.parsed.serial_number:x}"

    @property
    def key_sha256(self) -> str:
        digest = hashes.Hash(hashes.SHA256())
        form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        digest.update(self.parsed.public_key().public_bytes(*form))
        return digest.finalize().hex()

    def write(self, directory: Path, name: str) -> tuple[Path, Path]:
        """Store as NAME.pem and NAME.key (mode 0600); returns both paths."""
        certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
        certificate.write_bytes(self.certificate)
        key.touch(mode=0o600)
        key.write_bytes(self.key)
        return certificate, key


class Authority:
    """A certificate authority of its own."""

    def __init__(self, name: str = "test CA") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(self._name, self._name, self._key.public_key(), _NOW_FOR_A_DAY)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        signed = builder.sign(self._key, hashes.SHA256())
        self.certificate = signed.public_bytes(Encoding.PEM)

    def unreadable(self, why: str) -> bytes:
        """A certificate of this authority that is like none: `why` is one of UNREADABLE."""
        oid, content, old, new = UNREADABLE[why]
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), bytes.fromhex(content))
        builder = _builder(self._name, self._name, self._key.public_key(), _NOW_FOR_A_DAY)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        builder = builder.add_extension(extension, False)
        der = builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.DER)
        body = base64.encodebytes(der.replace(bytes.fromhex(old), bytes.fromhex(new), 1))
        return b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n"

    def server(self, host: str = "localhost") -> Issued:
        """For a server on this host."""
        names: list[x509.GeneralName] = [
            x509.DNSName(host),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        ]
        return self.issue(names, purpose=SERVER)

    def client(
        self,
        *,
        uris: Sequence[str] = (),
        hosts: Sequence[str] = (),
        validity: Validity = _NOW_FOR_A_DAY,
        purpose: x509.ObjectIdentifier = CLIENT,
    ) -> Issued:
        """For a client with these SANs."""
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
        names += [x509.DNSName(host) for host in hosts]
        return self.issue(names, validity=validity, purpose=purpose)

    def issue(
        self,
        names: Sequence[x509.GeneralName],
        *,
        validity: Validity = _NOW_FOR_A_DAY,
        purpose: x509.ObjectIdentifier = CLIENT,
        common_name: str = "nobody looks at this",
    ) -> Issued:
        """Any leaf certificate; without names it has no SAN extension."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        builder = _builder(subject, self._name, key.public_key(), validity)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
        signed = builder.sign(self._key, hashes.SHA256())
        return Issued(
            signed.public_bytes(Encoding.PEM),
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, validity: Validity
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + validity[0])
        .not_valid_after(now + validity[1])
    )
