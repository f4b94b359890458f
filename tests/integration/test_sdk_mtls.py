"""The SDK over mutual TLS: who is trusted, by which name, and certificates that are replaced."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from keyd_client import Client, errors
from tests.certificates import Authority, Issued
from tests.serving import CI, STRANGER, Place, Serving, make_place, serve


@dataclass
class Host:
    """A client's host: a profile ``ci`` and the files that it names."""

    place: Place
    target: str
    directory: Path

    def install(self, issued: Issued) -> None:
        """Put a certificate and its key into place, as a renewal does."""
        for name, content in (("ci.pem", issued.certificate), ("ci.key", issued.key)):
            new = self.directory / f"{name}.new"
            new.touch(mode=0o600)
            new.write_bytes(content)
            new.rename(self.directory / name)

    def write_profile(self, ca: bytes | None = None, **more: str) -> None:
        (self.directory / "ca.pem").write_bytes(ca or self.place.authority.certificate)
        content = {"target": self.target, "ca": "ca.pem", "certificate": "ci.pem", "key": "ci.key"}
        lines = [f'{name} = "{value}"\n' for name, value in (content | more).items()]
        (self.directory / "ci.toml").write_text("".join(lines) + "timeout_s = 5\n")


@pytest.fixture
def serving(tmp_path: Path, socket_dir: Path) -> Iterator[Serving]:
    place = make_place(tmp_path, socket_dir)
    with serve(place, place.tcp()) as serving:
        yield serving


@pytest.fixture
def host(serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    directory = tmp_path / "host"
    directory.mkdir()
    monkeypatch.setenv("KEYD_PROFILE_DIR", str(directory))
    host = Host(serving.place, f"dns:{serving.targets[0]}", directory)
    host.install(serving.place.authority.client(uris=[CI]))
    host.write_profile()
    return host


def test_the_certificate_is_the_identity(host: Host) -> None:
    with Client("ci") as client:
        assert list(client.keys.list()) == []


def test_a_renewed_certificate_is_used_from_the_next_call_on(host: Host) -> None:
    with Client("ci") as client:
        list(client.keys.list())
        host.install(host.place.authority.client(uris=[STRANGER]))
        with pytest.raises(errors.NotAllowed, match="POLICY_DENIES"):
            list(client.keys.list())
        host.install(host.place.authority.client(uris=[CI]))
        list(client.keys.list())


def test_a_server_by_another_authority_is_not_talked_to(host: Host) -> None:
    host.write_profile(ca=Authority("another").certificate)
    with Client("ci") as client, pytest.raises(errors.BackendUnavailable) as raised:
        list(client.keys.list())
    assert "CERTIFICATE_VERIFY_FAILED" in str(raised.value)


@pytest.mark.parametrize(("name", "fits"), [("localhost", True), ("keyd.example.com", False)])
def test_the_servers_name_counts(host: Host, name: str, fits: bool) -> None:
    host.write_profile(server_name=name)
    with Client("ci") as client:
        if fits:
            list(client.keys.list())
        else:
            with pytest.raises(errors.BackendUnavailable, match="DAEMON_UNREACHABLE"):
                list(client.keys.list())


def test_an_unknown_client_certificate_is_not_let_in(host: Host) -> None:
    host.install(Authority("another").client(uris=[CI]))
    with Client("ci") as client, pytest.raises(errors.BackendUnavailable):
        list(client.keys.list())


@pytest.mark.parametrize("mode", [0o604, 0o620, 0o660, 0o644])
def test_an_exposed_key_file_is_refused(host: Host, mode: int) -> None:
    (host.directory / "ci.key").chmod(mode)
    with pytest.raises(errors.ProfileError, match="KEY_FILE_EXPOSED"):
        list(Client("ci").keys.list())


def test_only_root_may_share_a_key_file_with_a_group(host: Host) -> None:
    """As systemd does with credentials: root's file, mode 0440."""
    key = host.directory / "ci.key"
    key.chmod(0o440)
    if key.stat().st_uid == 0:
        assert list(Client("ci").keys.list()) == []
        os.chown(key, 12345, -1)
    with pytest.raises(errors.ProfileError, match="KEY_FILE_EXPOSED"):
        list(Client("ci").keys.list())


def test_a_key_of_another_certificate_is_named(host: Host) -> None:
    other = host.place.authority.client(uris=[CI])
    (host.directory / "ci.key").write_bytes(other.key)
    with pytest.raises(errors.ProfileError, match=r"CREDENTIAL_INVALID.*ci.key is not the key of"):
        list(Client("ci").keys.list())


def test_what_is_no_pem_is_named(host: Host) -> None:
    (host.directory / "ca.pem").write_text("hello")
    with pytest.raises(errors.ProfileError, match="CREDENTIAL_INVALID"):
        list(Client("ci").keys.list())


def test_a_missing_file_is_named(host: Host) -> None:
    (host.directory / "ci.pem").unlink()
    with pytest.raises(errors.ProfileError, match=r"CREDENTIAL_UNREADABLE.*ci.pem"):
        list(Client("ci").keys.list())
