"""Identities out of client certificates: exactly one, byte for byte."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from keyd.errors import Unauthenticated
from keyd.rpc.peer import peer_of
from tests.certificates import UNREADABLE, Authority

CI = "spiffe://example.org/ci"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.mark.parametrize(
    ("uris", "hosts", "principal"),
    [
        ([CI], [], f"uri:{CI}"),
        ([CI], ["ci.example.org", "ci2.example.org"], f"uri:{CI}"),
        ([], ["ci.example.org"], "dns:ci.example.org"),
        ([], ["localhost"], "dns:localhost"),
        (["spiffe://example.org"], [], "uri:spiffe://example.org"),
        (["spiffe://example.org/A/b_c-d.e"], [], "uri:spiffe://example.org/A/b_c-d.e"),
    ],
)
def test_one_name_is_the_identity(
    authority: Authority, uris: Sequence[str], hosts: Sequence[str], principal: str
) -> None:
    assert peer_of([authority.client(uris=uris, hosts=hosts).certificate]).principal == principal


@pytest.mark.parametrize(
    ("uris", "hosts"),
    [
        ([], []),
        ([CI, "spiffe://example.org/cd"], []),
        ([CI, CI], []),
        (["https://example.org/ci"], []),
        # A URI that is no SPIFFE id does not make the host name an identity.
        (["https://example.org/ci"], ["ci.example.org"]),
        (["spiffe://EXAMPLE.org/ci"], []),
        (["SPIFFE://example.org/ci"], []),
        (["spiffe://example.org/ci/"], []),
        (["spiffe://example.org//ci"], []),
        (["spiffe://example.org/../ci"], []),
        (["spiffe://example.org/."], []),
        (["spiffe://example.org/c%69"], []),
        (["spiffe://example.org/ci?x"], []),
        (["spiffe://example.org:443/ci"], []),
        (["spiffe://user@example.org/ci"], []),
        (["spiffe:///ci"], []),
        ([], ["ci.example.org", "cd.example.org"]),
        ([], ["*.example.org"]),
        ([], ["CI.example.org"]),
        ([], ["ci.example.org."]),
        ([], ["ci..example.org"]),
        ([], ["-ci.example.org"]),
        ([], ["ci example.org"]),
        ([], [".".join(["a" * 60] * 5)]),
    ],
)
def test_anything_else_is_nobody(
    authority: Authority, uris: Sequence[str], hosts: Sequence[str]
) -> None:
    certificate = authority.client(uris=uris, hosts=hosts).certificate
    with pytest.raises(Unauthenticated) as refused:
        peer_of([certificate])
    assert refused.value.reason == "CERTIFICATE_IDENTITY"


def test_common_name_and_other_names_do_not_count(authority: Authority) -> None:
    names = [x509.RFC822Name("ci@example.org"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    for issued in (authority.issue([], common_name="ci"), authority.issue(names)):
        with pytest.raises(Unauthenticated, match="CERTIFICATE_IDENTITY"):
            peer_of([issued.certificate])


def test_no_or_several_certificates(authority: Authority) -> None:
    good = authority.client(uris=[CI]).certificate
    for certificates in ([], [good, good]):
        with pytest.raises(Unauthenticated, match="CERTIFICATE_MISSING"):
            peer_of(certificates)


def test_unreadable_certificate() -> None:
    with pytest.raises(Unauthenticated, match="CERTIFICATE_UNREADABLE"):
        peer_of([b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])


@pytest.mark.parametrize("why", UNREADABLE)
def test_certificate_that_the_library_refuses(authority: Authority, why: str) -> None:
    with pytest.raises(Unauthenticated, match="CERTIFICATE_UNREADABLE"):
        peer_of([authority.unreadable(why)])


def test_fingerprint_and_serial(authority: Authority) -> None:
    issued = authority.client(uris=[CI])
    peer = peer_of([issued.certificate])
    assert (f"{peer.serial:x}", peer.key_sha256) == (issued.serial, issued.key_sha256)


def test_validity_is_judged_by_the_given_time(authority: Authority) -> None:
    peer = peer_of([authority.client(uris=[CI]).certificate])
    now = datetime.now(UTC)
    peer.check_validity(now)
    with pytest.raises(Unauthenticated, match="CERTIFICATE_EXPIRED"):
        peer.check_validity(now + timedelta(days=2))
    with pytest.raises(Unauthenticated, match="CERTIFICATE_NOT_YET_VALID"):
        peer.check_validity(now - timedelta(hours=1))
