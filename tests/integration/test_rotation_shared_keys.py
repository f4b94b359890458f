"""Keys that several roles list: a theft is over only when every one of them has let the key go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keyd.domain.keys import KeyState
from keyd.errors import Finding, KeydError
from keyd.services.audit import ensure_log_key
from keyd.services.rotation import planning, starting
from keyd.services.rotation.wanted import Wanted, WantedKey, WantedRole
from keyd.services.world import World
from tests.integration.bins import BINS, bins, delegate
from tests.integration.rotating import carry_out, rotation_of, sound, state, world
from tests.worlds import ADMIN, TIMEOUT_S, Author, active_author, make_key

__all__ = ["world"]

TEAMS = ("red", "green", "blue")


@pytest.fixture
def author(world: World) -> Author:
    ensure_log_key(world, "soft", TIMEOUT_S)
    author = active_author(world)
    author.keys["shared"] = make_key(world, "shared")
    return author


def teams(author: Author) -> dict[str, Any]:
    return author.delegating(2, **{team: (1, ["shared"]) for team in TEAMS})


def theft(*roles: str, old: str = "shared") -> Wanted:
    add = WantedKey("fresh", "soft", "ed25519")
    changes = tuple(WantedRole(role, (add,), (old,)) for role in roles)
    return Wanted("EMERGENCY", "demo", changes, compromised=("shared",), reason="stolen")


def refusals(world: World, wanted: Wanted) -> dict[str, str]:
    found: tuple[Finding, ...] = planning.plan(world, ADMIN, wanted).findings
    return {each.reason: each.message for each in found if each.severity == "refuse"}


def test_a_stolen_key_must_leave_every_role(world: World, author: Author, tmp_path: Path) -> None:
    delegate(author, teams(author), *TEAMS)
    partly = theft("red")
    assert "green, blue" in refusals(world, partly)["STOLEN_KEY_STAYS_LISTED"]
    with pytest.raises(KeydError):
        starting.start(world, ADMIN, partly, planning.plan(world, ADMIN, partly).digest, grace_s=0)
    assert state(world, "shared") is KeyState.ACTIVE

    went = carry_out(world, theft(*TEAMS))
    files = world.ledger.read(lambda view: view.rotation_files(went.progress.rotation.name))
    delegator = next(json.loads(file.content or b"") for file in files if file.role == "targets")
    listed = {
        keyid for role in delegator["signed"]["delegations"]["roles"] for keyid in role["keyids"]
    }
    assert listed.isdisjoint(author.key_objects("shared"))
    assert state(world, "shared") is KeyState.COMPROMISED
    sound(world, tmp_path)


def test_bins_are_named_where_a_change_leaves_the_key(world: World, author: Author) -> None:
    delegate(author, bins(author, 2, "shared"), *BINS)
    elsewhere = theft("timestamp", old="timestamp")
    assert "8 bins bin-*" in refusals(world, elsewhere)["STOLEN_KEY_STAYS_LISTED"]
    one = refusals(world, rotation_of("bin-0", "shared", "fresh", "DELEGATED"))
    assert "name their prefix 'bin'" in one["ROTATION_OF_BINS"]
    assert refusals(world, rotation_of("bin", "shared", "fresh", "DELEGATED")) == {}
    assert "ROLE_NOT_DELEGATED" in refusals(world, rotation_of("bin-8", "shared", "x", "DELEGATED"))


def test_a_key_that_bins_still_list_is_not_retired(world: World, author: Author) -> None:
    author.keys["middle"] = make_key(world, "middle")
    author.sign(
        "targets", "targets", author.delegating(2, team=(1, ["shared"]), mid=(1, ["middle"]))
    )
    author.sign("middle", "mid", bins(author, 1, "shared"))
    planned = planning.plan(world, ADMIN, rotation_of("team", "shared", "fresh", "DELEGATED"))
    assert not [line for line in planned.lines if "deactivate key shared" in line]
