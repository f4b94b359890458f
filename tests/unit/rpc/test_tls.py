"""TLS files are judged before they are used."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest

from keyd import trusted_paths
from keyd.rpc.options import CannotListen, TcpListener
from keyd.rpc.tls import ServerTLS
from tests.certificates import UNREADABLE, Authority


@pytest.fixture
def listener(tmp_path: Path) -> TcpListener:
    authority = Authority()
    certificate, key = authority.server().write(tmp_path, "server")
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    return TcpListener("127.0.0.1:0", certificate, key, tmp_path / "ca.pem")


def refusal(listener: TcpListener) -> str:
    with pytest.raises(CannotListen) as refused:
        ServerTLS(listener)
    assert refused.value.reason == "TLS_FILES"
    return refused.value.message


def test_good_files(listener: TcpListener) -> None:
    ServerTLS(listener).read_again()()


def altered(path: Path, old: str, new: str) -> None:
    """Other bytes, given in hexadecimal, in the DER of the first PEM block."""
    first, second = bytes.fromhex(old), bytes.fromhex(new)
    [label, content] = re.findall(rb"-----BEGIN (.*)-----\n([^-]*)", path.read_bytes())[0]
    der = base64.b64decode(content)
    assert first in der
    body = base64.encodebytes(der.replace(first, second)).decode()
    name = label.decode()
    path.write_text(f"-----BEGIN {name}-----\n{body}-----END {name}-----\n")


def test_a_key_on_an_unknown_curve(listener: TcpListener) -> None:
    altered(listener.key, "06082a8648ce3d030107", "06082a811ccf5501822d")
    assert "of an unknown kind" in refusal(listener)


def test_an_authority_with_a_damaged_extension(listener: TcpListener) -> None:
    altered(listener.client_ca, "30060101ff020100", "300601010f020100")
    assert "damaged" in refusal(listener)


@pytest.mark.parametrize("why", UNREADABLE)
def test_an_authority_that_cannot_be_read(listener: TcpListener, why: str) -> None:
    listener.client_ca.write_bytes(Authority().unreadable(why))
    assert "damaged" in refusal(listener)


def test_a_certificate_of_an_unknown_version(listener: TcpListener) -> None:
    altered(listener.certificate, "a003020102", "a003020103")
    assert "damaged" in refusal(listener)


def test_a_key_that_goes_while_it_is_read(
    listener: TcpListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As whoever renews it may make it anew in between."""
    judge = trusted_paths.is_private

    def go_and_judge(path: Path) -> bool:
        path.unlink()
        return judge(path)

    monkeypatch.setattr(trusted_paths, "is_private", go_and_judge)
    assert "server.key cannot be read" in refusal(listener)


def test_another_certificates_key(listener: TcpListener) -> None:
    listener.key.write_bytes(Authority().server().key)
    assert "is not the key of the first certificate" in refusal(listener)


def test_a_leaf_as_authority(listener: TcpListener) -> None:
    listener.client_ca.write_bytes(listener.certificate.read_bytes())
    assert "no certificate authority" in refusal(listener)


@pytest.mark.parametrize("bits", [0o644, 0o660, 0o604])
def test_a_private_key_within_others_reach(listener: TcpListener, bits: int) -> None:
    listener.key.chmod(bits)
    assert f"mode {bits:04o}" in refusal(listener)


@pytest.mark.parametrize("name", ["certificate", "key", "client_ca"])
def test_missing_or_empty_files(listener: TcpListener, name: str) -> None:
    path: Path = getattr(listener, name)
    path.write_bytes(b"")
    refusal(listener)
    path.unlink()
    assert "cannot be read" in refusal(listener)


def test_a_failed_reload_changes_nothing(listener: TcpListener) -> None:
    tls = ServerTLS(listener)
    before = tls._files
    listener.key.write_bytes(b"nonsense")
    with pytest.raises(CannotListen):
        tls.read_again()
    assert tls._files is before
