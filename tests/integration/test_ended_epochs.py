"""What was signed in an epoch that a recovery has ended stays there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from keyd.domain.records import Role
from keyd.services.imports import import_metadata
from keyd.services.world import World
from tests.fakes import SoftwareToken
from tests.worlds import SIGNER, Author, active_author, open_world, signed_file


@pytest.fixture
def author(tmp_path: Path) -> Author:
    return active_author(open_world(tmp_path))


def timestamp_role(world: World) -> Role:
    found = world.ledger.read(lambda view: view.role("demo", "timestamp"))
    assert found is not None
    return found


def begin_epoch(world: World, mark: int) -> None:
    role = timestamp_role(world)
    lowered = replace(role, epoch=role.epoch + 1, high_water=mark)
    world.ledger.transact(lambda tx: tx.put_role(lowered))


def test_a_signature_that_comes_after_its_epoch_is_not_trusted(author: Author) -> None:
    world, token = author.world, author.world.tokens.get("soft")
    assert isinstance(token, SoftwareToken)
    token.before_sign = lambda: begin_epoch(world, mark=1)
    late = author.sign("timestamp", "timestamp", author.timestamp(100))
    token.before_sign = lambda: None
    assert late.signature
    role = timestamp_role(world)
    assert (role.epoch, role.high_water, role.trusted_version) == (1, 1, 1)
    assert author.sign("timestamp", "timestamp", author.timestamp(2)).accepted
    assert timestamp_role(world).trusted_version == 2


def test_a_version_of_an_ended_epoch_is_not_imported_into_the_next(author: Author) -> None:
    world, high = author.world, author.timestamp(100)
    assert author.sign("timestamp", "timestamp", high).accepted
    begin_epoch(world, mark=4)
    before = timestamp_role(world)
    file = signed_file(author, high, "timestamp")
    [taken] = import_metadata(world, SIGNER, repository="demo", files=[("timestamp", file)])
    assert (taken.recorded, taken.raised_mark) == (True, False)
    assert timestamp_role(world) == before
    assert author.sign("timestamp", "timestamp", author.timestamp(5)).accepted
    assert timestamp_role(world).trusted_version == 5
