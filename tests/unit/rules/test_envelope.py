"""Rules A2 to A5, A7 and A8: what every payload says about itself."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.domain import metadata_file
from keyd.domain.rules import judge
from keyd.domain.rules.expiry import exact_time, trusted_expiry
from keyd.domain.trust import KnownVersion, Question, default_rules
from tests.unit.rules.world import (
    NOW,
    Signed,
    ask,
    common,
    delegating,
    delegation,
    in_days,
    known,
    payload,
    put,
    refusals,
    root,
    snapshot,
    targets,
    timestamp,
    view,
)


@pytest.mark.parametrize(
    ("signed", "role"),
    [
        (targets(1), "targets"),
        (snapshot(1), "snapshot"),
        (timestamp(1), "timestamp"),
        (targets(1), "projects"),
    ],
    ids=["targets", "snapshot", "timestamp", "delegated"],
)
def test_an_honest_payload_passes(signed: Signed, role: str) -> None:
    delegator = payload(delegating(1, delegation("projects", "d1", paths=["*"])))
    delegators = (("targets", delegator),) if role == "projects" else ()
    judgement = ask(signed, view(role, delegators=delegators))
    assert judgement.findings == ()
    assert judgement.change is None


@pytest.mark.parametrize("role", ["root", "snapshot", "timestamp", "projects"])
def test_the_type_of_another_role_is_refused_alone(role: str) -> None:
    signed = root() if role == "projects" else targets(0)
    judgement = ask(signed, view(role), confirm=False)
    assert refusals(judgement) == ["ROLE_MISMATCH"]
    assert judgement.findings[0].malformed
    assert judgement.required == ()


def test_an_unknown_type_is_refused() -> None:
    # The parser refuses it first; rules do not rely on that.
    strange = payload(targets(1))
    strange = replace(strange, signed={**strange.signed, "_type": "Targets"})
    assert refusals(judge(Question(strange, NOW), view("targets"))) == ["ROLE_TYPE_UNKNOWN"]


@pytest.mark.parametrize(
    ("spec_version", "expected"),
    [
        ("1.0", []),
        ("1.0.34", []),
        ("1.20.300", []),
        ("2.0", ["UNSUPPORTED_SPEC_VERSION"]),
        ("0.9", ["UNSUPPORTED_SPEC_VERSION"]),
        ("1", ["SPEC_VERSION_MALFORMED"]),
        ("1.0.0.0", ["SPEC_VERSION_MALFORMED"]),
        ("01.0", ["SPEC_VERSION_MALFORMED"]),
        ("1.0-rc1", ["SPEC_VERSION_MALFORMED"]),
        ("1.\u0660", ["SPEC_VERSION_MALFORMED"]),
        ("", ["SPEC_VERSION_MALFORMED"]),
        ("1.0 ", ["SPEC_VERSION_MALFORMED"]),
    ],
)
def test_spec_version(spec_version: str, expected: Any) -> None:
    assert refusals(ask(targets(1), view("targets"), bend=put("/spec_version", spec_version))) == (
        expected
    )


@pytest.mark.parametrize(
    ("version", "high_water", "step_max", "expected"),
    [
        (1, 0, 1, []),
        (2, 1, 1, []),
        (100, 0, 100, []),
        (101, 0, 100, ["VERSION_STEP_TOO_LARGE"]),
        (102, 1, 100, ["VERSION_STEP_TOO_LARGE"]),
        (2**31 - 1, 0, 0, []),
        (2**31, 0, 0, ["VERSION_ABOVE_CEILING"]),
        (2**31, 2**31 - 1, 100, ["VERSION_ABOVE_CEILING"]),
        (0, 0, 1, ["VERSION_NOT_POSITIVE"]),
        (-1, 0, 1, ["VERSION_NOT_POSITIVE"]),
        (5, 5, 1, ["VERSION_NOT_INCREASING"]),
        (4, 5, 1, ["VERSION_NOT_INCREASING"]),
    ],
)
def test_version(version: int, high_water: int, step_max: int, expected: Any) -> None:
    rules = replace(default_rules("targets"), version_step_max=step_max)
    about = view("targets", rules=rules, high_water=high_water)
    assert refusals(ask(targets(version), about)) == expected


def test_a_version_with_another_payload_names_the_next_one() -> None:
    taken = KnownVersion("targets", 5, "cd" * 32, accepted=False)
    judgement = ask(targets(5), view("targets", high_water=7, known=known(taken)))
    assert refusals(judgement) == ["VERSION_ALREADY_SIGNED_DIFFERENTLY"]
    assert judgement.findings[0].details == {"next_version": "8"}
    assert judgement.findings[0].pointer == "/version"


def test_a_version_known_only_by_name_is_not_called_signed_differently() -> None:
    named = KnownVersion("targets", 5, "", accepted=True)
    judgement = ask(targets(5), view("targets", high_water=5, known=known(named)))
    assert refusals(judgement) == ["VERSION_NOT_INCREASING"]


def test_a_taken_root_version_names_no_other_because_root_cannot_skip() -> None:
    taken = KnownVersion("root", 2, "cd" * 32, accepted=False)
    judgement = ask(root(2), view("root", high_water=2, known=known(taken)))
    assert refusals(judgement) == ["VERSION_ALREADY_SIGNED_DIFFERENTLY"]
    assert "next_version" not in judgement.findings[0].details
    assert "quorum" in judgement.findings[0].message


@pytest.mark.parametrize(
    "expires",
    [
        "2030-6-2T00:00:00Z",
        "2031-01-01T00:00:00.5Z",
        "2031-01-01T00:00:00+00:00",
        "2031-01-01T00:00:00",
        "2031-01-01 00:00:00Z",
        "2031-02-30T00:00:00Z",
        "2031-01-01T24:00:00Z",
        "2031-01-01T23:59:60Z",
        "0000-01-01T00:00:00Z",
        "\uff12031-01-01T00:00:00Z",
        "",
    ],
)
def test_other_spellings_of_expires_are_malformed(expires: str) -> None:
    judgement = ask(targets(1), view("targets"), bend=put("/expires", expires))
    assert refusals(judgement) == ["EXPIRES_MALFORMED"]
    assert judgement.findings[0].malformed


@pytest.mark.parametrize(
    ("seconds_left", "expected"),
    [
        (-1, ["EXPIRED"]),
        (0, ["EXPIRED"]),
        (1, ["EXPIRY_OUT_OF_WINDOW"]),
        (99, ["EXPIRY_OUT_OF_WINDOW"]),
        (100, []),
        (200, []),
        (201, ["EXPIRY_OUT_OF_WINDOW"]),
    ],
)
def test_expiry_window_is_inclusive_and_equal_is_expired(seconds_left: int, expected: Any) -> None:
    rules = replace(default_rules("targets"), expiry_min_s=100, expiry_max_s=200)
    expires = datetime.fromisoformat(in_days(90))
    now = expires - timedelta(seconds=seconds_left)
    assert refusals(ask(targets(1), view("targets", rules=rules), now=now)) == expected


def test_all_objections_come_at_once() -> None:
    def bend(signed: Signed) -> None:
        signed.update(version=0, expires="soon", spec_version="3.0")

    judgement = ask(targets(1), view("targets"), bend=bend)
    assert refusals(judgement) == [
        "UNSUPPORTED_SPEC_VERSION",
        "VERSION_NOT_POSITIVE",
        "EXPIRES_MALFORMED",
    ]


@given(st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31)))  # noqa: DTZ001
def test_every_time_is_read_back_from_its_one_spelling(time: datetime) -> None:
    time = time.replace(microsecond=0, tzinfo=UTC)
    spelling = f"{time.year:04}-{time:%m-%dT%H:%M:%S}Z"
    assert exact_time(spelling) == time
    assert exact_time(spelling.replace("T", " ")) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2022-05-11T19:09:02.663975009Z", datetime(2022, 5, 11, 19, 9, 2, 663975, tzinfo=UTC)),
        (
            "2021-12-18T13:28:12.99008-06:00",
            datetime(2021, 12, 18, 13, 28, 12, 990080, tzinfo=timezone(timedelta(hours=-6))),
        ),
        ("2022-05-11", datetime(2022, 5, 11, tzinfo=UTC)),
        ("soon", None),
    ],
)
def test_trusted_metadata_may_spell_expiry_otherwise(text: str, expected: Any) -> None:
    assert trusted_expiry(payload({**common("targets", 1, 1), "targets": {}, "expires": text})) == (
        expected
    )


@pytest.mark.parametrize("character", ["\u00e9", "\u20ac", "\U0001f600"])
def test_a8_counts_what_a_file_takes(character: str) -> None:
    signed = targets(1, f"a/{character * 100}")
    written = len(metadata_file.write(payload(signed), [])) - len('{"signatures":[],"signed":}')
    for most, expected in ((written, []), (written - 1, ["PAYLOAD_TOO_LARGE"])):
        rules = replace(default_rules("targets"), payload_max_bytes=most)
        assert refusals(ask(signed, view("targets", rules=rules))) == expected
