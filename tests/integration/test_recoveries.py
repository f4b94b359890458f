"""Recoveries by fast-forward: what they may do, and nobody else, and which keys they need."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from keyd.domain.records_rotation import RotationState
from keyd.errors import PolicyViolation
from keyd.services.audit import ensure_log_key
from keyd.services.rotation import planning
from keyd.services.rotation.wanted import Wanted
from keyd.services.world import World
from tests.integration.rotating import (
    begin,
    carry_out,
    go_on,
    rotation_of,
    signed_roles,
    sound,
    world,
)
from tests.worlds import ADMIN, SIGNER, TIMEOUT_S, Author, active_author

__all__ = ["world"]


@pytest.fixture
def author(world: World) -> Author:
    """All roles but root at version 2."""
    ensure_log_key(world, "soft", TIMEOUT_S)
    author = active_author(world)
    author.sign("targets", "targets", author.targets(2))
    author.sign("snapshot", "snapshot", author.snapshot(2, targets=2))
    author.sign("timestamp", "timestamp", author.timestamp(2, 2))
    return author


def recovery(**lower: int) -> Wanted:
    """New keys for timestamp and snapshot."""
    timestamp = rotation_of("timestamp", "timestamp", "timestamp-2", "FAST_FORWARD")
    snapshot = rotation_of("snapshot", "snapshot", "snapshot-2")
    return replace(timestamp, roles=(*timestamp.roles, *snapshot.roles), lower=lower)


@pytest.mark.parametrize(
    "lower", [{"timestamp": 1}, {"targets": 2}, {"timestamp": 1, "snapshot": 1, "targets": 1}]
)
def test_nobody_else_lists_lower_versions(
    world: World, author: Author, lower: dict[str, int]
) -> None:
    begin(world, recovery(**lower))
    with pytest.raises(PolicyViolation) as refused:
        author.sign("snapshot", "snapshot", author.snapshot(3, targets=1), SIGNER)
    assert refused.value.reason == "SNAPSHOT_ENTRY_DECREASED"
    with pytest.raises(PolicyViolation) as refused:
        author.sign("timestamp", "timestamp", author.timestamp(3, 1), SIGNER)
    assert refused.value.reason == "SNAPSHOT_VERSION_DECREASED"


def test_the_recovery_itself_does(world: World, author: Author, tmp_path: Path) -> None:
    lower = {"timestamp": 1, "snapshot": 1, "targets": 1}
    name = begin(world, recovery(**lower))
    assert go_on(world, name).progress.rotation.state is RotationState.READY
    assert signed_roles(world, name) == ["root", "targets", "snapshot", "timestamp"]
    found = {role.name: role for role in world.ledger.read(lambda view: view.roles("demo"))}
    for role, version in lower.items():
        assert (found[role].epoch, found[role].trusted_version) == (1, version)
    sound(world, tmp_path)


def test_a_key_of_an_earlier_root_does_not_come_back(world: World, author: Author) -> None:
    """What it signed above would be valid again, for clients that slept and those that did not."""
    author.sign("timestamp", "timestamp", author.timestamp(90, 2))
    carry_out(world, rotation_of("timestamp", "timestamp", "timestamp-2"))
    wanted = rotation_of("timestamp", "timestamp-2", "timestamp", "FAST_FORWARD")
    wanted = replace(wanted, lower={"timestamp": 3})
    found = planning.plan(world, ADMIN, wanted).findings
    (said,) = [each.message for each in found if each.reason == "FAST_FORWARD_INCOMPLETE"]
    assert "higher versions, timestamp would be listed for timestamp afterwards" in said
