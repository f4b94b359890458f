"""The key list of hash bins, replaced as planned and after a theft, as stock clients see it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tuf.api.exceptions import DownloadHTTPError, UnsignedMetadataError

from keyd.domain import canonical, metadata_file, public_keys
from keyd.domain.keys import KeyState
from keyd.domain.payload import Payload
from keyd.domain.records_rotation import RotationState
from keyd.domain.rotation.plan import plan_of
from keyd.errors import Finding, PolicyViolation
from keyd.rehearsal.stage import StockClients
from keyd.services.audit import ensure_log_key
from keyd.services.imports import import_metadata
from keyd.services.rotation import advancing, planning
from keyd.services.rotation.retiring import retire_due
from keyd.services.rotation.wanted import Wanted, WantedKey, WantedRole
from keyd.services.token_call import Deadline, sign_verified
from keyd.services.world import World
from tests.counting import calls_of
from tests.fakes import TestClock
from tests.integration.bins import BINS, all_bins, bins, client, delegate, publish
from tests.integration.rotating import begin, go_on, rotation_of, signed_roles, sound, state, world
from tests.worlds import ADMIN, TIMEOUT_S, Author, active_author, make_key, open_world

__all__ = ["world"]

OLD = {"root": 1, "targets": 2, "snapshot": 2, "timestamp": 2, **dict.fromkeys(BINS, 1)}
NEW = {"root": 1, "targets": 3, "snapshot": 3, "timestamp": 3, **dict.fromkeys(BINS, 2)}
PLANNED = rotation_of("bin", "shared", "fresh", "DELEGATED")
STOLEN = replace(PLANNED, kind="EMERGENCY", compromised=("shared",), reason="stolen")


@pytest.fixture
def author(world: World) -> Author:
    ensure_log_key(world, "soft", TIMEOUT_S)
    author = active_author(world)
    author.keys["shared"] = make_key(world, "shared")
    return author


def refusals(world: World, wanted: Wanted) -> dict[str, str]:
    found: tuple[Finding, ...] = planning.plan(world, ADMIN, wanted).findings
    return {each.reason: each.message for each in found if each.severity == "refuse"}


@pytest.mark.parametrize(
    ("wanted", "at_once", "afterwards"),
    [
        (PLANNED, KeyState.ACTIVE, KeyState.DEACTIVATED),
        (STOLEN, KeyState.COMPROMISED, KeyState.COMPROMISED),
    ],
    ids=["planned", "stolen"],
)
def test_stock_clients_go_on_with_the_new_key(
    world: World,
    author: Author,
    tmp_path: Path,
    wanted: Wanted,
    at_once: KeyState,
    afterwards: KeyState,
) -> None:
    delegate(author, bins(author, 2, "shared"), *BINS)
    assert all_bins(client(tmp_path / "cached", world, OLD)) == {None}

    name = begin(world, wanted)
    assert state(world, "shared") is at_once
    went = go_on(world, name)
    assert went.progress.rotation.state is RotationState.READY, went.progress
    assert signed_roles(world, name) == ["targets", *BINS, "snapshot", "timestamp"]
    assert "signed bin-0 … bin-7, 8 roles" in went.done
    released = advancing.released_files(world, ADMIN, name)
    assert [file.role for file in released[-2:]] == ["snapshot", "timestamp"]
    # Nothing is out yet: who comes now finds all as it was.
    assert all_bins(client(tmp_path / "before", world, OLD)) == {None}

    for where in ("cached", "fresh"):
        assert all_bins(client(tmp_path / where, world, NEW)) == {None}
    without_bins = {**NEW, **dict.fromkeys(BINS, 1)}
    with pytest.raises(DownloadHTTPError):
        all_bins(client(tmp_path / "half", world, without_bins))

    advancing.confirm_published(world, ADMIN, name)
    assert isinstance(world.clock, TestClock)
    world.clock.advance(hours=2)
    assert retire_due(world) == 1
    assert state(world, "shared") is afterwards
    sound(world, tmp_path)


def test_old_bins_are_refused_below_a_new_delegator(
    world: World, author: Author, tmp_path: Path
) -> None:
    """Why the set goes out whole: what a publisher makes of half of it strands clients."""
    delegate(author, bins(author, 2, "shared"), *BINS)
    author.keys["fresh"] = make_key(world, "fresh")
    author.sign("targets", "targets", bins(author, 3, "fresh"))
    publish(author, 3, 3, **dict.fromkeys(BINS, 1))
    with pytest.raises(UnsignedMetadataError):
        all_bins(client(tmp_path / "half", world, {**NEW, **dict.fromkeys(BINS, 1)}))


def test_a_plan_shows_the_range_and_keeps_every_bin(world: World, author: Author) -> None:
    delegate(author, bins(author, 2, "shared"), *BINS)
    planned = planning.plan(world, ADMIN, PLANNED)
    assert planned.lines[:9] == (
        "delegated of demo",
        "",
        "  1. generate key fresh (ed25519) on token soft",
        "  2. sign targets anew: bin +fresh -shared",
        "  3. sign bin-0 … bin-7, 8 roles: their keys changed",
        "  4. sign snapshot anew: it lists the new targets metadata",
        "  5. sign timestamp anew: it points to the new snapshot",
        (
            "  6. rehearse targets, bin-0 … bin-7, snapshot, timestamp with stock clients of every "
            "earlier state"
        ),
        "  7. publish targets, bin-0 … bin-7, snapshot, timestamp at once",
    )
    assert "     bin-0 … bin-7: 1 of fresh" in planned.lines
    kept = plan_of(planned.json)
    assert (kept.raw, kept.digest) == (planned.json, planned.digest)
    [step] = [step for step in kept.steps if step.bins]
    assert step.bins == tuple((name, 0) for name in BINS)


def test_only_published_bins_are_signed(world: World, author: Author) -> None:
    delegate(author, bins(author, 2, "shared"), "bin-1", "bin-6")
    name = begin(world, PLANNED)
    go_on(world, name)
    assert signed_roles(world, name) == ["targets", "bin-1", "bin-6", "snapshot", "timestamp"]


def test_bins_that_nobody_published_change_with_their_delegator(
    world: World, author: Author
) -> None:
    delegate(author, bins(author, 2, "shared"))
    name = begin(world, PLANNED)
    assert go_on(world, name).progress.rotation.state is RotationState.READY
    assert signed_roles(world, name) == ["targets", "snapshot", "timestamp"]


def test_a_theft_ends_where_all_lists_are_named(world: World, author: Author) -> None:
    """The key of a team and of bins two levels down."""
    author.keys["middle"] = make_key(world, "middle")
    author.sign(
        "targets", "targets", author.delegating(2, team=(1, ["shared"]), mid=(1, ["middle"]))
    )
    author.sign("middle", "mid", bins(author, 1, "shared"))
    for role in ("team", *BINS):
        author.sign("shared", role, author.targets(1))
    publish(author, 2, 2, team=1, mid=1, **dict.fromkeys(BINS, 1))
    fresh = (WantedKey("fresh", "soft", "ed25519"),)
    team, binned = (WantedRole(role, fresh, ("shared",)) for role in ("team", "bin"))
    for partly, left in ((team, "8 bins bin-*"), (binned, "team")):
        wanted = replace(STOLEN, roles=(partly,))
        assert left in refusals(world, wanted)["STOLEN_KEY_STAYS_LISTED"]

    name = begin(world, replace(STOLEN, roles=(team, binned)))
    assert go_on(world, name).progress.rotation.state is RotationState.READY
    assert signed_roles(world, name) == [
        *("targets", "mid", "team", *BINS),
        *("snapshot", "timestamp"),
    ]


def test_what_was_signed_since_the_plan_is_signed_again(world: World, author: Author) -> None:
    delegate(author, bins(author, 2, "shared"), *BINS)
    name = begin(world, PLANNED)
    author.sign("shared", "bin-3", author.targets(2))
    assert go_on(world, name).progress.rotation.state is RotationState.READY
    files = world.ledger.read(lambda view: view.rotation_files(name))
    assert {file.role: file.version for file in files}["bin-3"] == 3


def test_a_bin_that_came_since_the_plan_is_not_left_behind(
    world: World, author: Author, tmp_path: Path
) -> None:
    delegate(author, bins(author, 2, "shared"), *BINS[:7])
    name = begin(world, PLANNED)
    author.sign("shared", "bin-7", author.targets(1))
    publish(author, 3, 2, **dict.fromkeys(BINS, 1))
    with pytest.raises(PolicyViolation, match="bin-7 came after the plan") as refused:
        go_on(world, name)
    assert refused.value.reason == "ROTATION_BINS_JOINED"

    author.sign("fresh", "bin-7", author.targets(2))
    publish(author, 4, 3, **{**dict.fromkeys(BINS, 1), "bin-7": 2})
    assert go_on(world, name).progress.rotation.state is RotationState.READY
    newest = {**NEW, "snapshot": 5, "timestamp": 5}
    assert all_bins(client(tmp_path / "fresh", world, newest)) == {None}


def test_bins_that_are_published_and_not_recorded_forbid_a_plan(
    world: World, author: Author
) -> None:
    delegate(author, bins(author, 2, "shared"), *BINS[:7])
    payload = canonical.encode(author.snapshot(3, targets=2, **dict.fromkeys(BINS, 1)))
    key = author.keys["snapshot"]
    [made] = sign_verified(world, "soft", [(key, payload)], Deadline(world.clock, TIMEOUT_S))
    assert isinstance(made, bytes)
    keyid, _ = public_keys.tuf_key(key.public_der, key.scheme)
    parsed = Payload(payload, json.loads(payload))
    published = metadata_file.write(parsed, ((keyid, made.hex()),))
    [done] = import_metadata(world, ADMIN, repository="demo", files=[("snapshot", published)])
    assert done.recorded
    assert "lists bin-7" in refusals(world, PLANNED)["ROTATION_METADATA_UNKNOWN"]


def test_as_many_as_there_is_time_for(world: World, author: Author) -> None:
    """Each call signs some, none of them twice, and says how far it came."""
    delegate(author, bins(author, 2, "shared"), *BINS)
    name = begin(world, PLANNED)
    for number, role in enumerate(BINS, 1):
        # Too short for anything but the one bin that every call signs.
        went = advancing.go_on(world, ADMIN, name, timeout_s=1.0)
        assert next(line for line in went.done if "bin-" in line) == f"signed {role} 2"
        if number < len(BINS):
            said = f"sign bin-0 … bin-7, 8 roles: their keys changed ({number} are signed)"
            assert went.progress.next == said
    assert went.progress.rotation.state is RotationState.READY


@pytest.mark.slow(seconds=30)
def test_a_rotation_of_hundreds_of_bins_is_linear(tmp_path: Path) -> None:
    """From the plan to the files, with the rehearsal: by the functions called, not by time."""
    few, many = (calls_to_rotate(tmp_path / str(bits), bits) for bits in (7, 8))
    assert many < 2.1 * few


def calls_to_rotate(directory: Path, bit_length: int) -> int:
    directory.mkdir()
    world = replace(open_world(directory, clock=TestClock()), rehearsal=StockClients())
    ensure_log_key(world, "soft", TIMEOUT_S)
    author = active_author(world)
    author.keys["shared"] = make_key(world, "shared")
    names = [f"bin-{number:02x}" for number in range(2**bit_length)]
    delegate(author, bins(author, 2, "shared", bit_length), *names)

    def rotate() -> None:
        name = begin(world, PLANNED)
        went = advancing.go_on(world, ADMIN, name, timeout_s=600.0)
        assert went.progress.rotation.state is RotationState.READY
        advancing.get(world, ADMIN, name)
        assert len(advancing.released_files(world, ADMIN, name)) == len(names) + 3

    found = calls_of(rotate)
    sound(world, directory)
    return found
