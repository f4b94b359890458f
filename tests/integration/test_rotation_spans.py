"""How long things may last: grace times and lifetimes that are given with a rotation."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from keyd.domain.trust import default_rules
from keyd.errors import InvalidRequest
from keyd.services.rotation import advancing, planning, retiring, starting
from keyd.services.world import World
from tests.integration.rotating import carry_out, go_on, rotation_of, world
from tests.worlds import ADMIN, Author, active_author

__all__ = ["world"]


@pytest.fixture
def author(world: World) -> Author:
    return active_author(world)


def test_a_grace_time_that_nobody_lives_to_see_is_refused(world: World, author: Author) -> None:
    """Added to a time, it would be none."""
    wanted = rotation_of("timestamp", "timestamp", "timestamp-2")
    digest = planning.plan(world, ADMIN, wanted).digest
    with pytest.raises(InvalidRequest, match="GRACE_TOO_LONG"):
        starting.start(world, ADMIN, wanted, digest, grace_s=starting.GRACE_MAX_S + 1)
    started = starting.start(world, ADMIN, wanted, digest, grace_s=starting.GRACE_MAX_S)
    go_on(world, started.rotation.name)
    advancing.confirm_published(world, ADMIN, started.rotation.name)
    assert retiring.retire_due(world) == 0


def test_a_root_for_ever_lasts_as_long_as_its_rules_allow(world: World, author: Author) -> None:
    wanted = replace(rotation_of("root", "root-1", "root-4"), root_lifetime_s=2**62)
    name = carry_out(world, wanted).progress.rotation.name
    root = advancing.released_files(world, ADMIN, name)[0].content
    assert root is not None
    expires = datetime.fromisoformat(json.loads(root)["signed"]["expires"])
    latest = world.clock.now() + timedelta(seconds=default_rules("root").expiry_max_s)
    assert abs(latest - expires) < timedelta(hours=1)
