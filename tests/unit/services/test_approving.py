"""Root metadata and other operations that wait for two of three officers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from keyd.domain import canonical, operations, public_keys
from keyd.domain.keys import KeySpec, KeyState, Scheme
from keyd.domain.operations import (
    ChangeKeyState,
    SetRoleRules,
    SignMetadata,
    VoidReservation,
)
from keyd.domain.payload import parse
from keyd.domain.policy import Caller
from keyd.domain.records_quorum import ProposalState
from keyd.domain.rule_levels import rules_text
from keyd.domain.trust import EXPIRY_MAX_S, RoleRules, default_rules
from keyd.errors import KeydError
from keyd.ledger.verification.verify import verify_ledger
from keyd.services import proposals
from keyd.services.keys import change_state
from keyd.services.released import Released
from keyd.services.repositories import set_role_rules
from keyd.services.world import World
from tests.authors import Signed
from tests.fakes import TestClock, new_private_key, public_der
from tests.officers import approve, carry_out, enrol, execute, person, propose, reject
from tests.worlds import ADMIN, SIGNER, Author, active_author, allow_all, make_key, open_world

ANN, BEN, CAT = person("ann", principals=["unix:ann"]), person("ben"), person("cat")
ANN_CALLS = Caller("unix:ann", local_admin=False)


@pytest.fixture
def clock() -> TestClock:
    return TestClock()


@pytest.fixture
def world(tmp_path: Path, clock: TestClock) -> World:
    everybody = allow_all(ADMIN.principal, SIGNER.principal, "unix:ann")
    return open_world(tmp_path, clock=clock, policy=everybody)


@pytest.fixture
def author(world: World) -> Author:
    """A repository, and two of three officers who guard it."""
    made = active_author(world)
    enrol(world, ANN, BEN, CAT)
    return made


def signing(signed: Signed) -> tuple[SignMetadata, bytes]:
    raw = canonical.encode(signed)
    digest = parse(raw, max_bytes=10**6).digest
    return SignMetadata("demo", "root", 0, signed["version"], digest), raw


def refused(reason: str, call: object, *args: object, **kwargs: object) -> KeydError:
    assert callable(call)
    with pytest.raises(KeydError) as caught:
        call(*args, **kwargs)
    assert caught.value.reason == reason, caught.value
    return caught.value


def sign_root(author: Author, key: str, root: Signed) -> Released:
    return author.sign(key, "root", root, confirmed_change=author.change_digest(root))


def test_root_waits_for_two_officers(world: World, author: Author) -> None:
    root = author.root(2)
    operation, raw = signing(root)
    before = refused("APPROVAL_REQUIRED", sign_root, author, "root-1", root)
    assert before.details["proposal"] == ""
    shown = propose(world, operation, raw)
    name = shown.proposal.name
    assert refused("APPROVAL_REQUIRED", sign_root, author, "root-1", root).details["proposal"] == (
        name
    )
    shown = approve(world, shown, ANN)
    assert [each.missing for each in shown.standing.tallies] == [1]
    refused("APPROVAL_REQUIRED", sign_root, author, "root-1", root)
    approve(world, shown, CAT)
    # Another payload of the same version is not what they approved.
    other = {**root, "expires": "2031-06-02T00:00:00Z"}
    refused("APPROVAL_REQUIRED", sign_root, author, "root-1", other)
    sign_root(author, "root-1", root)
    assert proposals.get(world, ADMIN, name).proposal.state is ProposalState.EXECUTED
    # Further signers join the reservation without asking anybody again.
    assert sign_root(author, "root-2", root).missing == 0
    refused("APPROVAL_REQUIRED", sign_root, author, "root-1", author.root(3))


def test_other_roles_and_development_ask_nobody(world: World, author: Author) -> None:
    author.sign("timestamp", "timestamp", author.timestamp(2))
    operation, raw = signing(author.timestamp(3))
    refused("NO_QUORUM_NEEDED", propose, world, replace(operation, role="timestamp"), raw)


def test_the_proposer_does_not_count(world: World, author: Author) -> None:
    operation, raw = signing(author.root(2))
    shown = propose(world, operation, raw, ANN_CALLS)
    assert shown.proposal.officer == "ann"
    refused("PROPOSER_CANNOT_APPROVE", approve, world, shown, ANN)
    assert not approve(world, shown, BEN).standing.approved
    assert approve(world, shown, CAT).standing.approved


def test_the_same_operation_is_proposed_once(world: World, author: Author) -> None:
    operation, raw = signing(author.root(2))
    first = propose(world, operation, raw)
    assert propose(world, operation, raw, SIGNER).proposal == first.proposal


def test_a_rejection_ends_what_the_others_cannot_carry(world: World, author: Author) -> None:
    operation, raw = signing(author.root(2))
    shown = propose(world, operation, raw)
    assert reject(world, shown, ANN).proposal.state is ProposalState.OPEN
    assert reject(world, shown, BEN).proposal.state is ProposalState.REJECTED
    refused("PROPOSAL_DECIDED", approve, world, shown, CAT)
    refused("APPROVAL_REQUIRED", execute, world, ADMIN, shown.proposal.name)
    assert propose(world, operation, raw).proposal.name != shown.proposal.name


def test_expired_proposals_are_closed_by_the_next(
    world: World, author: Author, clock: TestClock
) -> None:
    operation, raw = signing(author.root(2))
    old = approve(world, propose(world, operation, raw), ANN, BEN)
    clock.advance(hours=2)
    root = author.root(2)
    refused("APPROVAL_REQUIRED", sign_root, author, "root-1", root)
    new = propose(world, *signing(root))
    assert new.proposal.name != old.proposal.name
    closed = proposals.get(world, ADMIN, old.proposal.name).proposal
    assert closed.state is ProposalState.CANCELLED


def test_rules_whose_latest_expiry_is_no_time_are_refused(world: World, author: Author) -> None:
    rules = replace(default_rules("targets"), expiry_max_s=EXPIRY_MAX_S + 1)
    refused(
        "RULES_INVALID", set_role_rules, world, ADMIN, "demo", "targets", rules=rules, comment=""
    )


def test_only_loosening_rules_need_officers(world: World, author: Author) -> None:
    rules = default_rules("targets")
    tighter = replace(rules, expiry_max_s=rules.expiry_max_s - 1)
    looser = replace(rules, expiry_max_s=rules.expiry_max_s + 1)

    def put(levels: RoleRules) -> object:
        return set_role_rules(
            world, ADMIN, repository="demo", role="targets", rules=levels, comment=""
        )

    put(tighter)
    refused("APPROVAL_REQUIRED", put, looser)
    carry_out(world, SetRoleRules("demo", "targets", rules_text(looser)), BEN, CAT)
    found = world.ledger.read(lambda view: view.role("demo", "targets"))
    assert found is not None
    assert found.rules == looser


def test_a_retired_key_comes_back_by_quorum_only(world: World, author: Author) -> None:
    key = make_key(world, "spare")
    for state in (KeyState.DEACTIVATED, KeyState.ACTIVE):
        call = (world, ADMIN, "KeyService.ResumeKey", "spare")
        if state is KeyState.ACTIVE:
            refused("KEY_STATE_TRANSITION", change_state, *call, new=state, comment="")
        else:
            change_state(*call, new=state, comment="")
    carry_out(world, ChangeKeyState("spare", key.fingerprint, "DEACTIVATED", "ACTIVE"), ANN, BEN)
    found = world.ledger.read(lambda view: view.key("spare"))
    assert found is not None
    assert found.state is KeyState.ACTIVE


def test_marking_a_key_compromised_waits_for_nobody(world: World, author: Author) -> None:
    change_state(
        world,
        ADMIN,
        "KeyService.MarkKeyCompromised",
        "timestamp",
        new=KeyState.COMPROMISED,
        comment="stolen",
    )


# --- voided reservations --------------------------------------------------------------------------


def void_of(root: Signed) -> VoidReservation:
    operation, _ = signing(root)
    return VoidReservation("demo", "root", 0, root["version"], operation.payload_sha256, 0)


def approved_root(world: World, author: Author, root: Signed, *keys: str) -> None:
    approve(world, propose(world, *signing(root)), ANN, BEN)
    for key in keys:
        sign_root(author, key, root)


def test_a_root_below_its_threshold_is_voided_and_made_anew(
    world: World, author: Author, tmp_path: Path
) -> None:
    wrong = author.root(2)
    approved_root(world, author, wrong, "root-1")
    right = {**wrong, "expires": "2031-06-02T00:00:00Z"}
    refused("VERSION_ALREADY_SIGNED_DIFFERENTLY", sign_root, author, "root-1", right)
    carry_out(world, void_of(wrong), BEN, CAT)
    refused("APPROVAL_REQUIRED", sign_root, author, "root-2", wrong)
    approved_root(world, author, right, "root-1", "root-2")
    approved_root(world, author, author.root(3, days=370), "root-1", "root-2")
    world.ledger.close()
    report = verify_ledger(tmp_path / "ledger", anchor=tmp_path / "anchor")
    assert report.flaws == []
    again = open_world(tmp_path)
    assert again.ledger.refusal() is None
    again.ledger.close()


def test_what_reached_a_threshold_is_never_voided(world: World, author: Author) -> None:
    """Neither proposed nor, where the signature came after the approval, executed."""
    root = author.root(2)
    approved_root(world, author, root, "root-1")
    shown = approve(world, propose(world, void_of(root)), ANN, BEN)
    sign_root(author, "root-2", root)
    refused("VOID_AT_THRESHOLD", execute, world, ADMIN, shown.proposal.name)
    refused("VOID_AT_THRESHOLD", propose, world, replace(void_of(root), elsewhere=1))


def test_keys_held_elsewhere_may_have_signed_what_is_voided(world: World, author: Author) -> None:
    """Their holders alone know: officers have to say how many they asked."""
    cards = [new_private_key(KeySpec(Scheme.ED25519)) for _ in range(2)]
    keys = [public_keys.tuf_key(public_der(card), Scheme.ED25519) for card in cards]
    moved = author.root(2)
    moved["keys"] |= dict(keys)
    moved["roles"]["root"]["keyids"] += [keyid for keyid, _ in keys]
    approved_root(world, author, moved, "root-1", "root-2")
    wrong = {**moved, "version": 3, "expires": "2031-06-02T00:00:00Z"}
    approved_root(world, author, wrong, "root-1")
    refused("VOID_ELSEWHERE", propose, world, void_of(wrong))
    shown = propose(world, replace(void_of(wrong), elsewhere=2))
    assert (
        "2 keys held elsewhere or stolen may have signed it"
        in operations.decode(shown.proposal.operation).words()
    )
    approve(world, shown, ANN, BEN)
    execute(world, ADMIN, shown.proposal.name)
    approved_root(world, author, {**wrong, "expires": "2031-06-03T00:00:00Z"}, "root-1", "root-2")


def test_a_stolen_key_may_have_signed_what_is_voided(world: World, author: Author) -> None:
    """Its thief needs only the signature that is recorded here, which callers may read."""
    wrong = author.root(2)
    approved_root(world, author, wrong, "root-1")
    condemn = "KeyService.MarkKeyCompromised"
    change_state(world, ADMIN, condemn, "root-2", new=KeyState.COMPROMISED, comment="stolen")
    refused("VOID_ELSEWHERE", propose, world, void_of(wrong))
    propose(world, replace(void_of(wrong), elsewhere=1))


def test_one_signature_that_is_enough_is_never_voided(world: World, author: Author) -> None:
    author.sign("timestamp", "timestamp", author.timestamp(2))
    found = world.ledger.read(lambda view: view.reservation("demo", "timestamp", 0, 2))
    assert found is not None
    operation = VoidReservation("demo", "timestamp", 0, 2, found.digest, 0)
    refused("VOID_THRESHOLD_ONE", propose, world, operation)
