"""Operations that nobody could read are refused before anybody is asked."""

from __future__ import annotations

import json

import pytest

from keyd.domain import canonical, operations
from keyd.domain.operations import (
    ChangeKeyState,
    ChangeOfficer,
    CreateKey,
    SetRoleRules,
    StartRotation,
    SucceedOfficer,
)
from keyd.errors import InvalidRequest
from tests.officers import person

ANN = person("ann")
OFFICER = json.loads(operations.officer_text(ANN.officer))


@pytest.mark.parametrize(
    "officer",
    [
        canonical.encode({**OFFICER, "groups": ["qa", 1]}).decode(),
        canonical.encode({**OFFICER, "groups": "qa"}).decode(),
        canonical.encode({**OFFICER, "name": {}}).decode(),
        canonical.encode({**OFFICER, "name": 5}).decode(),
        canonical.encode({**OFFICER, "more": "unseen"}).decode(),
        operations.officer_text(ANN.officer).replace('"name"', '"name":"eve","name"'),
        "[]",
    ],
)
def test_an_officer_who_cannot_be_shown_is_no_operation(officer: str) -> None:
    """One such proposal would have broken every list of proposals."""
    assert_refused(officer, "OPERATION_MALFORMED")


@pytest.mark.parametrize(
    "officer",
    [
        {**OFFICER, "name": "\u0430nn"},
        {**OFFICER, "name": "ann\u200b"},
        {**OFFICER, "name": "\u202eann"},
        {**OFFICER, "name": "Ann"},
        {**OFFICER, "name": ""},
        {**OFFICER, "groups": ["q\u0430"]},
        {**OFFICER, "groups": ["qa\u200d"]},
        {**OFFICER, "principals": ["unix:ann\u200b"]},
        {**OFFICER, "principals": ["unix:\x9b2Jann"]},
    ],
)
def test_nobody_is_enrolled_who_reads_like_another(officer: dict[str, object]) -> None:
    assert_refused(canonical.encode(officer).decode(), "NAME_INVALID")


def assert_refused(officer: str, reason: str) -> None:
    """Whether it is changed, leaves, or takes a place."""
    good = operations.officer_text(person("ben").officer)
    for operation in (
        ChangeOfficer(officer, ""),
        SucceedOfficer(officer, "0" * 64, good),
        SucceedOfficer(good, "0" * 64, officer),
    ):
        with pytest.raises(InvalidRequest) as refused:
            operations.decode(operations.encode(operation))
        assert refused.value.reason == reason, operation


def test_a_state_that_no_key_has_is_no_operation() -> None:
    with pytest.raises(InvalidRequest) as refused:
        operations.decode(operations.encode(ChangeKeyState("k", "0" * 64, "ACTIVE", "GONE")))
    assert refused.value.reason == "OPERATION_MALFORMED"


@pytest.mark.parametrize(
    "operation",
    [
        StartRotation("../demo", "0" * 64),
        StartRotation("demo\x9b2J", "0" * 64),
        SetRoleRules("demo", "root\x9b2J", "{}"),
        ChangeKeyState("a/b", "0" * 64, "ACTIVE", "SUSPENDED"),
        CreateKey("key", "token\u202e", "ed25519", 0, "tuf"),
    ],
)
def test_a_name_that_is_none_is_no_operation(operation: operations.Operation) -> None:
    """Names reach terminals and file names."""
    with pytest.raises(InvalidRequest) as refused:
        operations.decode(operations.encode(operation))
    assert refused.value.reason == "NAME_INVALID"
