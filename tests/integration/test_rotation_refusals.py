"""What forbids a change is found before anything happens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from keyd.domain import public_keys
from keyd.errors import PolicyViolation
from keyd.services.rotation import planning, starting
from keyd.services.rotation.wanted import Wanted, WantedKey, WantedRole
from keyd.services.world import World
from tests.worlds import ADMIN, active_author, make_key, open_world

FRESH = WantedKey("fresh", "soft", "ed25519")


def one(role: str, kind: str = "", **change: object) -> Wanted:
    wanted = WantedRole(role, **change)  # type: ignore[arg-type]
    return Wanted(kind or role.upper(), "demo", (wanted,))


REFUSED: Mapping[str, tuple[str, Wanted]] = {
    "nothing changes": ("ROTATION_EMPTY", Wanted("ROOT", "demo")),
    "the last key leaves": ("NEW_THRESHOLD_UNREACHABLE", one("timestamp", remove=("*",))),
    "more signatures than keys": ("NEW_THRESHOLD_UNREACHABLE", one("targets", threshold=2)),
    "no spare root key": ("NO_SPARE_KEY", one("root", threshold=3)),
    "a root of one signature": ("THRESHOLD_BELOW_FLOOR", one("root", threshold=1)),
    "a key that is not listed": (
        "ROTATION_KEY_NOT_LISTED",
        one("timestamp", add=(FRESH,), remove=("snapshot",)),
    ),
    "a key that is listed already": (
        "KEY_MATERIAL_REPEATED",
        one("root", add=(WantedKey("root-2"),)),
    ),
    "an online key for targets": (
        "ONLINE_KEY_IN_OFFLINE_ROLE",
        one("targets", add=(WantedKey("timestamp"),)),
    ),
    "a targets key for a delegated role": (
        "ROLE_NOT_DELEGATED",
        one("nobody", "DELEGATED", add=(WantedKey("targets"),)),
    ),
    "a key of another repository": (
        "KEY_BELONGS_TO_ANOTHER_REPOSITORY",
        one("timestamp", add=(WantedKey("other-timestamp"),), remove=("*",)),
    ),
    "a token that is not there": (
        "ROTATION_TOKEN_UNKNOWN",
        one("timestamp", add=(WantedKey("fresh", "nowhere"),)),
    ),
    "a stolen threshold of root": (
        "ROOT_THRESHOLD_COMPROMISED",
        Wanted(
            "EMERGENCY",
            "demo",
            (WantedRole("root", (FRESH,), ("root-1",)),),
            compromised=("root-1", "root-2"),
        ),
    ),
    "stolen as planned": (
        "ROTATION_KIND_WRONG",
        Wanted(
            "TIMESTAMP",
            "demo",
            (WantedRole("timestamp", (FRESH,), ("*",)),),
            compromised=("timestamp",),
        ),
    ),
    "lowered as planned": (
        "FAST_FORWARD_ONLY",
        Wanted(
            "TIMESTAMP",
            "demo",
            (WantedRole("timestamp", (FRESH,), ("*",)),),
            lower={"timestamp": 1},
        ),
    ),
    "a snapshot lowered with its old key": (
        "FAST_FORWARD_INCOMPLETE",
        Wanted(
            "FAST_FORWARD",
            "demo",
            (WantedRole("timestamp", (FRESH,), ("*",)),),
            lower={"snapshot": 1},
        ),
    ),
    "a lowered timestamp whose key enters again": (
        "FAST_FORWARD_INCOMPLETE",
        Wanted(
            "FAST_FORWARD",
            "demo",
            (WantedRole("timestamp", (WantedKey("timestamp"),), ("timestamp",)),),
            lower={"timestamp": 1},
        ),
    ),
    "a role changed twice, so that its stolen key stays": (
        "ROTATION_ROLE_REPEATED",
        Wanted(
            "EMERGENCY",
            "demo",
            (
                WantedRole("timestamp", (FRESH,), ("*",)),
                WantedRole("timestamp", (WantedKey("fresh-2", "soft"),)),
            ),
            compromised=("timestamp",),
        ),
    ),
    "a lowered root": (
        "ROOT_NOT_LOWERED",
        Wanted(
            "FAST_FORWARD",
            "demo",
            (WantedRole("timestamp", (FRESH,), ("*",)),),
            lower={"root": 1},
        ),
    ),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = open_world(tmp_path_factory.mktemp("refusals"))
    active_author(made)
    active_author(made, "other", prefix="other-")
    make_key(made, "unused")
    return made


@pytest.mark.parametrize("name", REFUSED)
def test_refused_beforehand(world: World, name: str) -> None:
    reason, wanted = REFUSED[name]
    planned = planning.plan(world, ADMIN, wanted)
    reasons = {found.reason for found in planned.findings if found.severity == "refuse"}
    assert reason in reasons
    size = world.ledger.read(lambda view: view.log_size())
    with pytest.raises(PolicyViolation):
        starting.start(world, ADMIN, wanted, planned.digest, grace_s=0)
    assert world.ledger.read(lambda view: view.log_size()) == size


def test_a_persons_key_that_is_listed_already(world: World) -> None:
    """It would be one key fewer than counted, and found only when root is to be signed."""
    root_1 = world.ledger.read(lambda view: view.key("root-1"))
    assert root_1 is not None
    _, found = public_keys.tuf_key(root_1.public_der, root_1.scheme)
    eve = WantedKey("token", holder="eve", key_object=found)
    planned = planning.plan(world, ADMIN, one("root", add=(eve,), threshold=3))
    refused = [f.reason for f in planned.findings if f.severity == "refuse"]
    assert refused == ["KEY_MATERIAL_REPEATED"]


def test_development_is_only_warned(tmp_path: Path) -> None:
    development = open_world(tmp_path, development=True)
    active_author(development)
    planned = planning.plan(development, ADMIN, one("root", threshold=3))
    assert [(f.reason, f.severity) for f in planned.findings] == [("NO_SPARE_KEY", "warn")]


def test_what_keys_of_other_repositories_signed_is_not_told(world: World) -> None:
    """Who may plan here need not be told of what goes on there."""
    wanted = one("timestamp", add=(FRESH,), remove=("timestamp",), kind="EMERGENCY")
    planned = planning.plan(world, ADMIN, replace(wanted, compromised=("other-targets",)))
    assert "ROTATION_KEY_NOT_LISTED" in {found.reason for found in planned.findings}
    assert planned.exposed == ()
