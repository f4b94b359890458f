"""A certificate authority for one developer, with a server and a client certificate from it.

P-256 throughout. Certificates are made anew when they have less than a third of their life left,
so that a directory which is started now and then never expires; the authority stays.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CLIENT_URI = "spiffe://keyd.dev/developer"
_AUTHORITY_LIFE = timedelta(days=3650)
_LEAF_LIFE = timedelta(days=365)
_RENEW_BELOW = _LEAF_LIFE / 3
_BACKDATED = timedelta(hours=1)  # for hosts whose clocks differ a little


def make_certificates(folder: Path, now: datetime | None = None) -> list[str]:
    """Make or renew ca, server and client (.pem and .key) in `folder`; returns what was made."""
    now = now or datetime.now(UTC)
    folder.mkdir(mode=0o700, exist_ok=True)
    made = []
    if not _usable(folder / "ca", now, _LEAF_LIFE):
        _write(folder / "ca", *_authority(now))
        made.append("ca")
    authority = _read(folder / "ca")
    leaves: tuple[tuple[str, Sequence[x509.GeneralName], x509.ObjectIdentifier], ...] = (
        ("server", _SERVER_NAMES, ExtendedKeyUsageOID.SERVER_AUTH),
        ("client", [x509.UniformResourceIdentifier(CLIENT_URI)], ExtendedKeyUsageOID.CLIENT_AUTH),
    )
    for name, names, usage in leaves:
        if "ca" in made or not _usable(folder / name, now, _RENEW_BELOW):
            _write(folder / name, *_leaf(authority, name, names, usage, now))
            made.append(name)
    return made


_SERVER_NAMES = [
    x509.DNSName("localhost"),
    x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    x509.IPAddress(ipaddress.ip_address("::1")),
]
Pair = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def _usable(base: Path, now: datetime, needed: timedelta) -> bool:
    """Whether the pair is there, whole, and valid for longer than `needed`."""
    try:
        certificate, key = _read(base)
    except (OSError, ValueError):
        return False
    own = certificate.public_key() == key.public_key()
    return own and certificate.not_valid_after_utc - now > needed


def _read(base: Path) -> Pair:
    certificate = x509.load_pem_x509_certificate(base.with_suffix(".pem").read_bytes())
    key = serialization.load_pem_private_key(base.with_suffix(".key").read_bytes(), None)
    match key:
        case ec.EllipticCurvePrivateKey():
            return certificate, key
    raise ValueError(f"{base}.key is no key of ours")


def _write(base: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    """Replace both files; a crash in between leaves a pair that `_usable` refuses."""
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    for suffix, content in ((".key", private), (".pem", public)):
        temporary = base.with_suffix(f"{suffix}.new")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        temporary.replace(base.with_suffix(suffix))


def _authority(now: datetime) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("keyd development CA")
    builder = _builder(name, name, key, now, _AUTHORITY_LIFE)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    return builder.sign(key, hashes.SHA256()), key


def _leaf(
    authority: Pair,
    name: str,
    names: Sequence[x509.GeneralName],
    usage: x509.ObjectIdentifier,
    now: datetime,
) -> Pair:
    issuer, issuer_key = authority
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_name(f"keyd development {name}"), issuer.subject, key, now, _LEAF_LIFE)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
    builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False
    )
    return builder.sign(issuer_key, hashes.SHA256()), key


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    life: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
