"""Keys that several roles list: a theft is over only when every one of them has let the key go."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tuf.api.exceptions import DownloadHTTPError, UnsignedMetadataError
from tuf.ngclient import FetcherInterface, Updater

from keyd.domain.keys import KeyState
from keyd.errors import Finding, KeydError
from keyd.ports import View
from keyd.rehearsal.stage import StockClients
from keyd.services.audit import ensure_log_key
from keyd.services.keys import change_state
from keyd.services.rotation import planning, starting
from keyd.services.rotation.files import published_file
from keyd.services.rotation.wanted import Wanted, WantedKey, WantedRole
from keyd.services.world import World
from tests.fakes import TestClock
from tests.integration.rotating import carry_out, rotation_of, sound, state
from tests.worlds import ADMIN, TIMEOUT_S, Author, active_author, make_key, open_world

TEAMS = ("red", "green", "blue")
BINS = tuple(f"bin-{number}" for number in range(8))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return replace(open_world(tmp_path, clock=TestClock()), rehearsal=StockClients())


@pytest.fixture
def author(world: World) -> Author:
    ensure_log_key(world, "soft", TIMEOUT_S)
    author = active_author(world)
    author.keys["shared"] = make_key(world, "shared")
    return author


def publish(author: Author, version: int, targets: int, **roles: int) -> None:
    """A snapshot that lists these versions, and its timestamp."""
    author.sign("snapshot", "snapshot", author.snapshot(version, targets=targets, **roles))
    author.sign("timestamp", "timestamp", author.timestamp(version, version))


def delegate(author: Author, delegator: dict[str, Any], *roles: str) -> None:
    """Publish version 2 of targets and the first of each role, by the shared key."""
    author.sign("targets", "targets", delegator)
    for role in roles:
        author.sign("shared", role, author.targets(1))
    publish(author, 2, 2, **dict.fromkeys(roles, 1))


def teams(author: Author) -> dict[str, Any]:
    return author.delegating(2, **{team: (1, ["shared"]) for team in TEAMS})


def bins(author: Author, version: int, key: str) -> dict[str, Any]:
    succinct = {**author.listing(1, key), "bit_length": 3, "name_prefix": "bin"}
    delegations = {"keys": author.key_objects(key), "succinct_roles": succinct}
    return author.targets(version, delegations=delegations)


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
    for role in ("bin", "bin-0"):
        planned = rotation_of(role, "shared", "fresh", "DELEGATED")
        assert "ROTATION_OF_BINS" in refusals(world, planned)
    assert "ROLE_NOT_DELEGATED" in refusals(world, rotation_of("bin-8", "shared", "x", "DELEGATED"))


def test_a_key_that_bins_still_list_is_not_retired(world: World, author: Author) -> None:
    author.keys["middle"] = make_key(world, "middle")
    author.sign(
        "targets", "targets", author.delegating(2, team=(1, ["shared"]), mid=(1, ["middle"]))
    )
    author.sign("middle", "mid", bins(author, 1, "shared"))
    planned = planning.plan(world, ADMIN, rotation_of("team", "shared", "fresh", "DELEGATED"))
    assert not [line for line in planned.lines if "deactivate key shared" in line]


class Published(FetcherInterface):
    """Everything that is accepted; no network."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.rpartition("/")[2]
        if name not in self._files:
            raise DownloadHTTPError(name, 404)
        return iter([self._files[name]])


def published(role: str, version: int, view: View) -> bytes | None:
    return published_file(view, "demo", role, version)


def client(directory: Path, world: World, newest: Mapping[str, int]) -> Updater:
    """A stock client that has refreshed; what `directory` holds is its cache."""
    directory.mkdir(exist_ok=True)
    files: dict[str, bytes] = {}
    for role, last in newest.items():
        for version in range(1, last + 1):
            content = world.ledger.read(partial(published, role, version))
            if content:
                files[f"{version}.{role}.json"] = files[f"{role}.json"] = content
    where, url = str(directory), "http://test.invalid/"
    updater = Updater(
        where, url, where, url, fetcher=Published(files), bootstrap=files["1.root.json"]
    )
    updater._trusted_set.reference_time = world.clock.now()
    updater.refresh()
    return updater


def all_bins(updater: Updater) -> set[object]:
    """What a search finds in every bin; none of them lists a file."""
    return {updater.get_targetinfo(f"file-{number}") for number in range(60)}


def test_the_key_of_bins_is_replaced_by_hand(world: World, author: Author, tmp_path: Path) -> None:
    """As docs/howto/rotate-keys.md says it."""
    delegate(author, bins(author, 2, "shared"), *BINS)
    old = {"root": 1, "targets": 2, "snapshot": 2, "timestamp": 2, **dict.fromkeys(BINS, 1)}
    assert all_bins(client(tmp_path / "cached", world, old)) == {None}

    change_state(
        *(world, ADMIN, "KeyService.MarkKeyCompromised", "shared"),
        new=KeyState.COMPROMISED,
        comment="stolen",
    )
    author.keys["fresh"] = make_key(world, "fresh")
    author.sign("targets", "targets", bins(author, 3, "fresh"))
    publish(author, 3, 3, **dict.fromkeys(BINS, 1))
    half = {**old, "targets": 3, "snapshot": 3, "timestamp": 3}
    with pytest.raises(UnsignedMetadataError):
        all_bins(client(tmp_path / "between", world, half))

    for name in BINS:
        author.sign("fresh", name, author.targets(2))
    publish(author, 4, 3, **dict.fromkeys(BINS, 2))
    new = {"root": 1, "targets": 3, "snapshot": 4, "timestamp": 4, **dict.fromkeys(BINS, 2)}
    assert all_bins(client(tmp_path / "cached", world, new)) == {None}
    assert all_bins(client(tmp_path / "fresh", world, new)) == {None}
    sound(world, tmp_path)
