"""Nobody proposes to officers what they cannot see."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from keyd.domain.operations import AcceptPolicy, Operation, SetBaseRule, StartRotation
from keyd.domain.rotation.changes import ChangeSet, RotationKind
from keyd.domain.rotation.plan import Plan
from keyd.domain.sizes import PAYLOAD_MAX_BYTES
from keyd.errors import InvalidRequest
from keyd.services.policy_change import TEXT
from keyd.services.world import World
from tests.officers import enrol, person, propose
from tests.worlds import FixedPolicy, open_world

PLAN = Plan(ChangeSet(RotationKind.TIMESTAMP, "demo"), (), (), (), ())
POLICY = b"# nobody may do anything\n"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def world(tmp_path: Path) -> World:
    opened = open_world(tmp_path)
    enrol(opened, person("ann"), person("ben"), person("cat"))
    return opened


START, ACCEPT = StartRotation("demo", PLAN.digest), AcceptPolicy(sha256(POLICY))
LARGE = b"#" * (PAYLOAD_MAX_BYTES + 1)


@pytest.mark.parametrize(
    ("operation", "payload", "reason"),
    [
        (START, b"", "PAYLOAD_MISSING"),
        (ACCEPT, b"", "PAYLOAD_MISSING"),
        (START, PLAN.raw + b" ", "PAYLOAD_CHECKSUM_MISMATCH"),
        (ACCEPT, POLICY + b" ", "PAYLOAD_CHECKSUM_MISMATCH"),
        (AcceptPolicy(sha256(LARGE)), LARGE, "PAYLOAD_TOO_LARGE"),
        (StartRotation("demo", sha256(b"{}")), b"{}", "PLAN_UNREADABLE"),
        (StartRotation("other", PLAN.digest), PLAN.raw, "PLAN_UNREADABLE"),
        (SetBaseRule(2), POLICY, "PAYLOAD_UNEXPECTED"),
    ],
)
def test_bytes_must_be_those_that_the_operation_names(
    world: World, operation: Operation, payload: bytes, reason: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        propose(world, operation, payload)
    assert caught.value.reason == reason


@pytest.mark.parametrize(("operation", "payload"), [(START, PLAN.raw), (ACCEPT, POLICY)])
def test_what_officers_must_see_is_kept(world: World, operation: Operation, payload: bytes) -> None:
    held = propose(world, operation, payload).proposal
    assert held.payload == payload
    assert held.payload_sha256 == sha256(payload)


def test_what_is_open_is_found_without_its_bytes_but_not_with_others(world: World) -> None:
    made = propose(world, START, PLAN.raw).proposal
    assert propose(world, START).proposal == made
    assert propose(world, START, PLAN.raw).proposal == made
    with pytest.raises(InvalidRequest, match="PAYLOAD_CHECKSUM_MISMATCH"):
        propose(world, START, PLAN.raw + b" ")


def test_a_policy_is_handed_out_with_the_one_in_force(world: World) -> None:
    in_force = b"# in force\n"
    world.ledger.transact(lambda tx: tx.put_setting(TEXT, in_force.decode()))
    assert propose(world, ACCEPT, POLICY).trusted == b"", "another one is in force"
    policy = replace(world.policy.current(), revision=sha256(in_force))
    held = replace(world, policy=FixedPolicy(policy))
    assert propose(held, ACCEPT, POLICY).trusted == in_force
