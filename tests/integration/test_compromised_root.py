"""Of a root of two of three, one key is lost and one is in other hands: the way out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from keyd.domain import operations
from keyd.domain.keys import KeyState
from keyd.domain.operations import Operation, UseCompromisedKey
from keyd.domain.records_rotation import RotationState
from keyd.errors import ApprovalRequired, PolicyViolation
from keyd.services import proposals
from keyd.services.audit import ensure_log_key
from keyd.services.rotation import planning, starting
from keyd.services.rotation.wanted import Wanted, WantedKey, WantedRole
from keyd.services.world import World
from tests.integration.rotating import go_on, state, world
from tests.officers import Person, approve, enrol, person
from tests.worlds import ADMIN, TIMEOUT_S, Author, active_author

__all__ = ["world"]

NEW = (WantedKey("root-4", "soft", "ed25519"), WantedKey("root-5", "soft", "ed25519"))
WANTED = Wanted(
    "EMERGENCY",
    "demo",
    (WantedRole("root", NEW, ("root-1", "root-2")),),
    compromised=("root-1",),
    reason="one stolen, one lost",
)


@pytest.fixture
def author(world: World) -> Author:
    ensure_log_key(world, "soft", TIMEOUT_S)
    return active_author(world)


@pytest.fixture
def people(world: World, author: Author) -> tuple[Person, ...]:
    found = tuple(person(name) for name in ("alice", "bob", "carol"))
    enrol(world, *found)
    return found


def put_state(world: World, name: str, state: KeyState) -> None:
    """A key as it is when its token is broken, or when it was destroyed."""
    key = world.ledger.read(lambda view: view.key(name))
    assert key is not None
    world.ledger.transact(lambda tx: tx.put_key(replace(key, state=state)))


def agree(world: World, name: str, people: tuple[Person, ...]) -> None:
    approve(world, proposals.get(world, ADMIN, name), *people[:2])


def operation(world: World, proposal: str) -> Operation:
    return operations.decode(proposals.get(world, ADMIN, proposal).proposal.operation)


def begun(world: World, people: tuple[Person, ...]) -> str:
    """The rotation, as far as the keys that are left bring it."""
    digest = planning.plan(world, ADMIN, WANTED).digest
    with pytest.raises(ApprovalRequired) as asked:
        starting.start(world, ADMIN, WANTED, digest, grace_s=3600)
    agree(world, asked.value.details["proposal"], people)
    digest = planning.plan(world, ADMIN, WANTED).digest
    name = starting.start(world, ADMIN, WANTED, digest, grace_s=3600).rotation.name
    (root,) = go_on(world, name).progress.proposals
    agree(world, root, people)
    return name


@pytest.mark.parametrize("lost", [KeyState.DESTROYED, KeyState.SUSPENDED])
def test_officers_let_the_stolen_key_sign_the_root_that_removes_it(
    world: World, people: tuple[Person, ...], lost: KeyState
) -> None:
    put_state(world, "root-2", lost)
    reasons = {found.reason for found in planning.plan(world, ADMIN, WANTED).findings}
    assert "ROOT_PARTLY_COMPROMISED" in reasons
    assert ("COMPROMISED_KEY_NEEDED" in reasons) is (lost is KeyState.DESTROYED)
    name = begun(world, people)
    waiting = go_on(world, name).progress
    assert waiting.rotation.state is RotationState.RUNNING
    (use,) = waiting.proposals
    wanted = operation(world, use)
    assert isinstance(wanted, UseCompromisedKey)
    assert wanted.key == "root-1"
    assert go_on(world, name).progress.proposals == (use,), "asked once"
    approve(world, proposals.get(world, ADMIN, use), people[0])
    with pytest.raises(ApprovalRequired):
        proposals.execute(world, ADMIN, use, timeout_s=TIMEOUT_S)
    assert go_on(world, name).progress.rotation.state is RotationState.RUNNING
    approve(world, proposals.get(world, ADMIN, use), people[1])
    assert go_on(world, name).progress.rotation.state is RotationState.RUNNING, "not carried out"
    proposals.execute(world, ADMIN, use, timeout_s=TIMEOUT_S)
    went = go_on(world, name)
    assert went.progress.rotation.state is RotationState.READY, went.progress
    assert state(world, "root-1") is KeyState.COMPROMISED


@pytest.mark.parametrize("other", [{"payload_sha256": "ab" * 32}, {"repository": "else"}])
def test_leave_is_for_one_payload(
    world: World, people: tuple[Person, ...], other: dict[str, str]
) -> None:
    put_state(world, "root-2", KeyState.SUSPENDED)
    name = begun(world, people)
    (use,) = go_on(world, name).progress.proposals
    wanted = operation(world, use)
    assert isinstance(wanted, UseCompromisedKey)
    shown = proposals.create(world, ADMIN, replace(wanted, **other), b"", 3600)
    agree(world, shown.proposal.name, people)
    proposals.execute(world, ADMIN, shown.proposal.name, timeout_s=TIMEOUT_S)
    still = go_on(world, name).progress
    assert still.rotation.state is RotationState.RUNNING
    assert still.proposals == (use,)
    found = world.ledger.read(lambda view: view.reservation("demo", "root", 0, 2))
    assert found is not None
    made = world.ledger.read(lambda view: {each.key for each in view.signatures(found)})
    assert made == {"root-3", "root-4", "root-5"}


def test_leave_for_a_key_that_is_not_compromised(world: World, people: tuple[Person, ...]) -> None:
    key = world.ledger.read(lambda view: view.key("root-1"))
    assert key is not None
    wish = UseCompromisedKey("demo", "root-1", key.fingerprint, "ab" * 32)
    name = proposals.create(world, ADMIN, wish, b"", 3600).proposal.name
    agree(world, name, people)
    with pytest.raises(PolicyViolation, match="KEY_CHANGED"):
        proposals.execute(world, ADMIN, name, timeout_s=TIMEOUT_S)


def test_nobody_to_ask(world: World, author: Author) -> None:
    put_state(world, "root-1", KeyState.COMPROMISED)
    root = author.root(2)
    with pytest.raises(ApprovalRequired, match="QUORUM_UNAVAILABLE"):
        author.sign("root-1", "root", root, confirmed_change=author.change_digest(root))
