"""Versions that are bound and miss signatures when a rotation begins: only root waits for its own.

The key that could complete them may be the one that has to go.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from keyd.domain.keys import Key, KeyState
from keyd.domain.records import ReservationState
from keyd.domain.records_rotation import RotationState
from keyd.domain.tokens import TokenState
from keyd.errors import ApprovalRequired, BackendUnavailable, PolicyViolation
from keyd.rehearsal.stage import StockClients
from keyd.services.audit import ensure_log_key
from keyd.services.rotation import planning, starting
from keyd.services.rotation.wanted import Wanted
from keyd.services.world import World
from tests.fakes import FakeTokens, SoftwareToken, TestClock
from tests.integration.rotating import begin, carry_out, go_on, rotation_of, sound, state
from tests.worlds import ADMIN, TIMEOUT_S, Author, active_author, make_key, open_world


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


def held(world: World, name: str) -> Key:
    found = world.ledger.read(lambda view: view.key(name))
    assert found is not None
    return found
