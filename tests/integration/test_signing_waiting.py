"""Versions that are bound and wait for a signature: clients may see them before later ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyd.errors import KeydError
from keyd.services.world import World
from tests.authors import Signed
from tests.fakes import SoftwareToken
from tests.worlds import Author, active_author, make_key, open_world


@pytest.fixture
def world(tmp_path: Path) -> World:
    return open_world(tmp_path)


def refused_reason(author: Author, role: str, signed: Signed) -> str:
    with pytest.raises(KeydError) as refused:
        author.sign(role, role, signed)
    return refused.value.reason


def delegated(world: World) -> Author:
    """Targets 2 and 3 and a delegated role are accepted; the snapshot lists targets 1."""
    author = active_author(world)
    author.keys["a"] = make_key(world, "a")
    for version in (2, 3):
        author.sign("targets", "targets", author.delegating(version, a=(1, ["a"])))
    author.sign("a", "a", author.targets())
    return author


@pytest.mark.parametrize(
    ("older", "reason"),
    [
        ({"targets": 2, "a": 1}, "SNAPSHOT_ENTRY_DECREASED"),
        ({"targets": 3}, "SNAPSHOT_ENTRY_REMOVED"),
    ],
)
def test_a_snapshot_is_not_behind_one_that_is_at_the_token(
    world: World, older: dict[str, int], reason: str
) -> None:
    author = delegated(world)
    token = world.tokens.get("soft")
    assert isinstance(token, SoftwareToken)
    found = []

    def meanwhile() -> None:
        token.before_sign = lambda: None
        found.append(refused_reason(author, "snapshot", author.snapshot(3, **older)))
        assert author.sign("snapshot", "snapshot", author.snapshot(3, targets=3, a=1)).accepted

    token.before_sign = meanwhile
    assert author.sign("snapshot", "snapshot", author.snapshot(2, targets=3, a=1)).accepted
    assert found == [reason]


def test_a_snapshot_that_misses_a_signature_counts_until_it_cannot_be_accepted(
    world: World,
) -> None:
    author = delegated(world)
    author.keys["snapshot-2"] = make_key(world, "snapshot-2")
    two = author.root(2, days=366, snapshot=(2, ["snapshot", "snapshot-2"]))
    author.publish_root(two, "root-1", "root-2")
    waiting = author.snapshot(2, targets=3, a=1)
    assert not author.sign("snapshot", "snapshot", waiting).accepted
    behind = author.snapshot(3, targets=2, a=1)
    assert refused_reason(author, "snapshot", behind) == "SNAPSHOT_ENTRY_DECREASED"
    # It may be completed any time, also after a newer one that is as far.
    for key in ("snapshot", "snapshot-2"):
        ahead = author.sign(key, "snapshot", author.snapshot(3, targets=3, a=1))
    assert ahead.accepted
    assert author.sign("snapshot-2", "snapshot", waiting).accepted
    # One that waits when its keys are replaced waits for ever, and nobody waits for it.
    author.sign("targets", "targets", author.delegating(4, a=(1, ["a"])))
    assert not author.sign("snapshot", "snapshot", author.snapshot(4, targets=4, a=1)).accepted
    author.keys["snapshot-3"] = make_key(world, "snapshot-3")
    three = author.root(3, days=367, snapshot=(1, ["snapshot-3"]))
    author.publish_root(three, "root-1", "root-2")
    assert author.sign("snapshot-3", "snapshot", author.snapshot(5, targets=3, a=1)).accepted


def test_a_timestamp_is_not_behind_one_whose_token_failed(world: World) -> None:
    author = active_author(world)
    for version in (2, 3):
        author.sign("snapshot", "snapshot", author.snapshot(version))
    token = world.tokens.get("soft")
    assert isinstance(token, SoftwareToken)
    token.failures.append(KeydError("TOKEN_FAILED", "spoilt"))
    assert refused_reason(author, "timestamp", author.timestamp(2, snapshot=3)) == "TOKEN_FAILED"
    behind = author.timestamp(3, snapshot=2)
    assert refused_reason(author, "timestamp", behind) == "SNAPSHOT_VERSION_DECREASED"
    assert author.sign("timestamp", "timestamp", author.timestamp(3, snapshot=3)).accepted
    # The retry that comes late is as harmless as it is old.
    assert author.sign("timestamp", "timestamp", author.timestamp(2, snapshot=3)).accepted
