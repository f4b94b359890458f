"""Watchers see the present first and never slow a token."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from keyd.backends.events import EventBus
from keyd.backends.state import StateBoard
from keyd.domain.tokens import TokenEvent, TokenEventKind, TokenState
from keyd.errors import BackendUnavailable
from tests.fakes import TestClock


def board(bus: EventBus) -> StateBoard:
    return StateBoard("hsm", TestClock(), bus)


def present(board: StateBoard) -> list[TokenEvent]:
    status = board.status
    return [TokenEvent(TokenEventKind.STATE_CHANGED, status, status.since)]


def test_a_watcher_gets_the_present_and_then_every_change() -> None:
    bus = EventBus()
    token = board(bus)
    events = bus.watch(lambda: present(token), lambda: False)
    assert next(events).status.state is TokenState.OFFLINE
    token.enter(TokenState.ONLINE)
    token.enter(TokenState.PIN_REQUIRED, "unlock it")
    seen = [next(events) for _ in range(3)]
    assert [event.status.state for event in seen[:2]] == [
        TokenState.ONLINE,
        TokenState.PIN_REQUIRED,
    ]
    assert seen[2].kind is TokenEventKind.PIN_WANTED


def test_the_same_state_again_is_no_event() -> None:
    bus = EventBus()
    token = board(bus)
    stopped = iter([False, True])
    events = bus.watch(lambda: present(token), lambda: next(stopped))
    next(events)
    token.enter(TokenState.OFFLINE, "not started")
    token.describe(lambda status: replace(status, strays=0))
    token.enter(TokenState.ONLINE)
    assert [event.status.state for event in events] == [TokenState.ONLINE]


def test_a_watcher_that_does_not_keep_up_loses_the_oldest() -> None:
    bus = EventBus()
    token = board(bus)
    events = bus.watch(lambda: present(token), lambda: False)
    next(events)
    for number in range(1000):
        token.describe(lambda status, n=number: replace(status, strays=n + 1))  # type: ignore[misc]
    first = next(events).status.strays
    assert first == 1000 - 256 + 1
    assert [next(events).status.strays for _ in range(255)][-1] == 1000


def test_since_is_when_the_state_began() -> None:
    clock = TestClock()
    token = StateBoard("hsm", clock, EventBus())
    token.enter(TokenState.RECOVERING, "one")
    since = token.status.since
    clock.advance(seconds=5)
    token.enter(TokenState.RECOVERING, "two")
    assert token.status.since == since
    token.enter(TokenState.ONLINE)
    assert token.status.since > since


def test_a_clock_that_is_not_sane_stops_no_token() -> None:
    class Jumping(TestClock):
        sane = True

        def now(self) -> datetime:
            if not self.sane:
                raise BackendUnavailable("CLOCK_JUMPED", "the clock jumped")
            return datetime(2030, 1, 1, tzinfo=UTC)

    clock = Jumping()
    token = StateBoard("hsm", clock, EventBus())
    clock.sane = False
    token.enter(TokenState.ONLINE)
    assert token.status.state is TokenState.ONLINE
    assert token.status.since == datetime(2030, 1, 1, tzinfo=UTC)
