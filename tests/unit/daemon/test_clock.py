"""The clock that expiry is judged by: steps are refused, slewing and suspension are not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keyd.daemon.clock import EARLIEST, SystemClock, check_clock_against_log
from keyd.domain.audit import Entry, Event
from keyd.errors import BackendUnavailable
from keyd.ledger.create import create_ledger
from keyd.ledger.opening import open_ledger

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()


class Hands:
    """Wall time and time since boot, moved by hand."""

    def __init__(self) -> None:
        self.wall = NOON
        self.boot = 1000.0
        self.clock = SystemClock(lambda: self.wall, lambda: self.boot)

    def move(self, wall: float, boot: float) -> None:
        self.wall += wall
        self.boot += boot


@pytest.mark.parametrize("seconds", [0.0, 1.0, 86_400.0, 900 * 86_400.0])
def test_time_passes(seconds: float) -> None:
    hands = Hands()
    hands.move(seconds, seconds)
    assert hands.clock.now() == datetime.fromtimestamp(NOON + seconds, UTC)


@pytest.mark.parametrize("step", [301.0, -301.0, 3600.0, -3600.0, 900 * 86_400.0, -300 * 86_400.0])
def test_a_step_is_refused_until_the_clock_is_right_again(step: float) -> None:
    hands = Hands()
    hands.move(60 + step, 60)
    for _ in range(3):
        with pytest.raises(BackendUnavailable, match="CLOCK_JUMPED"):
            hands.clock.now()
        hands.move(10, 10)
    hands.move(-step, 0)
    assert hands.clock.now() == datetime.fromtimestamp(NOON + 90, UTC)


def test_slewing_is_no_step() -> None:
    """NTP may slew 500 ppm for weeks: many small differences, none of them a step."""
    hands = Hands()
    for _ in range(24 * 30):
        hands.move(3600 * 1.0005, 3600)
        hands.clock.now()
    assert hands.wall - NOON - (hands.boot - 1000) > 300


@pytest.mark.parametrize("step", [299.0, -299.0, 61.0, -61.0])
def test_small_steps_do_not_add_up(step: float) -> None:
    hands = Hands()
    believed = [0.0]

    def walk() -> None:
        for second in range(1, 100):
            hands.move(1 + step, 1)
            believed.append(hands.clock.now().timestamp() - NOON - second)

    with pytest.raises(BackendUnavailable, match="CLOCK_JUMPED"):
        walk()
    assert 0 < max(map(abs, believed)) <= 301


def test_a_small_step_now_and_then_is_no_jump() -> None:
    """A paused machine that is set right after each of its nightly backups."""
    hands = Hands()
    for _ in range(365):
        hands.move(86_400 + 120, 86_400)
        hands.clock.now()


@pytest.mark.parametrize("wall", [-1e18, -1.0, 0.0])
def test_a_clock_before_its_epoch_is_refused(wall: float) -> None:
    clock = SystemClock(lambda: wall, lambda: 1000.0)
    with pytest.raises(BackendUnavailable, match="CLOCK_BEFORE_BUILD"):
        clock.now()


# The last one is the last second that a 64-bit count of nanoseconds, and with it Linux, knows.
@pytest.mark.parametrize("wall", [2**31 - 1.0, 2**31 + 0.0, 2**32 + 0.0, 2**63 // 10**9 + 0.0])
def test_counters_may_overflow_elsewhere(wall: float) -> None:
    clock = SystemClock(lambda: wall, lambda: 1000.0)
    assert clock.now().timestamp() == wall


def test_a_clock_before_the_program_is_refused() -> None:
    hands = Hands()
    hands.wall = EARLIEST.timestamp() - 1
    clock = SystemClock(lambda: hands.wall, lambda: hands.boot)
    with pytest.raises(BackendUnavailable, match="CLOCK_BEFORE_BUILD"):
        clock.now()


def test_the_real_clocks_agree() -> None:
    clock = SystemClock()
    assert abs((clock.now() - datetime.now(UTC)).total_seconds()) < 5
    assert clock.monotonic() <= clock.monotonic()


@pytest.mark.parametrize(("behind", "refused"), [(0, False), (299, False), (301, True)])
def test_a_clock_behind_the_log_is_refused(tmp_path: Path, behind: int, refused: bool) -> None:
    real = SystemClock()
    create_ledger(tmp_path / "ledger", origin="test/log", development=True, clock=real)
    ledger = open_ledger(tmp_path / "ledger")
    try:
        later = real.now() + timedelta(seconds=behind)
        ledger.transact(lambda tx: tx.append(Entry(Event.POLICY_LOADED, later, "keyd")))
        if refused:
            with pytest.raises(BackendUnavailable, match="CLOCK_BEHIND_LOG"):
                check_clock_against_log(real, ledger)
        else:
            check_clock_against_log(real, ledger)
    finally:
        ledger.close()
