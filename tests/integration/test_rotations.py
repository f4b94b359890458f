"""Rotations end to end: a real ledger, software tokens, and python-tuf's client for judge."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from keyd.domain import dsse
from keyd.domain.keys import Key, KeyState
from keyd.domain.records_rotation import RotationState
from keyd.domain.rehearsal import Act, Play
from keyd.errors import AlreadyExists, ApprovalRequired, KeydError, PolicyViolation
from keyd.services import proposals
from keyd.services.audit import ensure_log_key
from keyd.services.rotation import advancing, planning, retiring, starting
from keyd.services.rotation.wanted import Wanted, WantedRole
from keyd.services.world import World
from tests.fakes import TestClock
from tests.integration.rotating import (
    begin,
    carry_out,
    go_on,
    rotation_of,
    signed_roles,
    sound,
    state,
    world,
)
from tests.officers import Person, approve, enrol, person
from tests.worlds import ADMIN, TIMEOUT_S, Author, active_author, make_key

__all__ = ["world"]


@pytest.fixture
def author(world: World) -> Author:
    ensure_log_key(world, "soft", TIMEOUT_S)
    return active_author(world)


def test_a_timestamp_key_is_replaced(world: World, author: Author, tmp_path: Path) -> None:
    went = carry_out(world, rotation_of("timestamp", "timestamp", "timestamp-2"))
    name = went.progress.rotation.name
    assert signed_roles(world, name) == ["root", "timestamp"]
    assert (state(world, "timestamp"), state(world, "timestamp-2")) == ("ACTIVE", "ACTIVE")
    assert retiring.retire_due(world) == 0
    assert isinstance(world.clock, TestClock)
    world.clock.advance(hours=2)
    assert retiring.retire_due(world) == 1
    assert state(world, "timestamp") is KeyState.DEACTIVATED
    assert advancing.get(world, ADMIN, name).rotation.state is RotationState.DONE
    assert all(step.done for step in advancing.get(world, ADMIN, name).steps)
    sound(world, tmp_path)


@pytest.mark.parametrize(
    ("role", "signed"),
    [
        ("snapshot", ["root", "snapshot", "timestamp"]),
        ("targets", ["root", "targets", "snapshot", "timestamp"]),
    ],
)
def test_what_lists_the_role_is_signed_anew(
    world: World, author: Author, tmp_path: Path, role: str, signed: Sequence[str]
) -> None:
    went = carry_out(world, rotation_of(role, role, f"{role}-2"))
    assert signed_roles(world, went.progress.rotation.name) == signed
    sound(world, tmp_path)


def test_a_root_key_is_replaced(world: World, author: Author, tmp_path: Path) -> None:
    went = carry_out(world, rotation_of("root", "root-1", "root-4"))
    assert signed_roles(world, went.progress.rotation.name) == ["root"]
    sound(world, tmp_path)


def test_twenty_root_rotations_in_a_row(world: World, author: Author, tmp_path: Path) -> None:
    for number in range(4, 24):
        carry_out(world, rotation_of("root", f"root-{number - 3}", f"root-{number}"))
    root = world.ledger.read(lambda view: view.role("demo", "root"))
    assert root is not None
    assert root.trusted_version == 21
    assert isinstance(world.clock, TestClock)
    world.clock.advance(hours=2)
    assert retiring.retire_due(world) == 20
    states = [state(world, f"root-{number}") for number in range(1, 24)]
    assert states == [KeyState.DEACTIVATED] * 20 + [KeyState.ACTIVE] * 3
    sound(world, tmp_path)


def test_two_rotations_are_never_open_at_once(world: World, author: Author) -> None:
    wanted = rotation_of("timestamp", "timestamp", "timestamp-2")
    other = rotation_of("snapshot", "snapshot", "snapshot-2")
    digest = planning.plan(world, ADMIN, other).digest
    begin(world, wanted)
    with pytest.raises((PolicyViolation, AlreadyExists), match="ROTATION_OPEN"):
        starting.start(world, ADMIN, other, digest, grace_s=0)


def test_a_plan_that_was_not_read_is_not_started(world: World, author: Author) -> None:
    wanted = rotation_of("timestamp", "timestamp", "timestamp-2")
    with pytest.raises(PolicyViolation, match="PLAN_CHANGED"):
        starting.start(world, ADMIN, wanted, "0" * 64, grace_s=0)


def test_continuing_a_finished_rotation_does_nothing(world: World, author: Author) -> None:
    went = carry_out(world, rotation_of("timestamp", "timestamp", "timestamp-2"))
    size = world.ledger.read(lambda view: view.log_size())
    assert go_on(world, went.progress.rotation.name).done == ()
    assert world.ledger.read(lambda view: view.log_size()) == size


# --- officers ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Officers:
    """Three, two of whom must agree to whatever loosens or concerns root."""

    world: World
    people: dict[str, Person]

    def approve(self, proposal: str, *by: str) -> None:
        shown = proposals.get(self.world, ADMIN, proposal)
        approve(self.world, shown, *(self.people[name] for name in by))


@pytest.fixture
def officers(world: World, author: Author) -> Officers:
    people = {name: person(name) for name in ("alice", "bob", "carol")}
    enrol(world, *people.values())
    return Officers(world, people)


def start_needs(world: World, wanted: Wanted) -> tuple[str, str]:
    """The plan's digest and the proposal that somebody has to approve first."""
    digest = planning.plan(world, ADMIN, wanted).digest
    with pytest.raises(ApprovalRequired, match="APPROVAL_REQUIRED") as caught:
        starting.start(world, ADMIN, wanted, digest, grace_s=3600)
    return digest, caught.value.details["proposal"]


