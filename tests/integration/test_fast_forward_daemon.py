"""A thief drives versions up on a running daemon; officers lead the fooled clients back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tuf.api.exceptions import BadVersionNumberError, UnsignedMetadataError
from tuf.api.metadata import Metadata, Timestamp

from demo.officers import Officers
from demo.web import download, new_client, over_http
from keyd_client.errors import ApprovalRequired, PolicyViolation
from keyd_client.messages import NewKey, RoleChange, RotationChange, RotationKind, label
from tests.integration.sdk_daemon import ROLES, Running, running
from tests.running import keyd

__all__ = ["running"]

# The furthest that a thief gets in two steps of 100, with the identity of the publisher.
STEPS = (101, 201)
LOWERED = 5


@dataclass(frozen=True)
class Victim:
    """A repository, its officers, and a client that keeps what it saw."""

    running: Running
    officers: Officers
    url: str
    home: Path

    @property
    def timestamp(self) -> Path:
        return self.running.place.repository / "metadata" / "timestamp.json"

    def visit(self) -> int:
        """The client looks for a target; returns the version of the timestamp that it keeps."""
        client = new_client(self.url, self.running.place.repository, self.home)
        assert download(client, "hello.txt") == b"hello"
        kept = Metadata[Timestamp].from_file(str(self.home / "metadata" / "timestamp.json"))
        return kept.signed.version

    def marks(self) -> tuple[int, int]:
        """Epoch and highest version of timestamp, as the daemon counts."""
        state = self.running.client.repositories.state("demo")
        (role,) = [each for each in state.roles if each.role == "timestamp"]
        return role.epoch, role.high_water

    def sign(self, version: int) -> bytes:
        """A timestamp by the key that roots before the recovery list."""
        metadata = Metadata[Timestamp].from_file(str(self.timestamp))
        metadata.signed.version = version
        metadata.sign(self.running.signer("timestamp-1").for_role("demo", "timestamp"))
        return metadata.to_bytes()

    def approve(self, proposal: str, *names: str) -> None:
        self.officers.approve(proposal, names)


@pytest.fixture
def victim(running: Running, tmp_path: Path) -> Iterator[Victim]:
    running.make_role_keys()
    repository = running.repository()
    repository.initialize(ROLES)
    repository.add_targets({"hello.txt": b"hello"})
    repository.publish()
    officers = Officers(running.place)
    officers.enrol()
    with over_http(running.place.repository) as url:
        yield Victim(running, officers, url, tmp_path / "client")


def recovery() -> RotationChange:
    fresh = NewKey(name="timestamp-2", token="softhsm")
    change = RotationChange(
        kind=RotationKind.ROTATION_KIND_FAST_FORWARD,
        repository="demo",
        roles=[RoleChange(role="timestamp", remove=["timestamp-1"], add=[fresh])],
        reason="the publisher's credentials were stolen",
    )
    change.lower["timestamp"] = LOWERED
    return change


@pytest.mark.slow(seconds=40)
@pytest.mark.timeout(240)
def test_officers_lead_a_fooled_client_back(victim: Victim) -> None:
    before = victim.timestamp.read_bytes()
    for version in STEPS:
        victim.timestamp.write_bytes(victim.sign(version))
    assert victim.visit() == STEPS[-1]
    driven_up = (0, STEPS[-1])
    assert victim.marks() == driven_up
    driven = victim.timestamp.read_bytes()
    victim.timestamp.write_bytes(before)
    with pytest.raises(BadVersionNumberError, match="New timestamp version"):
        victim.visit()
    with pytest.raises(UnsignedMetadataError, match="VERSION_NOT_INCREASING"):
        victim.sign(LOWERED)

    rotations = victim.running.client.rotations
    change = recovery()
    digest = rotations.plan(change).plan.digest
    with pytest.raises(ApprovalRequired) as refused:
        rotations.start(change, digest)
    plan = refused.value.details["proposal"]
    victim.approve(plan, "alice")
    with pytest.raises(ApprovalRequired):
        rotations.start(change, digest)
    victim.approve(plan, "bob")
    name = rotations.start(change, digest).name
    (root,) = rotations.go_on(name).rotation.proposals
    assert victim.marks() == driven_up, "lowered before the officers agreed to the new root"
    victim.approve(root, "bob", "carol")
    assert label(rotations.go_on(name).rotation, "state") == "READY"
    assert victim.marks() == (1, LOWERED)
    victim.timestamp.write_bytes(driven)
    with pytest.raises(PolicyViolation, match="ROTATION_OVERTAKEN"):
        victim.running.repository().apply(name)
    victim.running.repository().apply(name, lower={"timestamp": LOWERED})
    assert victim.visit() == LOWERED
    check_record(victim, name, plan, root)


def check_record(victim: Victim, rotation: str, *proposals: str) -> None:
    """The mark went down once, after all that officers agreed to, and the ledger verifies."""
    log = [json.loads(entry.data) for entry in victim.running.client.audit.entries(0)]
    (lowered,) = [n for n, entry in enumerate(log) if entry["event"] == "versions_lowered"]
    said = log[lowered]
    assert (said["rotation"], said["role"], said["epoch"]) == (rotation, "timestamp", 1)
    assert (said["mark"], said["trusted_version"]) == (LOWERED - 1, STEPS[-1])
    for proposal in proposals:
        about = [(n, entry) for n, entry in enumerate(log) if entry.get("proposal") == proposal]
        decided = [entry["event"] for _, entry in about].count("proposal_decided")
        assert (decided, about[-1][1]["event"], about[-1][1]["state"]) == (
            2,
            "proposal_ended",
            "EXECUTED",
        )
        assert about[-1][0] < lowered
    config = victim.running.place.config
    verified = keyd("ledger", "verify", "--config", config, environment={})
    assert verified.code == 0, verified.err
