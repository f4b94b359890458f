"""Nobody takes the room in which others propose."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from keyd.domain import canonical
from keyd.domain.operations import SetBaseRule, SignMetadata
from keyd.domain.payload import parse
from keyd.errors import Exhausted
from keyd.services import proposal_room, proposals
from keyd.services.world import World
from tests.fakes import TestClock
from tests.officers import LIFETIME_S, enrol, person, propose
from tests.worlds import ADMIN, SIGNER, Author, active_author, open_world

REASON = "TOO_MANY_PROPOSALS_OF_CALLER"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    opened = open_world(tmp_path, clock=TestClock())
    enrol(opened, person("ann"), person("ben"), person("cat"))
    yield opened
    opened.ledger.close()


def base_rule(number: int) -> SetBaseRule:
    return SetBaseRule(2 + number)


def refused(world: World, number: int) -> str:
    with pytest.raises(Exhausted) as caught:
        propose(world, base_rule(number), caller=SIGNER)
    assert "cancel" in caught.value.message
    return caught.value.reason


def test_a_principal_has_so_many_and_others_have_theirs(world: World) -> None:
    first = propose(world, base_rule(0), caller=SIGNER)
    for number in range(1, proposal_room.MAX_OPEN_EACH):
        propose(world, base_rule(number), caller=SIGNER)
    assert refused(world, 1_000) == REASON
    propose(world, base_rule(1_000), caller=ADMIN)
    # What is open already is found, however many there are.
    assert propose(world, base_rule(0), caller=SIGNER).proposal == first.proposal
    proposals.cancel(world, SIGNER, first.proposal.name)
    propose(world, base_rule(2_000), caller=SIGNER)
    assert refused(world, 2_001) == REASON
    assert isinstance(world.clock, TestClock)
    world.clock.advance(seconds=LIFETIME_S)
    propose(world, base_rule(2_001), caller=SIGNER)


def test_payloads_of_a_principal_are_counted_in_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = open_world(tmp_path, clock=TestClock())
    roots = [
        root_of(active_author(world)),
        root_of(active_author(world, "other", prefix="o-")),
    ]
    enrol(world, person("ann"), person("ben"), person("cat"))
    size = len(roots[0][1])
    propose(world, *roots[0], caller=SIGNER)
    monkeypatch.setattr(proposal_room, "MAX_PAYLOAD_BYTES_EACH", 2 * size - 1)
    with pytest.raises(Exhausted, match="bytes of payloads") as caught:
        propose(world, *roots[1], caller=SIGNER)
    assert caught.value.reason == REASON
    # Without a payload there is nothing to count; others have room of their own.
    propose(world, base_rule(1), caller=SIGNER)
    propose(world, *roots[1], caller=ADMIN)
    world.ledger.close()


def root_of(author: Author) -> tuple[SignMetadata, bytes]:
    raw = canonical.encode(author.root(2))
    digest = parse(raw, max_bytes=10**6).digest
    return SignMetadata(author.repository, "root", 0, 2, digest), raw
