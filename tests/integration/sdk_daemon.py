"""``keyd serve`` on a SoftHSM token for tests of the SDK: what the demo starts, for each test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo.daemon import Daemon, Place, make_token
from keyd_client import Client, KeydRepository, KeydSigner, RoleKeys

PROFILE = "demo"
ROLES = {
    "root": RoleKeys(2, ["root-1", "root-2", "root-3"]),
    "targets": RoleKeys(1, ["targets-1"]),
    "snapshot": RoleKeys(1, ["snapshot-1"]),
    "timestamp": RoleKeys(1, ["timestamp-1"]),
}


@dataclass
class Running:
    """A daemon and a client of it; the profile ``demo`` leads there."""

    place: Place
    daemon: Daemon
    client: Client

    def make_keys(self, *names: str, content: str = "tuf", scheme: str = "") -> None:
        for name in names:
            self.client.keys.create(name, "softhsm", content=content, scheme=scheme)

    def make_role_keys(self) -> None:
        self.make_keys(*(name for keys in ROLES.values() for name in keys.keys))

    def signer(self, key: str) -> KeydSigner:
        uri, public_key = KeydSigner.import_(PROFILE, key)
        return KeydSigner.from_priv_key_uri(uri, public_key)

    def repository(self) -> KeydRepository:
        """A publisher who agrees to every root change that has lines to read."""
        return KeydRepository(self.place.repository, PROFILE, confirm_root_change=bool)


@pytest.fixture
def running(socket_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    place = Place(socket_dir)
    make_token(place)
    monkeypatch.setenv("KEYD_PROFILE_DIR", str(place.profiles))
    with Daemon(place) as daemon, Client(PROFILE) as client:
        yield Running(place, daemon, client)
        daemon.check_alive()
