"""What is computed from measured durations; how long anything takes is never tested."""

from __future__ import annotations

import json
import time

import pytest

from bench.timing import Timing, closed_loop, middle, percentile, summarize


def test_percentiles_are_values_that_were_measured() -> None:
    ordered = [float(value) for value in range(1, 101)]
    assert percentile(ordered, 0.5) == 51
    assert percentile(ordered, 0.99) == 100
    assert percentile([7.0], 0.99) == 7


def test_a_rate_counts_over_the_whole_time() -> None:
    timing = summarize([0.003, 0.001, 0.002], 0.5)
    assert timing.rate == pytest.approx(6)
    assert timing.p50_us == pytest.approx(2000)
    assert timing.p99_us == pytest.approx(3000)


def test_nothing_measured_is_no_figure() -> None:
    with pytest.raises(ValueError, match="nothing was finished"):
        summarize([], 1.0)


def test_the_median_is_taken_of_every_figure_by_itself() -> None:
    rounds = [
        Timing(1, 30, 300, 5, {"client": 7}),
        Timing(3, 10, 200, 6, {"client": 9}),
        Timing(2, 20, 100, 7, {"client": 8}),
    ]
    assert middle(rounds) == Timing(2, 20, 200, 18, {"client": 8})


def test_timings_survive_the_pipe() -> None:
    timing = Timing(1.5, 2.5, 3.5, 4, {"client": 5.5, "daemon": 6.5})
    assert Timing.of(json.loads(json.dumps(timing.told()))) == timing
    assert timing.cpu_all_us == pytest.approx(12)


def test_more_may_be_done_than_was_timed() -> None:
    assert summarize([0.1, 0.1], 1.0).done == 2
    assert summarize([0.1, 0.1], 1.0, 5) == Timing(2, 1e5, 1e5, 5)


def test_every_work_of_a_closed_loop_runs_in_a_thread_of_its_own() -> None:
    calls = [0, 0]

    def work(number: int) -> None:
        calls[number] += 1

    timing = closed_loop([lambda: work(0), lambda: work(1)], 0.05)
    assert min(calls) > 0
    assert timing.done == sum(calls)
    assert timing.rate > 0


def test_a_failing_work_fails_the_measurement() -> None:
    def work() -> None:
        raise RuntimeError("refused")

    with pytest.raises(RuntimeError, match="refused"):
        closed_loop([work], 0.05)


def test_calls_that_began_while_warming_up_count_when_they_end() -> None:
    durations = iter([0.3, *[0.02] * 1000])
    timing = closed_loop([lambda: time.sleep(next(durations))], 1.0)
    assert timing.p99_us >= 300_000


def test_what_takes_longer_than_the_measuring_time_is_measured_all_the_same() -> None:
    timing = closed_loop([lambda: time.sleep(0.4)], 0.05)
    assert timing.done == 1
    assert 0 < timing.rate < 2.6