def test_officers_approve_the_plan_and_then_the_root(
    world: World, officers: Officers, tmp_path: Path
) -> None:
    wanted = rotation_of("root", "root-1", "root-4")
    digest, proposal = start_needs(world, wanted)
    held = proposals.get(world, ADMIN, proposal).proposal
    assert held.payload == planning.plan(world, ADMIN, wanted).json
    assert held.payload_sha256 == digest
    officers.approve(proposal, "alice", "bob")
    name = starting.start(world, ADMIN, wanted, digest, grace_s=3600).rotation.name
    went = go_on(world, name)
    assert went.done == ("made key root-4 on token soft",)
    assert went.progress.waiting
    (root,) = went.progress.proposals
    assert isinstance(world.clock, TestClock)
    world.clock.advance(hours=3)
    assert go_on(world, name).progress.proposals == (root,), "the payload must stay the same"
    officers.approve(root, "alice")
    assert go_on(world, name).progress.waiting
    officers.approve(root, "carol")
    went = go_on(world, name)
    assert went.progress.rotation.state is RotationState.READY
    assert signed_roles(world, name) == ["root"]
    sound(world, tmp_path)


def test_an_approval_is_for_one_plan(world: World, officers: Officers) -> None:
    wanted = rotation_of("root", "root-1", "root-4")
    _, proposal = start_needs(world, wanted)
    officers.approve(proposal, "alice", "bob")
    other = rotation_of("root", "root-1", "root-5")
    _, again = start_needs(world, other)
    assert again != proposal


def test_a_stolen_key_stops_before_officers_are_found(
    world: World, author: Author, officers: Officers
) -> None:
    wanted = replace(
        rotation_of("timestamp", "timestamp", "timestamp-2", "EMERGENCY"),
        compromised=("timestamp",),
        reason="stolen",
    )
    _, proposal = start_needs(world, wanted)
    assert state(world, "timestamp") is KeyState.COMPROMISED
    with pytest.raises(ApprovalRequired):
        author.sign("timestamp", "timestamp", author.timestamp(2))
    officers.approve(proposal, "bob", "carol")
    digest = planning.plan(world, ADMIN, wanted).digest
    name = starting.start(world, ADMIN, wanted, digest, grace_s=0).rotation.name
    (root,) = go_on(world, name).progress.proposals
    officers.approve(root, "alice", "bob")
    assert go_on(world, name).progress.rotation.state is RotationState.READY


# --- stolen keys, driven-up versions, expiry -----------------------------------------------------


def test_a_stolen_delegated_key(world: World, author: Author, tmp_path: Path) -> None:
    author.keys["team"] = make_key(world, "team")
    author.sign("targets", "targets", author.delegating(2, team=(1, ["team"])))
    author.sign("team", "team", author.targets())
    author.sign("snapshot", "snapshot", author.snapshot(2, targets=2, team=1))
    author.sign("timestamp", "timestamp", author.timestamp(2, 2))
    wanted = replace(
        rotation_of("team", "team", "team-2", "EMERGENCY"),
        compromised=("team",),
        reason="stolen",
    )
    exposed = planning.plan(world, ADMIN, wanted).exposed
    assert [(name, version.role, version.version) for name, version in exposed] == [
        ("team", "team", 1)
    ]
    went = carry_out(world, wanted)
    assert signed_roles(world, went.progress.rotation.name) == [
        "targets",
        "team",
        "snapshot",
        "timestamp",
    ]
    assert state(world, "team") is KeyState.COMPROMISED
    sound(world, tmp_path)


