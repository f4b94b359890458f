"""Ways around the officers that must stay closed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from keyd.domain import canonical
from keyd.domain.keys import KeyState
from keyd.domain.operations import SignMetadata
from keyd.domain.payload import parse
from keyd.domain.policy import Grant, Policy, Quorum
from keyd.domain.quorum import QuorumRule
from keyd.errors import ApprovalRequired
from keyd.ledger.verification.verify import verify_ledger
from keyd.services.rotation import planning, starting
from keyd.services.rotation.wanted import Wanted, WantedKey, WantedRole
from keyd.services.world import World
from tests.officers import approve, enrol, person, propose
from tests.worlds import ADMIN, SIGNER, Author, active_author, allow_all, open_world

ANN, BEN, CAT = person("ann"), person("ben"), person("cat")


def guarded(method: str, key: str) -> Policy:
    """Everything is granted; one call with one key needs two officers."""
    policy = allow_all(ADMIN.principal, SIGNER.principal)
    scope = Grant(
        name="guarded",
        line=9,
        principals=frozenset(),
        methods=frozenset({method}),
        any_repository=True,
        any_role=True,
        keys=frozenset({key}),
    )
    return replace(policy, quorums=(Quorum(QuorumRule("guarded", 2), scope),))


def world_of(directory: Path, method: str, key: str) -> tuple[World, Author]:
    world = open_world(directory, policy=guarded(method, key), development=True)
    author = active_author(world)
    enrol(world, ANN, BEN, CAT)
    return world, author


def test_a_key_that_needs_officers_needs_them_as_second_signer(tmp_path: Path) -> None:
    """Another key of the role binds the version; the rule that names this one was not asked."""
    world, author = world_of(tmp_path, "SigningService.SignMetadata", "root-3")
    root = author.root(2)
    confirmed = author.change_digest(root)
    raw = canonical.encode(root)
    digest = parse(raw, max_bytes=10**6).digest
    operation = SignMetadata("demo", "root", 0, 2, digest)
    shown = approve(world, propose(world, operation, raw), ANN, BEN)
    assert "guarded" in {each.rule.name for each in shown.standing.tallies}
    author.sign("root-1", "root", root, confirmed_change=confirmed)
    assert author.sign("root-3", "root", root, confirmed_change=confirmed).missing == 0


def test_a_named_key_is_not_joined_unasked(tmp_path: Path) -> None:
    world = open_world(tmp_path, policy=guarded("SigningService.SignMetadata", "root-3"))
    author = active_author(world)
    root = author.root(2)
    confirmed = author.change_digest(root)
    # Nobody guards root yet: the first key is free, the named one is not.
    author.sign("root-1", "root", root, confirmed_change=confirmed)
    with pytest.raises(ApprovalRequired):
        author.sign("root-3", "root", root, confirmed_change=confirmed)
    enrol(world, ANN, BEN, CAT)
    raw = canonical.encode(root)
    operation = SignMetadata("demo", "root", 0, 2, parse(raw, max_bytes=10**6).digest)
    approve(world, propose(world, operation, raw), ANN, BEN)
    assert author.sign("root-3", "root", root, confirmed_change=confirmed).missing == 0
    world.ledger.close()
    report = verify_ledger(tmp_path / "ledger", anchor=tmp_path / "anchor")
    assert report.sound, report.flaws


def test_an_emergency_asks_those_who_guard_the_mark(tmp_path: Path) -> None:
    """Starting a rotation marks keys: it is no way around the rule for marking them."""
    world, _ = world_of(tmp_path, "KeyService.MarkKeyCompromised", "timestamp")
    change = WantedRole("timestamp", (WantedKey("timestamp-2", "soft", "ed25519"),), ("timestamp",))
    wanted = Wanted("EMERGENCY", "demo", (change,), compromised=("timestamp",), reason="stolen")
    planned = planning.plan(world, ADMIN, wanted)
    with pytest.raises(ApprovalRequired):
        starting.start(world, ADMIN, wanted, planned.digest, grace_s=0)
    key = world.ledger.read(lambda view: view.key("timestamp"))
    assert key is not None
    assert key.state is KeyState.ACTIVE
