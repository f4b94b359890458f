"""Lanes, watchdog and drain: the parts that count, cut and wait."""

from __future__ import annotations

import threading

import pytest

from keyd.errors import BackendUnavailable
from keyd.rpc.drain import Drain
from keyd.rpc.lanes import Lane, LaneName
from keyd.rpc.watchdog import Watchdog

SOON_S = 10.0


def test_a_lane_is_full_when_threads_and_queue_are() -> None:
    lane = Lane(LaneName.WORK, threads=2, queue=1)
    go = threading.Event()
    futures = []
    for _ in range(3):
        assert not lane.full
        futures.append(lane.submit(go.wait, SOON_S))
    assert lane.full
    go.set()
    assert all(future.result(SOON_S) for future in futures)
    lane.shutdown()
    assert lane.pending == 0


def test_a_lane_is_full_when_every_thread_is_at_work() -> None:
    lane = Lane(LaneName.WORK, threads=2, queue=100)
    seen = [lane.full]
    with lane.work(), lane.work():
        seen.append(lane.full)
    seen.append(lane.full)
    assert seen == [False, True, False]


def test_a_lane_counts_calls_that_raise() -> None:
    lane = Lane(LaneName.WORK, threads=1, queue=0)
    failed = lane.submit(int, "x")
    with pytest.raises(ValueError, match="invalid literal"):
        failed.result(SOON_S)
    lane.shutdown()
    assert lane.pending == 0
    with pytest.raises(RuntimeError):
        lane.submit(int)
    assert lane.pending == 0


@pytest.fixture
def watchdog() -> Watchdog:
    dog = Watchdog()
    dog.start()
    return dog


def test_watchdog_bites_once_who_is_late(watchdog: Watchdog) -> None:
    bitten = threading.Event()
    with watchdog.limit(0.0, bitten.set) as watch:
        assert bitten.wait(SOON_S)
        assert watch.fired
    watchdog.stop()


def test_watchdog_leaves_the_punctual_alone(watchdog: Watchdog) -> None:
    late = threading.Event()
    bitten: list[str] = []
    with watchdog.limit(0.0, lambda: bitten.append("punctual")):
        pass
    with watchdog.limit(0.0, late.set):
        assert late.wait(SOON_S)
    watchdog.stop()
    assert bitten == []


def test_drain_waits_for_calls_and_refuses_new_ones() -> None:
    drain = Drain()
    drain.check()
    entered, leave = threading.Event(), threading.Event()

    def work() -> None:
        with drain.call():
            entered.set()
            leave.wait(SOON_S)

    thread = threading.Thread(target=work)
    thread.start()
    assert entered.wait(SOON_S)
    drain.begin()
    with pytest.raises(BackendUnavailable, match="DRAINING"):
        drain.check()
    assert drain.pause(SOON_S)
    assert not drain.wait_idle(0.01)
    leave.set()
    assert drain.wait_idle(SOON_S)
    thread.join()
