"""Rotations of roles whose payloads officers agree to: what was proposed is what is signed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from keyd.domain import canonical
from keyd.domain.operations import SignMetadata
from keyd.domain.payload import parse
from keyd.domain.policy import Grant, Quorum
from keyd.domain.quorum import QuorumRule
from keyd.domain.records_rotation import RotationState
from keyd.errors import ApprovalRequired, InvalidRequest
from keyd.rehearsal.stage import StockClients
from keyd.rpc.convert_rotations import rotation_out
from keyd.services import proposals
from keyd.services.audit import ensure_log_key
from keyd.services.rotation import advancing, planning, starting
from keyd.services.world import World
from keyd_protos.v1 import rotations_pb2
from tests.fakes import TestClock
from tests.integration.rotating import go_on, later, rotation_of, signed_roles, sound
from tests.officers import approve, enrol, person, propose
from tests.worlds import (
    ADMIN,
    SIGNER,
    TIMEOUT_S,
    FixedPolicy,
    active_author,
    allow_all,
    open_world,
)

ANN, BEN, CAT = person("ann"), person("ben"), person("cat")


def world_with_rule(directory: Path, *roles: str) -> World:
    """Two officers agree to whatever is signed for these roles."""
    scope = Grant(
        name="by-two",
        line=1,
        principals=frozenset(),
        methods=frozenset({"SigningService.SignMetadata"}),
        repositories=frozenset({"demo"}),
        roles=frozenset(roles),
        any_key=True,
    )
    everything = allow_all(ADMIN.principal, SIGNER.principal)
    made = open_world(directory, clock=TestClock())
    ensure_log_key(made, "soft", TIMEOUT_S)
    active_author(made)
    enrol(made, ANN, BEN, CAT)
    policy = replace(everything, quorums=(Quorum(QuorumRule("by-two", 2), scope),))
    return replace(made, policy=FixedPolicy(policy), rehearsal=StockClients())


def agree(world: World, proposal: str) -> None:
    approve(world, proposals.get(world, ADMIN, proposal), ANN, CAT)


def begun(world: World, role: str, kind: str = "", **lower: int) -> str:
    """A rotation of one role's key, up to the root that officers let be signed."""
    wanted = replace(rotation_of(role, role, f"{role}-2", kind), lower=lower)
    digest = planning.plan(world, ADMIN, wanted).digest
    with pytest.raises(ApprovalRequired) as caught:
        starting.start(world, ADMIN, wanted, digest, grace_s=3600)
    agree(world, caught.value.details["proposal"])
    name = starting.start(world, ADMIN, wanted, digest, grace_s=3600).rotation.name
    [root] = go_on(world, name).progress.proposals
    agree(world, root)
    return name


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp"])
def test_officers_have_hours_for_every_payload(tmp_path: Path, role: str) -> None:
    world = world_with_rule(tmp_path, role)
    name = begun(world, role)
    [asked] = go_on(world, name).progress.proposals
    later(world, hours=5)
    assert go_on(world, name).progress.proposals == (asked,), "the payload must stay the same"
    agree(world, asked)
    later(world, hours=5)
    assert go_on(world, name).progress.rotation.state is RotationState.READY
    assert role in signed_roles(world, name)
    advancing.confirm_published(world, ADMIN, name)
    sound(world, tmp_path)


def test_officers_agree_to_the_first_payload_of_a_new_epoch(tmp_path: Path) -> None:
    world = world_with_rule(tmp_path, "timestamp")
    name = begun(world, "timestamp", "FAST_FORWARD", timestamp=1)
    [asked] = go_on(world, name).progress.proposals
    later(world, hours=5)
    assert go_on(world, name).progress.proposals == (asked,)
    agree(world, asked)
    assert go_on(world, name).progress.rotation.state is RotationState.READY
    lowered = world.ledger.read(lambda view: view.role("demo", "timestamp"))
    assert lowered is not None
    assert (lowered.epoch, lowered.trusted_version) == (1, 1)
    sound(world, tmp_path)


def test_what_somebody_else_proposed_is_not_signed(tmp_path: Path) -> None:
    """Officers agreed to it, but it is not what the plan makes; or it would soon be over."""
    world = world_with_rule(tmp_path, "targets")
    name = begun(world, "targets")
    own = proposals.get(world, ADMIN, go_on(world, name).progress.proposals[0]).proposal.payload
    other = {"length": 1, "hashes": {"sha256": "0" * 64}}
    for change in ({"targets": {"other": other}}, {"expires": "2030-06-01T00:05:00Z"}):
        raw = canonical.encode(json.loads(own) | change)
        digest = parse(raw, max_bytes=10**6).digest
        approve(world, propose(world, SignMetadata("demo", "targets", 0, 2, digest), raw), ANN, BEN)
    assert go_on(world, name).progress.waiting
    assert signed_roles(world, name) == ["root"]
    agree(world, next(name for name, raw in open_payloads(world) if raw == own))
    assert go_on(world, name).progress.rotation.state is RotationState.READY
    sound(world, tmp_path)


def open_payloads(world: World) -> list[tuple[str, bytes]]:
    found = world.ledger.read(lambda view: view.open_proposals())
    return [(proposal.name, proposal.payload) for proposal in found]


def test_officers_are_asked_anew_when_their_time_is_over(tmp_path: Path) -> None:
    world = world_with_rule(tmp_path, "targets")
    name = begun(world, "targets")
    [first] = go_on(world, name).progress.proposals
    agree(world, first)
    later(world, days=15)
    [second] = go_on(world, name).progress.proposals
    assert second != first
    agree(world, second)
    assert go_on(world, name).progress.rotation.state is RotationState.READY
    sound(world, tmp_path)


def test_officers_are_asked_anew_when_the_payload_is_soon_over(tmp_path: Path) -> None:
    """The first proposal still is open; but what it is about is not signed any more."""
    world = world_with_rule(tmp_path, "timestamp")
    name = begun(world, "timestamp")
    [first] = go_on(world, name).progress.proposals
    later(world, hours=25)
    assert advancing.get(world, ADMIN, name).proposals == ()
    [second] = go_on(world, name).progress.proposals
    assert second != first
    agree(world, second)
    assert go_on(world, name).progress.rotation.state is RotationState.READY
    sound(world, tmp_path)


def test_officers_are_asked_for_the_version_that_is_made_anew(tmp_path: Path) -> None:
    world = world_with_rule(tmp_path, "timestamp")
    name = begun(world, "timestamp")
    for _ in range(2):
        [asked] = go_on(world, name).progress.proposals
        agree(world, asked)
        assert go_on(world, name).progress.rotation.state is RotationState.READY
        later(world, days=2)
    went = go_on(world, name)
    assert rotation_out(went.progress).state == rotations_pb2.ROTATION_STATE_WAITING
    assert "needs approval" in went.progress.next
    shown = [proposals.get(world, ADMIN, each) for each in went.progress.proposals]
    assert [json.loads(each.proposal.payload)["version"] for each in shown] == [4]
    sound(world, tmp_path)


def test_nobody_is_asked_for_an_epoch_that_nothing_begins(tmp_path: Path) -> None:
    world = world_with_rule(tmp_path, "timestamp")
    name = begun(world, "timestamp")
    [asked] = go_on(world, name).progress.proposals
    payload = proposals.get(world, ADMIN, asked).proposal.payload
    digest = parse(payload, max_bytes=10**6).digest
    with pytest.raises(InvalidRequest, match="PAYLOAD_CHECKSUM_MISMATCH"):
        propose(world, SignMetadata("demo", "timestamp", 1, 2, digest), payload)
