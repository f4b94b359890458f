"""Telling systemd must never be what ends the daemon."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from keyd.daemon import systemd


def test_what_is_told_arrives(socket_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = str(socket_dir / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address)
        systemd.notify("READY=1", "STATUS=ready")
        assert listener.recv(100) == b"READY=1\nSTATUS=ready"
    systemd.notify("STATUS=nobody listens any more")
    (socket_dir / "notify").unlink()
    systemd.notify("STATUS=nor is there a socket")
