"""Rotations that wait for days, for a token or a publisher: what expires meanwhile is made anew."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from keyd.domain.keys import KeyState
from keyd.domain.records import ReservationState
from keyd.domain.records_rotation import RotationState
from keyd.domain.rehearsal import Act, Play
from keyd.domain.tokens import TokenState
from keyd.errors import NotFound, PolicyViolation
from keyd.services.keys import change_state
from keyd.services.rotation import advancing, signing
from keyd.services.world import World
from tests.fakes import SoftwareToken, TestClock
from tests.integration.rotating import begin, go_on, later, rotation_of, two_tokens
from tests.worlds import (
    ADMIN,
    TIMEOUT_S,
    Author,
    active_author,
    make_key,
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A repository, which is sound when the test is over."""
    with two_tokens(tmp_path, TestClock()) as made:
        yield made


@pytest.fixture
def author(world: World) -> Author:
    return active_author(world)


def set_away(world: World, state: TokenState) -> None:
    token = world.tokens.get("away")
    assert isinstance(token, SoftwareToken)
    token.state = state


def set_state(world: World, key: str, new: KeyState) -> None:
    call = {KeyState.SUSPENDED: "SuspendKey", KeyState.ACTIVE: "ResumeKey"}[new]
    change_state(world, ADMIN, f"KeyService.{call}", key, new=new, comment="")


def released(world: World, name: str) -> dict[str, dict[str, Any]]:
    """What the files say that are handed out; nothing of it has expired, and it fits together."""
    files = advancing.released_files(world, ADMIN, name)
    signed = {file.role: json.loads(file.content or b"")["signed"] for file in files}
    for role, payload in signed.items():
        assert datetime.fromisoformat(payload["expires"]) > world.clock.now(), role
    listed = signed["timestamp"]["meta"] | signed.get("snapshot", {}).get("meta", {})
    for role in signed.keys() - {"root", "timestamp"}:
        assert listed[f"{role}.json"]["version"] == signed[role]["version"]
    return signed


def versions(world: World, name: str) -> dict[str, int]:
    return {role: signed["version"] for role, signed in released(world, name).items()}


def test_a_timestamp_that_expired_before_its_token_came_back(world: World, author: Author) -> None:
    name = begin(world, rotation_of("targets", "targets", "targets-2"))
    set_state(world, "timestamp", KeyState.SUSPENDED)
    assert go_on(world, name).progress.waiting
    assert advancing.receipt(world, ADMIN, name, "timestamp", timeout_s=TIMEOUT_S).file.version == 2
    later(world, days=2)
    with pytest.raises(NotFound, match=r"NOTHING_RESERVED.*expired"):
        advancing.receipt(world, ADMIN, name, "timestamp", timeout_s=TIMEOUT_S)
    set_state(world, "timestamp", KeyState.ACTIVE)
    assert go_on(world, name).done[0] == "signed timestamp 3"
    assert versions(world, name) == {"root": 2, "targets": 2, "snapshot": 2, "timestamp": 3}
    left = world.ledger.read(lambda view: view.reservation("demo", "timestamp", 0, 2))
    assert left is not None
    assert left.state is ReservationState.RESERVED


@pytest.mark.parametrize(
    ("days", "anew"),
    [
        (0.995, ["timestamp"]),
        (3, ["timestamp"]),
        (8, ["snapshot", "timestamp"]),
        (91, ["targets", "snapshot", "timestamp"]),
    ],
)
def test_files_that_expired_before_they_were_published(
    world: World, author: Author, days: float, anew: list[str]
) -> None:
    name = begin(world, rotation_of("targets", "targets", "targets-2"))
    assert go_on(world, name).progress.rotation.state is RotationState.READY
    later(world, days=days)
    with pytest.raises(PolicyViolation, match=r"ROTATION_FILES_EXPIRED.*keyd rotate continue"):
        advancing.released_files(world, ADMIN, name)
    assert "continue" in advancing.get(world, ADMIN, name).next
    went = go_on(world, name)
    assert [words for words in went.done if "signed" in words] == [f"signed {r} 3" for r in anew]
    assert went.progress.rotation.state is RotationState.READY
    assert versions(world, name) == {
        role: 3 if role in anew else 2 for role in ("root", "targets", "snapshot", "timestamp")
    }
    advancing.confirm_published(world, ADMIN, name)
    later(world, days=100)
    assert advancing.released_files(world, ADMIN, name), "what is out is nobody's to make anew"


def test_files_that_somebody_overtook_are_made_anew_before_they_leave(
    world: World, author: Author
) -> None:
    name = begin(world, rotation_of("timestamp", "timestamp", "timestamp-2"))
    assert go_on(world, name).progress.rotation.state is RotationState.READY
    made = world.ledger.read(lambda view: view.key("timestamp-2"))
    assert made is not None
    author.keys["timestamp-2"] = made
    author.sign("timestamp-2", "timestamp", author.timestamp(3))
    with pytest.raises(PolicyViolation, match=r"ROTATION_FILES_EXPIRED: timestamp .*continue"):
        advancing.released_files(world, ADMIN, name)
    assert go_on(world, name).progress.rotation.state is RotationState.READY
    assert versions(world, name)["timestamp"] == 4


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("passage", range(1, 10))
def test_a_crash_while_files_are_made_anew(
    world: World, author: Author, monkeypatch: pytest.MonkeyPatch, passage: int
) -> None:
    """Three passages for each of three roles: bound, signed, sealed."""
    name = begin(world, rotation_of("targets", "targets", "targets-2"))
    go_on(world, name)
    later(world, days=91)
    passed = itertools.count(1)

    def dying(_: object) -> None:
        if next(passed) == passage:
            raise Killed

    with monkeypatch.context() as crash:
        for module in (signing, advancing):
            crash.setattr(module, "failpoint", dying)
        with pytest.raises(Killed):
            go_on(world, name)
    with pytest.raises(PolicyViolation, match="ROTATION_NOT_READY"):
        advancing.released_files(world, ADMIN, name)
    assert go_on(world, name).progress.rotation.state is RotationState.READY
    assert versions(world, name) == {"root": 2, "targets": 3, "snapshot": 3, "timestamp": 3}


