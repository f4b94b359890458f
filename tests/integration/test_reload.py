"""SIGHUP: certificates and policy are taken together, or neither."""

from __future__ import annotations

import signal
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyd.domain.officers import OfficerSet
from keyd.rpc.convert_officers import officers_out
from tests.certificates import UNREADABLE
from tests.daemon import Installation
from tests.officers import person
from tests.tls_sites import Target, TlsSite

# Judged by what the ledger holds, not by the file alone: officers have to agree.
_LOOSER = """
[[grant]]
name = "late"
principals = ["unix:late"]
methods = ["KeyService.ListKeys"]
"""


@pytest.fixture
def target(installation: Installation, tmp_path: Path) -> Iterator[Target]:
    site = TlsSite(installation, tmp_path)
    site.configure()
    with installation.serve() as daemon:
        daemon.wait_for("daemon_ready")
        yield Target(installation, site, daemon)
        assert daemon.stop() == 0


def shown(target: Target) -> str:
    """The certificate that a new connection meets."""
    return ssl.get_server_certificate(("127.0.0.1", target.door.port), timeout=30)


def stored(target: Target) -> str:
    return (target.site.folder / "server.pem").read_text()


def test_a_policy_that_is_refused_leaves_the_certificates(target: Target) -> None:
    officers = OfficerSet(tuple(person(name).officer for name in ("ann", "ben", "cat")))
    with target.installation.client() as client:
        client.officers.enrol_first(officers_out(officers), 2)
    before = shown(target)
    policy = target.installation.policy.read_text()
    target.site.renew()
    target.installation.policy.write_text(policy + _LOOSER)
    target.daemon.send(signal.SIGHUP)
    assert target.daemon.wait_for("reload_refused")["reason"] == "POLICY_LOOSENED"
    assert shown(target) == before
    target.installation.policy.write_text(policy)
    target.daemon.send(signal.SIGHUP)
    target.daemon.wait_for("reloaded")
    assert shown(target) == stored(target) != before


@pytest.mark.parametrize("why", ["another certificate's key", *UNREADABLE])
def test_certificates_that_are_refused_leave_the_policy(target: Target, why: str) -> None:
    target.installation.policy.write_text(target.installation.policy.read_text() + "# later\n")
    if why in UNREADABLE:
        (target.site.folder / "ca.pem").write_bytes(target.site.authority.unreadable(why))
    else:
        (target.site.folder / "server.key").write_bytes(target.site.authority.server().key)
    target.daemon.send(signal.SIGHUP)
    assert target.daemon.wait_for("reload_refused")["reason"] == "TLS_FILES"
    loaded = [one for one in target.daemon.events() if one["event"] == "reloaded"]
    assert not loaded
    (target.site.folder / "ca.pem").write_bytes(target.site.authority.certificate)
    target.site.renew()
    target.daemon.send(signal.SIGHUP)
    assert target.daemon.wait_for("reloaded")["policy_changed"] is True
