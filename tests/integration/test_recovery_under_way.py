"""While a recovery waits, everybody else's payloads are judged as ever."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from keyd.domain.records_rotation import RotationState
from keyd.errors import PolicyViolation
from keyd.services.audit import ensure_log_key
from keyd.services.rotation.wanted import Wanted
from keyd.services.world import World
from tests.integration.rotating import begin, go_on, rotation_of, signed_roles, sound, world
from tests.worlds import SIGNER, TIMEOUT_S, Author, active_author

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
