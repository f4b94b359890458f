"""The development authority: what it makes, when it renews, and what survives a torn start."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from keyd.cli.development.certificates import CLIENT_URI, make_certificates

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


@pytest.fixture
def tls(tmp_path: Path) -> Path:
    folder = tmp_path / "tls"
    assert make_certificates(folder, NOW) == ["ca", "server", "client"]
    return folder


def test_chain_names_and_usage(tls: Path) -> None:
    ca, server, client = (load(tls / f"{name}.pem") for name in ("ca", "server", "client"))
    ca.verify_directly_issued_by(ca)
    server.verify_directly_issued_by(ca)
    client.verify_directly_issued_by(ca)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    names = client.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [CLIENT_URI]
    for certificate, usage in (
        (server, ExtendedKeyUsageOID.SERVER_AUTH),
        (client, ExtendedKeyUsageOID.CLIENT_AUTH),
    ):
        found = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(found) == [usage]
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        assert not basic.ca


def test_private_files_are_private(tls: Path) -> None:
    for path in tls.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.parametrize(
    ("days", "made"),
    [
        (0, []),
        (243, []),
        (244, ["server", "client"]),
        (3284, ["server", "client"]),
        (3286, ["ca", "server", "client"]),
    ],
)
def test_renewal(tls: Path, days: int, made: list[str]) -> None:
    later = NOW + timedelta(days=days)
    assert make_certificates(tls, later) == made
    assert make_certificates(tls, later) == []
    for name in ("ca", "server", "client"):
        assert load(tls / f"{name}.pem").not_valid_after_utc > later + timedelta(days=120)


def test_a_pair_that_does_not_fit_together_is_made_anew(tls: Path) -> None:
    (tls / "client.key").write_bytes((tls / "server.key").read_bytes())
    assert make_certificates(tls, NOW) == ["client"]
    (tls / "server.pem").write_text("torn")
    assert make_certificates(tls, NOW) == ["server"]
    (tls / "ca.key").unlink()
    assert make_certificates(tls, NOW) == ["ca", "server", "client"]
