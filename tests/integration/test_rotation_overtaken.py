"""Rotations whose accepted files expire, or are overtaken: they go on, and cannot be given up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keyd.domain.keys import KeyState
from keyd.domain.records_rotation import RotationState
from keyd.domain.tokens import TokenState
from keyd.domain.trust import default_rules
from keyd.errors import PolicyViolation
from keyd.services import repositories
from keyd.services.keys import change_state
from keyd.services.rotation import advancing, starting
from keyd.services.world import World
from tests.fakes import SoftwareToken, TestClock
from tests.integration.rotating import begin, go_on, later, rotation_of, two_tokens
from tests.worlds import ADMIN, Author, active_author, make_key

# The first root lasts for a year. Rotations begin at the real time, which stock clients look at.
ALMOST_A_YEAR = timedelta(days=360)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A repository whose root is about to expire; it is sound when the test is over."""
    with two_tokens(tmp_path, TestClock(datetime.now(UTC) - ALMOST_A_YEAR)) as made:
        yield made


@pytest.fixture
def author(world: World) -> Author:
    return active_author(world)


def begun_with_a_short_root(world: World) -> str:
    """A rotation whose root 2, of seven days, is accepted."""
    later(world, seconds=ALMOST_A_YEAR.total_seconds())
    wanted = rotation_of("timestamp", "timestamp", "timestamp-2")
    name = begin(world, replace(wanted, root_lifetime_s=7 * 86_400))
    assert go_on(world, name).done[:2] == ("made key timestamp-2 on token soft", "signed root 2")
    with pytest.raises(PolicyViolation, match="ROTATION_ACCEPTED"):
        starting.cancel(world, ADMIN, name, "")
    return name


def released_roots(world: World, name: str) -> list[int]:
    """The versions of root that are handed out, the last of which has not expired."""
    files = advancing.released_files(world, ADMIN, name)
    signed = [json.loads(file.content or b"")["signed"] for file in files if file.role == "root"]
    assert datetime.fromisoformat(signed[-1]["expires"]) > world.clock.now()
    return [root["version"] for root in signed]


def test_another_root_takes_the_place_of_one_that_expired(world: World, author: Author) -> None:
    name = begun_with_a_short_root(world)
    later(world, days=8)
    with pytest.raises(PolicyViolation, match=r"TRUSTED_ROOT_EXPIRED.*allow_expired_trusted_root"):
        go_on(world, name)
    rules = replace(default_rules("root"), allow_expired_trusted_root=True)
    repositories.set_role_rules(world, ADMIN, "demo", "root", rules=rules, comment="")
    assert go_on(world, name).progress.rotation.state is RotationState.READY
    assert released_roots(world, name) == [2, 3]


def test_a_rotation_goes_on_from_a_root_that_lasts_longer(world: World, author: Author) -> None:
    name = begun_with_a_short_root(world)
    made = world.ledger.read(lambda view: view.key("timestamp-2"))
    assert made is not None
    author.keys["timestamp-2"] = made
    later(world, days=5)
    author.publish_root(author.root(3, timestamp=(1, ["timestamp-2"])), "root-1", "root-2")
    assert go_on(world, name).progress.rotation.state is RotationState.READY
    assert released_roots(world, name) == [2, 3, 4]


def test_a_rotation_is_not_given_up_because_its_file_is_made_anew(
    world: World, author: Author
) -> None:
    """Trusted targets list only the new key, though the role has been signed by the old one."""
    author.keys |= {"team": make_key(world, "team")}
    author.sign("targets", "targets", author.delegating(2, team=(1, ["team"])))
    author.sign("team", "team", author.targets())
    author.sign("snapshot", "snapshot", author.snapshot(2, targets=2, team=1))
    author.sign("timestamp", "timestamp", author.timestamp(2, 2))
    make_key(world, "team-2", token="away")
    name = begin(world, rotation_of("team", "team", "team-2", "DELEGATED"))
    away = world.tokens.get("away")
    assert isinstance(away, SoftwareToken)
    away.state = TokenState.OFFLINE
    assert go_on(world, name).done == ("signed targets 3",)
    later(world, days=91)
    change_state(
        world, ADMIN, "KeyService.SuspendKey", "targets", new=KeyState.SUSPENDED, comment=""
    )
    assert go_on(world, name).progress.waiting
    bound = world.ledger.read(lambda view: view.rotation_files(name))[0]
    assert (bound.role, bound.version, bound.content) == ("targets", 4, None)
    with pytest.raises(PolicyViolation, match="ROTATION_ACCEPTED: targets 3"):
        starting.cancel(world, ADMIN, name, "")
