"""Token calls that stay open are closed under way; one that ends after all is recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyd.ledger.verification.verify import verify_ledger
from keyd.services.recovery import Unended
from keyd.services.world import World
from tests.fakes import SoftwareToken, TestClock
from tests.ledgers import Home
from tests.worlds import active_author, open_world


class Crash(BaseException):
    """What no service catches, like the end of a thread."""


@pytest.fixture
def world(tmp_path: Path) -> World:
    return open_world(tmp_path)


def parts(world: World) -> tuple[SoftwareToken, TestClock]:
    token, clock = world.tokens.get("soft"), world.clock
    assert isinstance(token, SoftwareToken)
    assert isinstance(clock, TestClock)
    return token, clock


def test_only_what_no_call_can_still_end_is_closed(world: World, tmp_path: Path) -> None:
    author = active_author(world)
    token, clock = parts(world)
    unended = Unended(world.ledger, clock)

    def crash() -> None:
        raise Crash

    token.before_sign = crash
    with pytest.raises(Crash):
        author.sign("timestamp", "timestamp", author.timestamp(2))
    assert unended.close() == 0
    clock.advance(seconds=40.0)
    assert unended.close() == 0
    clock.advance(seconds=10.0)
    assert unended.close() == 1
    assert unended.close() == 0
    report = verify_ledger(Home(tmp_path).state, anchor=Home(tmp_path).anchor)
    assert (report.open_intents, report.flaws) == (0, [])


def test_a_call_that_ends_after_all_is_recorded_as_it_ended(world: World, tmp_path: Path) -> None:
    author = active_author(world)
    token, clock = parts(world)
    unended = Unended(world.ledger, clock)

    def be_slow() -> None:
        unended.close()
        clock.advance(seconds=50.0)
        assert unended.close() == 1

    token.before_sign = be_slow
    intents = len(world.ledger.read(lambda view: view.open_intents()))
    released = author.sign("timestamp", "timestamp", author.timestamp(2))
    assert intents == 0
    assert not released.replayed
    assert not world.ledger.read(lambda view: view.open_intents())
    report = verify_ledger(Home(tmp_path).state, anchor=Home(tmp_path).anchor)
    assert (report.open_intents, report.flaws) == (0, [])
