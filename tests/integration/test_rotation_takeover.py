"""A role whose name was somebody else's before: its rotation asks its delegator of today."""

from __future__ import annotations

from pathlib import Path

from keyd.services.audit import ensure_log_key
from keyd.services.world import World
from tests.integration.rotating import carry_out, rotation_of, signed_roles, sound, world
from tests.worlds import TIMEOUT_S, active_author, make_key

__all__ = ["world"]


def test_who_delegated_a_role_before_has_no_part_in_its_rotation(
    world: World, tmp_path: Path
) -> None:
    ensure_log_key(world, "soft", TIMEOUT_S)
    author = active_author(world)
    author.keys |= {name: make_key(world, name) for name in ("mallory", "sly", "alpha")}
    # By name before "targets": whoever took the first delegator would take this one.
    author.sign("targets", "targets", author.delegating(2, mallory=(1, ["mallory"])))
    author.sign("mallory", "mallory", author.delegating(1, late=(1, ["sly"])))
    author.sign("targets", "targets", author.targets(3))
    author.sign("targets", "targets", author.delegating(4, late=(1, ["alpha"])))
    author.sign("alpha", "late", author.targets(1))
    author.sign("snapshot", "snapshot", author.snapshot(2, targets=4, late=1))
    author.sign("timestamp", "timestamp", author.timestamp(2, snapshot=2))
    went = carry_out(world, rotation_of("late", "alpha", "alpha-2", kind="DELEGATED"))
    signed = signed_roles(world, went.progress.rotation.name)
    assert signed == ["targets", "late", "snapshot", "timestamp"]
    sound(world, tmp_path)
