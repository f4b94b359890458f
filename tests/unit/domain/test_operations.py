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
    with pytest.raises(InvalidRequest) as refused:
        operations.decode(operations.encode(ChangeOfficer(officer, "")))
    assert refused.value.reason == "OPERATION_MALFORMED"


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
