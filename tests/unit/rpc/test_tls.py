"""TLS files are judged before they are used."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyd.rpc.options import CannotListen, TcpListener
from keyd.rpc.tls import ServerTLS
from tests.certificates import Authority


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
    ServerTLS(listener).reload()


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
        tls.reload()
    assert tls._files is before
