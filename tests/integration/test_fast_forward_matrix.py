"""Fast-forward recovery by stock clients: which rotations let one that cached the attack go on.

For every role that was driven up, every set of top-level roles whose keys a recovery replaces. The
client is python-tuf's, with the attacker's files in its cache.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import DownloadHTTPError, RepositoryError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    Targets,
    Timestamp,
)
from tuf.ngclient import FetcherInterface, Updater

ONLINE = ("timestamp", "snapshot", "targets")
ROLES = (*ONLINE, "team")
KEYS = {
    name: CryptoSigner.generate_ed25519()
    for role in ("root", *ROLES)
    for name in (role, f"{role}-new")
}
DRIVEN_UP, ATTACKED, RECOVERED = 1000, 2, 3
Files = Mapping[str, bytes]
Payload = Root | Timestamp | Snapshot | Targets


class Repository(FetcherInterface):
    """What is published; no network."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.rpartition("/")[2]
        if name not in self._files:
            raise DownloadHTTPError(name, 404)
        return iter([self._files[name]])


def signed(payload: Payload, *names: str) -> bytes:
    payload.expires = (datetime.now(UTC) + timedelta(days=9)).replace(microsecond=0)
    metadata: Metadata[Any] = Metadata(payload)
    for name in names:
        metadata.sign(KEYS[name], append=True)
    return metadata.to_bytes()


def root(version: int, rotated: frozenset[str]) -> bytes:
    payload = Root(version=version, consistent_snapshot=False)
    payload.add_key(KEYS["root"].public_key, "root")
    for role in ONLINE:
        payload.add_key(KEYS[key_of(role, rotated)].public_key, role)
    return signed(payload, "root")


def key_of(role: str, rotated: frozenset[str]) -> str:
    return f"{role}-new" if role in rotated else role


def state(versions: Mapping[str, int], rotated: frozenset[str]) -> dict[str, bytes]:
    """All files but root, each at its version."""
    team = KEYS[key_of("team", rotated)].public_key
    entry = DelegatedRole("team", [team.keyid], 1, False, paths=["*"])
    delegations = Delegations({team.keyid: team}, {"team": entry})
    listed = {f"{role}.json": MetaFile(versions[role]) for role in ("targets", "team")}
    payloads: dict[str, Payload] = {
        "team": Targets(version=versions["team"]),
        "targets": Targets(version=versions["targets"], delegations=delegations),
        "snapshot": Snapshot(version=versions["snapshot"], meta=listed),
        "timestamp": Timestamp(
            version=versions["timestamp"], snapshot_meta=MetaFile(versions["snapshot"])
        ),
    }
    return {f"{r}.json": signed(p, key_of(r, rotated)) for r, p in payloads.items()}


def reaches(attacked: str, rotated: frozenset[str]) -> bool:
    """Whether a client that cached the attack takes all of the recovery's files."""
    nothing: frozenset[str] = frozenset()
    first = root(1, nothing)
    attack = state({**dict.fromkeys(ROLES, ATTACKED), attacked: DRIVEN_UP}, nothing)
    recovery = state(dict.fromkeys(ROLES, RECOVERED), rotated)
    with tempfile.TemporaryDirectory() as home:
        update(home, first, {"1.root.json": first, **attack})
        roots = {"1.root.json": first, "2.root.json": root(2, rotated)}
        try:
            client = update(home, first, {**roots, **recovery})
        except RepositoryError:
            return False
        held = client._trusted_set
        return all(held[role].version == RECOVERED for role in ROLES)


def update(home: str, first: bytes, files: Files) -> Updater:
    client = Updater(home, "http://none.invalid/", fetcher=Repository(files), bootstrap=first)
    client.refresh()
    client.get_targetinfo("anything")
    return client


def every() -> list[frozenset[str]]:
    return [frozenset(s) for n in range(5) for s in itertools.combinations(ROLES, n)]


# The smallest sets of rotated roles that bring a role down again. A snapshot comes down with the
# timestamp key alone: clients compare what snapshots list, never their own versions, which is the
# timestamp's part (TUF 5.4.3.2, 5.5.5). keyd asks for the snapshot key as well: it was abused.
ENOUGH = {
    "timestamp": [{"timestamp"}],
    "snapshot": [{"timestamp"}],
    "targets": [{"snapshot"}],
    "team": [{"snapshot"}],
}


@pytest.mark.parametrize("attacked", ROLES)
def test_which_rotations_bring_a_client_down_again(attacked: str) -> None:
    found = [rotated for rotated in every() if reaches(attacked, rotated)]
    smallest = [s for s in found if not any(other < s for other in found)]
    assert smallest == ENOUGH[attacked]
    assert found == [s for s in every() if any(need <= s for need in ENOUGH[attacked])]
