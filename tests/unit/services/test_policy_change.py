"""Policy files once there are officers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from keyd.config.policy_file import parse_policy
from keyd.daemon.policy_source import policy_to_start_with, take_policy
from keyd.domain.operations import AcceptPolicy, StartRotation
from keyd.domain.policy import Policy
from keyd.domain.rotation.changes import ChangeSet, RotationKind
from keyd.domain.rotation.plan import Plan
from keyd.errors import KeydError
from keyd.services.repositories import bootstrap
from keyd.services.world import World
from tests.officers import approve, carry_out, enrol, person, propose
from tests.worlds import ADMIN, FixedPolicy, allow_all, make_key, open_world

PATH = Path("policy.toml")
GRANT = """
[[grant]]
name = "g"
principals = ["unix:admin"]
methods = ["KeyService.GetKey"]
keys = ["k"]
"""
WIDER = GRANT.replace('keys = ["k"]', "any_key = true")
GUARDED = (
    GRANT
    + """
[[quorum]]
name = "targets"
methods = ["SigningService.SignMetadata"]
any_repository = true
roles = ["targets"]
any_key = true
officers = 2
"""
)
LONE = GUARDED.replace('"targets"', '"lone"', 1).replace("officers = 2", "officers = 1")
LONE_ROOT = LONE.replace('roles = ["targets"]', "any_role = true")
LONE_VOID = LONE_ROOT.replace("any_key = true\n", "").replace(
    "SigningService.SignMetadata", "RepositoryService.VoidReservation"
)
LONE_START = (
    GRANT
    + """
[[quorum]]
name = "lone"
methods = ["RotationService.StartRotation"]
repositories = ["demo"]
officers = 1
"""
)
ANN, BEN, CAT = person("ann", "qa"), person("ben"), person("cat", "qa")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return open_world(tmp_path)


def take(world: World, text: str) -> Policy:
    policy = parse_policy(text.encode(), PATH)
    take_policy(world.ledger, world.clock, policy, text.encode(), PATH)
    return policy


def under(world: World, text: str) -> World:
    """The same world, in which the quorum rules of a file are in force already."""
    policy = allow_all(ADMIN.principal)
    quorums = parse_policy(text.encode(), PATH).quorums
    return replace(world, policy=FixedPolicy(replace(policy, quorums=quorums)))


def refused(world: World, text: str) -> str:
    with pytest.raises(KeydError) as caught:
        take(world, text)
    return caught.value.reason


def test_without_officers_every_file_is_taken(world: World) -> None:
    for text in (GUARDED, GRANT, WIDER):
        take(world, text)


def test_files_that_loosen_wait_for_officers(world: World) -> None:
    take(world, GRANT)
    enrol(world, ANN, BEN, CAT)
    take(world, GUARDED)
    weaker = GUARDED.replace("officers = 2", "officers = 1")
    narrower = GUARDED.replace('roles = ["targets"]', 'roles = ["snapshot"]')
    wider = GUARDED.replace('keys = ["k"]', "any_key = true")
    for text in (GRANT, weaker, narrower, wider):
        assert refused(world, text) == "POLICY_LOOSENED"
    take(world, GUARDED.replace("officers = 2", "officers = 3"))


def test_an_acceptance_is_good_for_one_change(world: World) -> None:
    take(world, GRANT)
    enrol(world, ANN, BEN, CAT)
    revision = parse_policy(WIDER.encode(), PATH).revision
    carry_out(world, AcceptPolicy(revision), ANN, CAT, payload=WIDER.encode())
    take(world, WIDER)
    take(world, GRANT)
    assert refused(world, WIDER) == "POLICY_LOOSENED"


def test_rules_that_nobody_could_satisfy_are_refused(world: World) -> None:
    take(world, GRANT)
    enrol(world, ANN, BEN, CAT)
    many = GUARDED.replace("officers = 2", "officers = 4")
    assert refused(world, many) == "QUORUM_UNREACHABLE"
    grouped = GUARDED + "groups = { ops = 1 }\n"
    assert refused(world, grouped) == "QUORUM_UNREACHABLE"
    escape = """
