"""Versions that are bound and miss signatures when a rotation begins: only root waits for its own.

The key that could complete them may be the one that has to go.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keyd.domain.keys import Key, KeyState
from keyd.domain.records import ReservationState
from keyd.domain.records_rotation import RotationState
from keyd.domain.tokens import TokenState
from keyd.errors import ApprovalRequired, BackendUnavailable, PolicyViolation
from keyd.rehearsal.stage import StockClients
from keyd.services import proposals
from keyd.services.audit import ensure_log_key
from keyd.services.rotation import planning, starting
from keyd.services.rotation.advancing import Went
from keyd.services.rotation.wanted import Wanted, WantedKey, WantedRole
from keyd.services.world import World
from tests.fakes import FakeTokens, SoftwareToken, TestClock
from tests.integration.rotating import begin, carry_out, go_on, rotation_of, sound, state
from tests.officers import approve, enrol, person
from tests.worlds import ADMIN, TIMEOUT_S, Author, active_author, make_key, open_world

OFFICERS = tuple(map(person, ("ann", "ben", "cat")))


@pytest.fixture
def away() -> SoftwareToken:
    return SoftwareToken("away", TestClock())


@pytest.fixture
def world(tmp_path: Path, away: SoftwareToken) -> Iterator[World]:
    """A repository, which is sound when the test is over."""
    clock = TestClock()
    opened = open_world(
        tmp_path, clock=clock, tokens=FakeTokens(SoftwareToken("soft", clock), away)
    )
    ensure_log_key(opened, "soft", TIMEOUT_S)
    yield replace(opened, rehearsal=StockClients())
    sound(opened, tmp_path)


@pytest.fixture
def author(world: World) -> Author:
    return active_author(world)


@pytest.fixture
def pending(world: World, author: Author, away: SoftwareToken) -> Author:
    """Timestamp 3 is bound, and its only key is on a token that went away before it signed."""
    author.keys["lost"] = make_key(world, "lost", token="away")
    carry_out(world, rotation_of("timestamp", "timestamp", "lost"))
    away.state = TokenState.OFFLINE
    with pytest.raises(BackendUnavailable):
        author.sign("lost", "timestamp", author.timestamp(3))
    assert reserved(world, "timestamp", 3) is ReservationState.RESERVED
    return author


def reserved(world: World, role: str, version: int) -> ReservationState | None:
    found = world.ledger.read(lambda view: view.reservation("demo", role, 0, version))
    return found.state if found else None


def trusted(world: World, role: str) -> int:
    found = world.ledger.read(lambda view: view.role("demo", role))
    return found.trusted_version if found else 0


def told(world: World, wanted: Wanted) -> list[tuple[str, str]]:
    return [(f.reason, f.severity.value) for f in planning.plan(world, ADMIN, wanted).findings]


def test_a_theft_ends_whatever_the_stolen_key_left_unsigned(
    world: World, pending: Author, away: SoftwareToken
) -> None:
    wanted = replace(
        rotation_of("timestamp", "lost", "fresh", "EMERGENCY"),
        compromised=("lost",),
        reason="stolen",
    )
    assert ("ROTATION_VERSION_PENDING", "warn") in told(world, wanted)
    went = carry_out(world, wanted)
    assert state(world, "lost") is KeyState.COMPROMISED
    [file] = [
        file
        for file in world.ledger.read(lambda view: view.rotation_files(went.progress.rotation.name))
        if file.role == "timestamp"
    ]
    assert file.version == 4

    away.state = TokenState.ONLINE
    with pytest.raises(ApprovalRequired):
        pending.sign("lost", "timestamp", pending.timestamp(3))
    assert reserved(world, "timestamp", 3) is ReservationState.RESERVED
    pending.keys["fresh"] = held(world, "fresh")
    assert pending.sign("fresh", "timestamp", pending.timestamp(5)).missing == 0


def test_a_key_that_comes_back_completes_nothing(
    world: World, pending: Author, away: SoftwareToken
) -> None:
    """It is in no list any more: clients of the new root do not ask for what it signs."""
    unsigned = pending.timestamp(3)
    carry_out(world, rotation_of("timestamp", "lost", "fresh"))
    away.state = TokenState.ONLINE
    assert pending.sign("lost", "timestamp", unsigned).missing > 0
    assert trusted(world, "timestamp") == 4
    assert ("ROTATION_VERSION_PENDING", "warn") not in told(
        world, rotation_of("timestamp", "fresh", "fresher")
    )


def test_a_version_that_others_complete_later_is_older(world: World, author: Author) -> None:
    keys = ["targets", "targets-b", "targets-c"]
    author.keys |= {key: make_key(world, key) for key in keys[1:]}
    author.publish_root(author.root(2, targets=(2, keys)), "root-1", "root-2")
    left = author.targets(2, targets={"new": {"length": 1, "hashes": {"sha256": "0" * 64}}})
    author.sign("targets", "targets", left)
    carry_out(world, rotation_of("targets", "targets-c", "targets-d"))
    assert author.sign("targets-b", "targets", left).missing == 0
    assert reserved(world, "targets", 2) is ReservationState.ACCEPTED
    assert trusted(world, "targets") == 3
    name = begin(world, rotation_of("targets", "targets-d", "targets-e"))
    assert go_on(world, name).progress.rotation.state is RotationState.READY
    assert trusted(world, "targets") == 4


def test_a_root_is_finished_first(world: World, author: Author) -> None:
    root = author.root(2)
    author.sign("root-1", "root", root, confirmed_change=author.change_digest(root))
    wanted = rotation_of("timestamp", "timestamp", "fresh")
    assert told(world, wanted) == [("ROTATION_VERSION_PENDING", "refuse")]
    digest = planning.plan(world, ADMIN, wanted).digest
    with pytest.raises(PolicyViolation, match="ROTATION_VERSION_PENDING"):
        starting.start(world, ADMIN, wanted, digest, grace_s=0)


def test_what_a_waiting_snapshot_lists_stays_listed(
    world: World, author: Author, away: SoftwareToken
) -> None:
    """Whoever completes it shows clients what no later snapshot may drop."""
    author.keys |= {key: make_key(world, key) for key in ("foo", "bar")}
    author.keys["snap"] = make_key(world, "snap", token="away")
    author.publish_root(author.root(2, snapshot=(1, ["snap"])), "root-1", "root-2")
    author.sign("targets", "targets", author.delegating(2, foo=(1, ["foo"])))
    author.sign("foo", "foo", author.targets(1))
    author.sign("snap", "snapshot", author.snapshot(2, targets=2, foo=1))
    author.sign("timestamp", "timestamp", author.timestamp(2, 2))
    author.sign("targets", "targets", author.delegating(3, foo=(1, ["foo"]), bar=(1, ["bar"])))
    author.sign("bar", "bar", author.targets(1))
    waiting = author.snapshot(3, targets=3, foo=1, bar=1)
    waits(away, lambda: author.sign("snap", "snapshot", waiting))
    wanted = rotation_of("foo", "foo", "foo-2", "DELEGATED")
    assert told(world, wanted) == [("ROTATION_VERSION_PENDING", "warn")]
    went = carry_out(world, wanted)
    made = released(world, went, "snapshot")
    assert (made["version"], listed(made)) == (4, {"targets": 4, "foo": 2, "bar": 1})
    assert author.sign("snap", "snapshot", waiting).missing == 0
    assert trusted(world, "snapshot") == 4


def test_a_waiting_timestamp_is_not_gone_back_behind(
    world: World, author: Author, away: SoftwareToken
) -> None:
    """Its key stays, so it may be completed any time, and refers to a newer snapshot."""
    author.keys["stays"] = make_key(world, "stays", token="away")
    author.publish_root(author.root(2, timestamp=(1, ["stays"])), "root-1", "root-2")
    author.sign("snapshot", "snapshot", author.snapshot(2))
    waiting = author.timestamp(2, snapshot=2)
    waits(away, lambda: author.sign("stays", "timestamp", waiting))
    fresh = WantedKey("fresh", "soft", "ed25519")
    went = carry_out(world, Wanted("TIMESTAMP", "demo", (WantedRole("timestamp", (fresh,)),)))
    made = released(world, went, "timestamp")
    assert (made["version"], listed(made)) == (3, {"snapshot": 2})


def test_an_approved_plan_outlives_what_is_signed_meanwhile(
    world: World, author: Author, away: SoftwareToken
) -> None:
    """Timestamps are signed every day, and officers take longer."""
    author.keys["old"] = make_key(world, "old", token="away")
    author.publish_root(author.root(2, timestamp=(1, ["old"])), "root-1", "root-2")
    enrol(world, *OFFICERS)
    wanted = rotation_of("timestamp", "old", "fresh")
    planned = planning.plan(world, ADMIN, wanted)
    with pytest.raises(ApprovalRequired) as asked:
        starting.start(world, ADMIN, wanted, planned.digest, grace_s=0)
    author.sign("old", "timestamp", author.timestamp(2))
    agree(world, asked.value.details["proposal"])
    # One that waits for its token is told, and no change of the plan either.
    waits(away, lambda: author.sign("old", "timestamp", author.timestamp(3)))
    again = planning.plan(world, ADMIN, wanted)
    assert (planned.findings, again.digest) == ((), planned.digest)
    assert told(world, wanted) == [("ROTATION_VERSION_PENDING", "warn")]
    name = starting.start(world, ADMIN, wanted, planned.digest, grace_s=0).rotation.name
    (root,) = go_on(world, name).progress.proposals
    agree(world, root)
    went = go_on(world, name)
    assert went.progress.rotation.state is RotationState.READY
    assert released(world, went, "timestamp")["version"] == 4


def test_an_approved_plan_does_not_outlive_another_root(world: World, author: Author) -> None:
    """Its keys may be others."""
    wanted = rotation_of("timestamp", "timestamp", "fresh")
    digest = planning.plan(world, ADMIN, wanted).digest
    author.publish_root(author.root(2), "root-1", "root-2")
    with pytest.raises(PolicyViolation, match="PLAN_CHANGED"):
        starting.start(world, ADMIN, wanted, digest, grace_s=0)


def agree(world: World, proposal: str) -> None:
    approve(world, proposals.get(world, ADMIN, proposal), *OFFICERS[:2])


def waits(away: SoftwareToken, sign: Callable[[], object]) -> None:
    """The version is bound; its key comes back unused."""
    away.state = TokenState.OFFLINE
    with pytest.raises(BackendUnavailable):
        sign()
    away.state = TokenState.ONLINE


def released(world: World, went: Went, role: str) -> dict[str, Any]:
    """The payload of a file of a rotation."""
    files = world.ledger.read(lambda view: view.rotation_files(went.progress.rotation.name))
    [content] = [file.content for file in files if file.role == role]
    assert content is not None
    payload: dict[str, Any] = json.loads(content)["signed"]
    return payload


def listed(payload: Mapping[str, Any]) -> dict[str, int]:
    """The versions that a snapshot or timestamp lists, by role."""
    return {n.removesuffix(".json"): entry["version"] for n, entry in payload["meta"].items()}


def held(world: World, name: str) -> Key:
    found = world.ledger.read(lambda view: view.key(name))
    assert found is not None
    return found
