"""How early a renewal must begin."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from keyd.domain.runway import Runway

EXPIRES = datetime(2030, 6, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("people", "approvals", "takes"),
    [
        ((), 0, timedelta(hours=1)),
        (("dave",), 0, timedelta(days=3, hours=1)),
        (("dave", "erin"), 0, timedelta(days=4, hours=1)),
        (("dave",), 2, timedelta(days=5, hours=1)),
        ((), 2, timedelta(days=4, hours=1)),
    ],
)
def test_people_take_days(people: tuple[str, ...], approvals: int, takes: timedelta) -> None:
    assert Runway(EXPIRES, people, approvals).takes == takes


def test_what_takes_long_begins_early() -> None:
    assert Runway(EXPIRES).begin_by == EXPIRES - timedelta(hours=2)
    assert Runway(EXPIRES, ("dave",)).begin_by == EXPIRES - timedelta(days=6, hours=2)


@pytest.mark.parametrize(("role", "days"), [("root", 30), ("targets", 7)])
def test_offline_roles_begin_early_anyway(role: str, days: int) -> None:
    assert Runway(EXPIRES, role=role).begin_by == EXPIRES - timedelta(days=days)
    long = Runway(EXPIRES, tuple("abcdefghijklmnopqrst"), 0, role)
    assert long.begin_by < EXPIRES - timedelta(days=days)