[[quorum]]
name = "officers"
methods = ["OfficerService.ChangeOfficers"]
officers = 3
"""
    assert refused(world, GRANT + escape) == "QUORUM_WITHOUT_RESERVE"


@pytest.mark.parametrize(
    "text",
    [
        LONE_ROOT,
        LONE_START,
        LONE.replace('roles = ["targets"]', 'roles = ["root"]\nany_delegated_role = true'),
        LONE_VOID,
    ],
    ids=["any role", "rotations", "root", "voids"],
)
def test_a_rule_that_seems_to_let_one_person_decide_on_root_is_refused(
    world: World, text: str
) -> None:
    """Before the first officers are enrolled as well as afterwards."""
    with pytest.raises(KeydError, match="QUORUM_WITHOUT_EFFECT"):
        enrol(under(world, text), ANN, BEN, CAT)
    take(world, GRANT)
    enrol(world, ANN, BEN, CAT)
    with pytest.raises(KeydError, match=r"'lone' \(line 8\).*officers = 2") as caught:
        take(world, text)
    assert caught.value.reason == "QUORUM_WITHOUT_EFFECT"
    assert len(take(world, text.replace("officers = 1", "officers = 2")).quorums) == 1


@pytest.mark.parametrize(
    "text",
    [
        LONE,
        LONE_ROOT.replace("any_repository = true", 'repositories = ["trial"]'),
        LONE_ROOT + "groups = { qa = 1 }\n",
    ],
    ids=["other roles", "a development repository", "a group"],
)
def test_one_officer_may_be_asked_where_that_has_an_effect(world: World, text: str) -> None:
    make_key(world, "root-d")
    bootstrap(
        world,
        ADMIN,
        name="trial",
        root_keys=["root-d"],
        foreign_keys=[],
        threshold=1,
        development=True,
    )
    take(world, GRANT)
    enrol(world, ANN, BEN, CAT)
    assert len(take(world, text).quorums) == 1


def test_the_base_rule_stands_whatever_the_policy_asks(world: World) -> None:
    """A file that was in force before such lines were refused lets nobody decide alone."""
    enrol(world, ANN, BEN, CAT)
    old = under(world, LONE_START)
    plan = Plan(ChangeSet(RotationKind.TIMESTAMP, "demo"), (), (), (), ())
    shown = approve(old, propose(old, StartRotation("demo", plan.digest), plan.raw), ANN)
    assert [tally.missing for tally in shown.standing.tallies] == [0, 1]
    assert not shown.standing.approved
    assert approve(old, shown, BEN).standing.approved


def test_a_start_holds_on_to_the_last_accepted_file(world: World, tmp_path: Path) -> None:
    held = take(world, GRANT)
    enrol(world, ANN, BEN, CAT)
    path = tmp_path / "policy.toml"
    path.write_text(WIDER)
    assert policy_to_start_with(path, world.ledger, world.clock) == held
    path.write_text(GUARDED)
    assert len(policy_to_start_with(path, world.ledger, world.clock).quorums) == 1


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('name = "targets"', 'name = "base"', "NAME_INVALID"),
        ('"SigningService.SignMetadata"', '"KeyService.ListKeys"', "QUORUM_NOT_ASKED"),
        ("officers = 2", "officers = 2\ngroups = { qa = 3 }", "QUORUM_CONTRADICTORY"),
        ('roles = ["targets"]\n', "", "SCOPE_MISSING"),
        ("[[quorum]]", "[quorum]", "QUORUM_SHAPE"),
    ],
)
def test_rules_that_mean_nothing_are_refused(old: str, new: str, reason: str) -> None:
    with pytest.raises(KeydError) as caught:
        parse_policy(GUARDED.replace(old, new).encode(), PATH)
    assert reason in {finding.reason for finding in caught.value.findings}
