"""Quotas of one identity do not touch another's, and come back with time."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.errors import Exhausted
from keyd.rpc import limits
from keyd.rpc.lanes import LaneName
from keyd.rpc.options import Quota
from keyd.rpc.quotas import Quotas

QUOTA = Quota(calls_in_flight=3, calls_per_s=10, bytes_per_s=1000, watches=1)


class Ticking:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def call(quotas: Quotas, principal: str = "ci", lane: LaneName = LaneName.WORK) -> None:
    with quotas.admit(principal, lane):
        pass


def reason(quotas: Quotas, principal: str = "ci", lane: LaneName = LaneName.WORK) -> str:
    with pytest.raises(Exhausted) as refused:
        call(quotas, principal, lane)
    assert refused.value.retry_after_s is not None
    assert refused.value.retry_after_s > 0
    return refused.value.reason


def test_calls_in_flight_per_identity_and_lane() -> None:
    quotas = Quotas(QUOTA, Ticking())
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(quotas.admit("ci", LaneName.WORK))
        assert reason(quotas) == "QUOTA_CALLS_IN_FLIGHT"
        call(quotas, "somebody else")
        call(quotas, "ci", LaneName.HEALTH)
        stack.enter_context(quotas.admit("ci", LaneName.WATCH))
        assert reason(quotas, "ci", LaneName.WATCH) == "QUOTA_CALLS_IN_FLIGHT"
    call(quotas)


def test_unread_answers_are_bounded_per_identity() -> None:
    quotas = Quotas(QUOTA, Ticking())
    with ExitStack() as stack:
        # One alone is never too large.
        stack.enter_context(quotas.unread("ci", limits.UNREAD_MAX + 1))
        with pytest.raises(Exhausted, match="QUOTA_UNREAD_ANSWERS"), quotas.unread("ci", 0):
            pass
        assert reason(quotas) == "QUOTA_UNREAD_ANSWERS"
        with quotas.unread("somebody else", 100):
            call(quotas, "somebody else")
    call(quotas)


def test_small_unread_answers_add_up() -> None:
    quotas = Quotas(QUOTA, Ticking())
    with ExitStack() as stack:
        for _ in range(limits.UNREAD_MAX // (16 * limits.KIB)):
            stack.enter_context(quotas.unread("ci", 1))
        with pytest.raises(Exhausted, match="QUOTA_UNREAD_ANSWERS"):
            stack.enter_context(quotas.unread("ci", 1))


def test_a_failed_call_gives_its_place_back() -> None:
    quotas = Quotas(QUOTA, Ticking())
    for _ in range(20):
        with pytest.raises(ValueError, match="boom"), quotas.admit("ci", LaneName.WORK):
            raise ValueError("boom")
    assert reason(quotas) == "QUOTA_CALL_RATE"


def test_call_rate_and_its_return() -> None:
    ticking = Ticking()
    quotas = Quotas(QUOTA, ticking)
    for _ in range(20):
        call(quotas)
    assert reason(quotas) == "QUOTA_CALL_RATE"
    call(quotas, "somebody else")
    ticking.now += 0.1
    call(quotas)
    assert reason(quotas) == "QUOTA_CALL_RATE"


def test_the_wait_that_is_told_is_enough() -> None:
    ticking = Ticking()
    quotas = Quotas(QUOTA, ticking)
    quotas.spend_bytes("ci", 2000)
    with pytest.raises(Exhausted) as refused:
        quotas.spend_bytes("ci", 700)
    assert refused.value.retry_after_s is not None
    ticking.now += refused.value.retry_after_s + 1e-6
    quotas.spend_bytes("ci", 700)


def test_a_message_beyond_the_burst_waits_for_a_full_bucket() -> None:
    ticking = Ticking()
    quotas = Quotas(QUOTA, ticking)
    quotas.spend_bytes("ci", 4000)
    with pytest.raises(Exhausted, match="QUOTA_BYTE_RATE"):
        quotas.spend_bytes("ci", 1)
    ticking.now += 2.1
    quotas.spend_bytes("ci", 1)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 3000)), max_size=100))
def test_never_more_than_rate_and_burst(steps: list[tuple[float, int]]) -> None:
    """What passes in a time is at most the burst, the rate times the time, and one debt."""
    ticking = Ticking()
    quotas = Quotas(QUOTA, ticking)
    passed = 0
    for pause, amount in steps:
        ticking.now += pause
        try:
            quotas.spend_bytes("ci", amount)
        except Exhausted:
            continue
        passed += amount
    assert passed <= 2000 + 1000 * ticking.now + 1000


def test_forgets_idle_identities_only() -> None:
    quotas = Quotas(QUOTA, Ticking())
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(quotas.admit("busy", LaneName.WORK))
        for number in range(5000):
            call(quotas, f"passer-by {number}")
        assert reason(quotas, "busy") == "QUOTA_CALLS_IN_FLIGHT"
        assert len(quotas._usage) <= 4096
