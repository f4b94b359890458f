"""The revocation list: what it revokes, when it is read again, and that it fails closed."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyd.errors import BackendUnavailable, Unauthenticated
from keyd.rpc.peer import Peer, peer_of
from keyd.rpc.revocation import RevocationList
from tests.certificates import Authority, Issued


class Ticking:
    """Monotonic time that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def issued() -> Issued:
    return Authority().client(uris=["spiffe://example.org/ci"])


@pytest.fixture
def peer(issued: Issued) -> Peer:
    return peer_of([issued.certificate])


@pytest.fixture
def ticking() -> Ticking:
    return Ticking()


def write(path: Path, text: str) -> None:
    """As an operator should: a finished file renamed over the old one."""
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").rename(path)


def test_revokes_by_serial_and_by_key(tmp_path: Path, issued: Issued, peer: Peer) -> None:
    entries = [
        f"serial:{issued.serial}",
        f"serial:{issued.serial.upper()}  # stolen laptop",
        f"key-sha256:{issued.key_sha256}",
        f"# a list\n\n  key-sha256:{issued.key_sha256.upper()}\n",
    ]
    for number, text in enumerate(entries):
        path = tmp_path / str(number)
        path.write_text(text)
        with pytest.raises(Unauthenticated, match="CERTIFICATE_REVOKED"):
            RevocationList(path, Ticking()).check(peer)


def test_others_pass(tmp_path: Path, peer: Peer) -> None:
    path = tmp_path / "revoked"
    path.write_text(f"serial:1\nkey-sha256:{'0' * 64}\n")
    RevocationList(path, Ticking()).check(peer)


def test_a_change_is_seen_after_a_second(
    tmp_path: Path, issued: Issued, peer: Peer, ticking: Ticking
) -> None:
    path = tmp_path / "revoked"
    path.write_text("")
    revoked = RevocationList(path, ticking)
    revoked.check(peer)
    write(path, f"serial:{issued.serial}\n")
    ticking.now += 1
    with pytest.raises(Unauthenticated):
        revoked.check(peer)
    write(path, "# pardoned\n")
    ticking.now += 1
    revoked.check(peer)


@pytest.mark.parametrize(
    "text",
    [
        "serial:xyz\n",
        "serial:\n",
        "key-sha256:abcd\n",
        "cafe\n",
        f"serial:{'1' * 41}\n",
        "serial:ü",
    ],
)
def test_an_unclear_list_refuses_everybody(
    tmp_path: Path, peer: Peer, text: str, ticking: Ticking
) -> None:
    path = tmp_path / "revoked"
    path.write_text(text)
    revoked = RevocationList(path, ticking)
    with pytest.raises(BackendUnavailable, match="REVOCATION_LIST_UNREADABLE"):
        revoked.check(peer)
    write(path, "")
    ticking.now += 1
    revoked.check(peer)


def test_a_missing_list_refuses_everybody(tmp_path: Path, peer: Peer, ticking: Ticking) -> None:
    path = tmp_path / "revoked"
    path.write_text("")
    revoked = RevocationList(path, ticking)
    revoked.check(peer)
    path.unlink()
    ticking.now += 1
    with pytest.raises(BackendUnavailable, match="No such file"):
        revoked.check(peer)
    assert revoked.fault()
