"""Ratios within a round, and the verdicts on them."""

from __future__ import annotations

import pytest

from bench.figures import Figures
from bench.goals import Goal, all_goals
from bench.timing import Timing


def at(rate: float, p50_us: float = 1.0, p99_us: float = 1.0) -> Timing:
    return Timing(rate, p50_us, p99_us)


def goal(figures: Figures, name: str) -> Goal:
    [found] = [each for each in all_goals(figures) if each.name.startswith(name)]
    return found


def test_ratios_are_formed_within_a_round_and_then_the_median_is_taken() -> None:
    # The machine was twice as fast in the second round; the ratio of medians would be 0.3.
    figures = Figures(
        {
            "unary/unix/32": [at(100), at(400), at(90)],
            "noop/unix/32": [at(200), at(1000), at(300)],
        }
    )
    found = goal(figures, "unary, 32 callers: rate")
    assert found.measured == pytest.approx(0.4)
    assert found.verdict == "reached"


def test_one_caller_is_measured_beyond_its_floors() -> None:
    figures = Figures(
        {
            "unary/unix/1": [at(1, p50_us=1500)],
            "noop/unix/1": [at(1, p50_us=300)],
            "raw/p256/1": [at(1, p50_us=50)],
            "disk": [at(1, p50_us=120)],
        }
    )
    found = goal(figures, "unary, 1 caller: p50")
    assert found.measured == pytest.approx(1.5 - 0.3 - 0.05 - 0.24)
    assert found.verdict == "missed"


def test_the_index_job_is_a_multiple_of_raw_time() -> None:
    figures = Figures({"pep458": [at(5_000)], "raw/p256/1": [at(20_000)]})
    found = goal(figures, "PEP 458")
    assert found.measured == pytest.approx(4)
    assert found.verdict == "reached"


def test_growth_compares_the_largest_ledger_with_the_smallest() -> None:
    # The machine is twice as fast by then: each size is compared with raw signing at its time.
    figures = Figures(
        {
            "growth/raw/1000": [at(1000)],
            "growth/1000": [at(400)],
            "growth/10000": [at(9)],
            "growth/raw/100000": [at(2000)],
            "growth/100000": [at(600)],
        }
    )
    found = goal(figures, "100,000 records")
    assert found.measured == pytest.approx(0.75)
    assert found.verdict == "missed"


def test_a_slow_token_is_judged_by_its_sessions_and_its_delay() -> None:
    found = goal(Figures({"slow/unary/64": [at(600)]}), "slow token")
    assert found.measured == pytest.approx(0.75)
    assert found.verdict == "missed"


def test_variants_are_compared_with_the_plain_stand_in_each_turn() -> None:
    figures = Figures(
        {
            "memory/plain/unary": [at(90), at(400), at(80)],
            "memory/memory/unary": [at(100), at(500), at(100)],
            "keys/plain/batch": [at(100)],
            "keys/keys/batch": [at(97)],
        },
        {"keys/keys": 15},
    )
    assert goal(figures, "durable ledger, 32").measured == pytest.approx(0.8)
    assert goal(figures, "200 keys, batch: of 15").measured == pytest.approx(0.97)


def test_slow_schemes_are_judged_by_what_the_cores_allow() -> None:
    figures = Figures(
        {
            "unary/rsa3072/32": [at(800)],
            "raw/rsa3072/1": [at(500)],
            "verify/rsa3072": [at(20_000)],
            "noop/unix/32": [at(5_000)],
        }
    )
    allowed = 2 / (1 / 500 + 1 / 20_000 + 1 / 20_000 + 2 / 5_000)
    assert goal(figures, "rsa3072").measured == pytest.approx(800 / allowed)


def test_what_was_not_measured_is_said_so() -> None:
    goals = all_goals(Figures())
    assert {each.verdict for each in goals} == {"not measured"}
    assert len({each.name for each in goals}) == len(goals)


@pytest.mark.parametrize(
    ("measured", "at_most", "verdict"),
    [
        (0.2, False, "missed"),
        (0.3, False, "reached"),
        (0.5, False, "aim reached"),
        (0.2, True, "aim reached"),
        (0.51, True, "missed"),
    ],
)
def test_verdicts(measured: float, at_most: bool, verdict: str) -> None:
    limit, aim = (0.5, 0.3) if at_most else (0.3, 0.5)
    assert Goal("", measured, limit, aim, at_most).verdict == verdict