def test_it_goes_on_when_what_is_made_anew_waits_again(world: World, author: Author) -> None:
    name = begin(world, rotation_of("targets", "targets", "targets-2"))
    go_on(world, name)
    set_state(world, "timestamp", KeyState.SUSPENDED)
    for _ in range(2):
        later(world, days=3)
        assert go_on(world, name).progress.rotation.state is RotationState.RUNNING
        with pytest.raises(PolicyViolation, match="ROTATION_NOT_READY"):
            advancing.released_files(world, ADMIN, name)
    set_state(world, "timestamp", KeyState.ACTIVE)
    later(world, days=3)
    assert go_on(world, name).progress.rotation.state is RotationState.READY
    assert versions(world, name) == {"root": 2, "targets": 2, "snapshot": 3, "timestamp": 5}


def test_clients_of_what_was_published_meet_files_made_anew(world: World, author: Author) -> None:
    """Not of what the rotation itself made before, which nobody has."""
    plays: list[Play] = []

    class Noting:
        def rehearse(self, play: Play) -> tuple[Act, ...]:
            plays.append(play)
            return ()

    noting = replace(world, rehearsal=Noting())
    name = begin(world, rotation_of("targets", "targets", "targets-2"))
    go_on(noting, name)
    later(world, days=3)
    go_on(noting, name)
    assert len(plays) == 2
    assert plays[0].before == plays[1].before


def test_a_snapshot_lists_what_was_signed_after_somebody_else(world: World, author: Author) -> None:
    name = begin(world, rotation_of("targets", "targets", "targets-2"))
    go_on(world, name)
    held = world.ledger.read(lambda view: view.key("targets-2"))
    assert held is not None
    author.keys["targets-2"] = held
    author.sign("targets-2", "targets", author.targets(3))
    assert go_on(world, name).progress.rotation.state is RotationState.READY
    assert versions(world, name) == {"root": 2, "targets": 4, "snapshot": 3, "timestamp": 3}


@pytest.mark.parametrize(
    ("days", "signed"),
    [
        (3, ["timestamp 3"]),
        (8, ["snapshot 2", "timestamp 3"]),
        (91, ["targets 2", "snapshot 2", "timestamp 3"]),
    ],
)
def test_what_is_published_is_renewed_if_it_expires_meanwhile(
    world: World, author: Author, days: float, signed: list[str]
) -> None:
    """Nobody else could: the timestamp's new key is not known to clients, and the old one left."""
    name = begin(world, rotation_of("timestamp", "timestamp", "timestamp-2"))
    assert go_on(world, name).progress.rotation.state is RotationState.READY
    later(world, days=days)
    went = go_on(world, name)
    assert [words for words in went.done if "signed" in words] == [f"signed {s}" for s in signed]
    assert went.progress.rotation.state is RotationState.READY
    assert all(step.done for step in went.progress.steps if step.role)
    found = {role: payload["version"] for role, payload in released(world, name).items()}
    assert found == {"root": 2} | {role: int(n) for role, n in (s.split() for s in signed)}
    later(world, days=2)
    assert [w for w in go_on(world, name).done if "signed" in w] == ["signed timestamp 4"]
    advancing.confirm_published(world, ADMIN, name)
    later(world, days=100)
    assert all(step.done for step in advancing.get(world, ADMIN, name).steps if step.role)


def test_a_recovery_keeps_its_content_when_its_payload_expires(
    world: World, author: Author
) -> None:
    good = author.targets(2, targets={"good": {"length": 1, "hashes": {"sha256": "0" * 64}}})
    evil = author.targets(90, targets={"evil": {"length": 1, "hashes": {"sha256": "1" * 64}}})
    for listed, (version, payload) in enumerate(((2, good), (90, evil)), start=2):
        author.sign("targets", "targets", payload)
        author.sign("snapshot", "snapshot", author.snapshot(listed, targets=version))
        author.sign("timestamp", "timestamp", author.timestamp(listed, listed))
    make_key(world, "targets-2", token="away")
    wanted = rotation_of("targets", "targets", "targets-2", "FAST_FORWARD")
    snapshot = rotation_of("snapshot", "snapshot", "snapshot-2").roles[0]
    name = begin(world, replace(wanted, roles=(*wanted.roles, snapshot), lower={"targets": 3}))
    set_away(world, TokenState.OFFLINE)
    assert go_on(world, name).progress.steps[2].version == 3
    set_away(world, TokenState.ONLINE)
    later(world, days=100)
    assert go_on(world, name).progress.rotation.state is RotationState.READY
    targets = released(world, name)["targets"]
    assert (targets["version"], set(targets["targets"])) == (4, {"good"})