def test_driven_up_versions_go_on_lower(world: World, author: Author, tmp_path: Path) -> None:
    for version in (100, 200):
        author.sign("timestamp", "timestamp", author.timestamp(version))
    wanted = replace(
        rotation_of("timestamp", "timestamp", "timestamp-2", "FAST_FORWARD"),
        lower={"timestamp": 5},
    )
    carry_out(world, wanted)
    role = world.ledger.read(lambda view: view.role("demo", "timestamp"))
    assert role is not None
    assert (role.epoch, role.high_water, role.trusted_version) == (1, 5, 5)
    author.keys["timestamp-2"] = make_key_known(world, "timestamp-2")
    author.sign("timestamp-2", "timestamp", author.timestamp(6))
    sound(world, tmp_path)


def test_a_recovery_goes_on_with_the_content_below(
    world: World, author: Author, tmp_path: Path
) -> None:
    """What the attacker signed is trusted by the ledger, and must not be what comes back."""
    good = author.targets(2, targets={"good": {"length": 1, "hashes": {"sha256": "0" * 64}}})
    evil = author.targets(90, targets={"evil": {"length": 1, "hashes": {"sha256": "1" * 64}}})
    for listed, (version, payload) in enumerate(((2, good), (90, evil)), start=2):
        author.sign("targets", "targets", payload)
        author.sign("snapshot", "snapshot", author.snapshot(listed, targets=version))
        author.sign("timestamp", "timestamp", author.timestamp(listed, listed))
    wanted = replace(
        rotation_of("targets", "targets", "targets-2", "FAST_FORWARD"), lower={"targets": 3}
    )
    wanted = replace(
        wanted, roles=(*wanted.roles, rotation_of("snapshot", "snapshot", "snapshot-2").roles[0])
    )
    planned = planning.plan(world, ADMIN, wanted)
    assert any("with the content of targets 2" in line for line in planned.lines)
    far = planning.plan(world, ADMIN, replace(wanted, lower={"targets": 1}))
    assert "RECOVERY_CONTENT_NEWEST" in [found.reason for found in far.findings]
    name = carry_out(world, wanted).progress.rotation.name
    files = {f.role: f for f in world.ledger.read(lambda view: view.rotation_files(name))}
    content = json.loads(files["targets"].content or b"")["signed"]
    assert (content["version"], set(content["targets"])) == (3, {"good"})
    lowered = world.ledger.read(lambda view: view.role("demo", "targets"))
    assert lowered is not None
    assert (lowered.epoch, lowered.high_water) == (1, 3)
    sound(world, tmp_path)


def make_key_known(world: World, name: str) -> Key:
    key = world.ledger.read(lambda view: view.key(name))
    assert key is not None
    return key


def test_root_is_renewed_without_a_change_of_keys(
    world: World, author: Author, tmp_path: Path
) -> None:
    wanted = Wanted("RENEW_ROOT", "demo", root_lifetime_s=390 * 86_400)
    went = carry_out(world, wanted)
    assert signed_roles(world, went.progress.rotation.name) == ["root"]
    sound(world, tmp_path)


def test_a_rotation_is_given_up_before_anything_is_trusted(
    world: World, author: Author, tmp_path: Path
) -> None:
    name = begin(world, rotation_of("timestamp", "timestamp", "timestamp-2"))
    ended = starting.cancel(world, ADMIN, name, "wrong token")
    assert ended.rotation.state is RotationState.CANCELLED
    carry_out(world, rotation_of("timestamp", "timestamp", "timestamp-3"))
    sound(world, tmp_path)


def test_nothing_is_given_up_once_it_is_trusted(world: World, author: Author) -> None:
    went = carry_out(world, rotation_of("timestamp", "timestamp", "timestamp-2"))
    with pytest.raises(PolicyViolation, match="ROTATION_ENDED"):
        starting.cancel(world, ADMIN, went.progress.rotation.name, "")


