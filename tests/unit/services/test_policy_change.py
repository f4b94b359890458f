"""Policy files once there are officers."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyd.config.policy_file import parse_policy
from keyd.daemon.policy_source import policy_to_start_with, take_policy
from keyd.domain.operations import AcceptPolicy
from keyd.domain.policy import Policy
from keyd.errors import KeydError
from keyd.services.world import World
from tests.officers import carry_out, enrol, person
from tests.worlds import open_world

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
ANN, BEN, CAT = person("ann"), person("ben"), person("cat")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return open_world(tmp_path)


def take(world: World, text: str) -> Policy:
    policy = parse_policy(text.encode(), PATH)
    take_policy(world.ledger, world.clock, policy, text.encode(), PATH)
    return policy


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
    carry_out(world, AcceptPolicy(revision), ANN, CAT)
    take(world, WIDER)
    take(world, GRANT)
    assert refused(world, WIDER) == "POLICY_LOOSENED"


def test_rules_that_nobody_could_satisfy_are_refused(world: World) -> None:
    take(world, GRANT)
    enrol(world, ANN, BEN, CAT)
    many = GUARDED.replace("officers = 2", "officers = 4")
    assert refused(world, many) == "QUORUM_UNREACHABLE"
    grouped = GUARDED + "groups = { qa = 1 }\n"
    assert refused(world, grouped) == "QUORUM_UNREACHABLE"
    escape = """
[[quorum]]
name = "officers"
methods = ["OfficerService.ChangeOfficers"]
officers = 3
"""
    assert refused(world, GRANT + escape) == "QUORUM_WITHOUT_RESERVE"


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
