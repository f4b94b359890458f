"""Request ids are forgotten after a while, a few at a time; nothing that matters rests on them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from keyd.domain.keys import Content, Key, KeySpec, Scheme
from keyd.domain.records import RequestRecord
from keyd.errors import AlreadyExists, Equivocation, InvalidRequest
from keyd.ledger.database import DATABASE
from keyd.ledger.request_ids import REMEMBERED
from keyd.ports import Transaction
from keyd.services.key_creation import create_key
from keyd.services.world import World
from tests.fakes import TestClock
from tests.worlds import ADMIN, SIGNER, TIMEOUT_S, Author, active_author, open_world

EACH = 4


@dataclass
class Scene:
    world: World
    clock: TestClock
    database: Path

    def put(self, *names: str) -> None:
        """Remember ids at the present time, in one transaction."""

        def work(tx: Transaction) -> None:
            for name in names:
                tx.put_request(RequestRecord("unix:me", name, "1" * 64, "x", self.clock.now()))

        self.world.ledger.transact(work)

    def known(self) -> set[str]:
        with closing(sqlite3.connect(self.database)) as connection:
            return {row[0] for row in connection.execute("SELECT request_id FROM requests")}


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    clock = TestClock()
    return Scene(open_world(tmp_path, clock=clock), clock, tmp_path / "ledger" / DATABASE)


def test_no_more_is_kept_than_its_time_asks_for(scene: Scene) -> None:
    for day in range(40):
        for hour in range(24):
            scene.put(f"{day}-{hour}")
            scene.clock.advance(hours=1)
    week = REMEMBERED // timedelta(hours=1)
    assert len(scene.known()) == week + 1
    assert f"{40 - REMEMBERED.days}-0" in scene.known()


def test_a_backlog_shrinks_in_bounded_steps_oldest_first(scene: Scene) -> None:
    for number in range(100):
        scene.put(f"old-{number:03}")
        scene.clock.advance(seconds=1)
    scene.clock.advance(days=REMEMBERED.days)
    scene.put("new-1")
    assert scene.known() == {"new-1"} | {f"old-{number:03}" for number in range(EACH, 100)}
    scene.put(*(f"more-{number}" for number in range(10)))
    assert len(scene.known()) == 11 + 100 - 11 * EACH
    scene.put(*(f"still-{number}" for number in range(30)))
    assert not [name for name in scene.known() if name.startswith("old")]


def test_nothing_is_forgotten_by_a_piece_that_fails(scene: Scene) -> None:
    scene.put("old")
    scene.clock.advance(days=REMEMBERED.days + 1)
    record = RequestRecord("unix:me", "new", "1" * 64, "x", scene.clock.now())

    def fails(tx: Transaction) -> None:
        tx.put_request(record)
        raise InvalidRequest("REFUSED", "after all")

    with pytest.raises(InvalidRequest):
        scene.world.ledger.transact(fails)
    assert scene.known() == {"old"}


def test_a_forgotten_id_lets_nothing_happen_twice(scene: Scene) -> None:
    author = active_author(scene.world)
    signed, other = author.targets(2, days=60), author.targets(2, days=61)
    first = author.sign("targets", "targets", signed, request_id="mine")
    with pytest.raises(InvalidRequest, match="REQUEST_ID_REUSED"):
        author.sign("targets", "targets", other, request_id="mine")
    make_forget(scene, author)
    again = author.sign("targets", "targets", signed, request_id="mine")
    assert again.replayed
    assert again.signature == first.signature
    with pytest.raises(Equivocation, match="VERSION_ALREADY_SIGNED_DIFFERENTLY"):
        author.sign("targets", "targets", other, request_id="another")


def test_a_key_is_made_once_whether_its_id_is_remembered_or_not(scene: Scene) -> None:
    author = active_author(scene.world)
    key = creating(scene.world)
    assert creating(scene.world) == key
    make_forget(scene, author)
    with pytest.raises(AlreadyExists, match="KEY_EXISTS"):
        creating(scene.world)


def creating(world: World) -> Key:
    return create_key(
        world,
        ADMIN,
        name="fresh",
        token="soft",
        spec=KeySpec(Scheme.ED25519),
        content=Content.TUF,
        request_id="mine",
        timeout_s=TIMEOUT_S,
    )


def make_forget(scene: Scene, author: Author) -> None:
    """Let the time pass, and calls with ids of their own come."""
    scene.clock.advance(days=REMEMBERED.days, seconds=1)
    for version in (2, 3):
        timestamp = author.timestamp(version)
        author.sign("timestamp", "timestamp", timestamp, SIGNER, request_id=f"t-{version}")
    assert "mine" not in scene.known()