def test_a_shared_key_leaves_both_roles(world: World, author: Author, tmp_path: Path) -> None:
    add = rotation_of("timestamp", "timestamp", "online").roles[0].add
    shared = Wanted(
        "SHARED_ONLINE",
        "demo",
        (WantedRole("snapshot", add, ("*",)), WantedRole("timestamp", add, ("*",))),
    )
    went = carry_out(world, shared)
    assert signed_roles(world, went.progress.rotation.name) == ["root", "snapshot", "timestamp"]
    carry_out(world, rotation_of("snapshot", "online", "snapshot-2"))
    assert isinstance(world.clock, TestClock)
    world.clock.advance(hours=2)
    retiring.retire_due(world)
    assert state(world, "online") is KeyState.ACTIVE, "timestamp still lists it"
    sound(world, tmp_path)


def test_a_key_that_leaves_and_enters_goes_on(world: World, author: Author, tmp_path: Path) -> None:
    """What the plan says of it is so: nothing retires it, and it is listed once."""
    went = carry_out(world, rotation_of("timestamp", "timestamp", "timestamp"))
    assert [step.role for step in went.progress.steps if step.role] == ["root", "timestamp"]
    assert isinstance(world.clock, TestClock)
    world.clock.advance(hours=2)
    assert retiring.retire_due(world) == 1
    assert state(world, "timestamp") is KeyState.ACTIVE
    carry_out(world, rotation_of("timestamp", "timestamp", "timestamp-2"))
    sound(world, tmp_path)


def test_somebody_who_publishes_meanwhile_is_not_overwritten(
    world: World, author: Author, tmp_path: Path
) -> None:
    name = begin(world, rotation_of("targets", "targets", "targets-2"))
    went = go_on(world, name)
    assert went.progress.rotation.state is RotationState.READY
    author.sign("timestamp", "timestamp", author.timestamp(3, 2))
    went = go_on(world, name)
    assert went.done[0] == "signed timestamp 4"
    assert went.progress.rotation.state is RotationState.READY
    sound(world, tmp_path)


# --- release and receipts ------------------------------------------------------------------------


class Refusing:
    """A rehearsal in which one client does not arrive."""

    def rehearse(self, play: Play) -> tuple[Act, ...]:
        return (Act("a client", must_reach=True, reached=False, said="it is lost"),)


def test_nothing_is_released_that_a_client_refuses(world: World, author: Author) -> None:
    name = begin(world, rotation_of("timestamp", "timestamp", "timestamp-2"))
    with pytest.raises(PolicyViolation, match=r"REHEARSAL_FAILED.*it is lost"):
        go_on(replace(world, rehearsal=Refusing()), name)
    with pytest.raises(PolicyViolation, match="ROTATION_NOT_READY"):
        advancing.released_files(world, ADMIN, name)
    assert go_on(world, name).progress.rotation.state is RotationState.READY
    files = advancing.released_files(world, ADMIN, name)
    assert [file.role for file in files] == ["root", "timestamp"]


def test_a_receipt_is_for_one_reservation_of_one_log(world: World, author: Author) -> None:
    name = begin(world, rotation_of("root", "root-1", "root-4"))
    go_on(world, name)
    genuine = advancing.receipt(world, ADMIN, name, "root", timeout_s=TIMEOUT_S)
    root = json.loads(genuine.payload, strict=False)
    keyid = root["roles"]["root"]["keyids"][0]
    envelope = dsse.decode(genuine.receipt)
    statement = envelope.payload.replace(b'"version":2', b'"version":3')
    forged = dsse.encode(replace(envelope, payload=statement))
    advancing.confirm_published(world, ADMIN, name)
    other = begin(world, rotation_of("root", "root-2", "root-5"))
    go_on(world, other)
    for receipt in (genuine.receipt, forged):
        with pytest.raises(PolicyViolation, match="RECEIPT_INVALID"):
            advancing.upload(
                world, ADMIN, other, receipt=receipt, keyid=keyid, signature=b"anything"
            )
    mine = advancing.receipt(world, ADMIN, other, "root", timeout_s=TIMEOUT_S)
    for wrong, reason in ((keyid, "SIGNATURE_INVALID"), ("0" * 64, "KEY_NOT_IN_ROLE")):
        with pytest.raises(KeydError, match=reason):
            advancing.upload(
                world, ADMIN, other, receipt=mine.receipt, keyid=wrong, signature=b"anything"
            )
