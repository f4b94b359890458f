"""Rules R3 to R6: keys, lists and thresholds. Root stands for delegations too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from keyd.domain import public_keys
from keyd.domain.trust import KeyIdFormula, RoleRules, default_rules
from tests.unit.rules.world import (
    Bend,
    Signed,
    ask,
    both,
    delegating,
    delegation,
    drop,
    key,
    keyid,
    put,
    refusals,
    root,
    successor_view,
    view,
    warnings,
)


@pytest.mark.parametrize(
    ("role", "threshold", "reason"),
    [
        ("root", 3, "NO_SPARE_KEY"),
        ("root", 1, "THRESHOLD_BELOW_FLOOR"),
        ("root", 4, "THRESHOLD_ABOVE_KEYS"),
        ("root", 0, "THRESHOLD_INVALID"),
        ("timestamp", -1, "THRESHOLD_INVALID"),
        ("snapshot", 2, "THRESHOLD_ABOVE_KEYS"),
    ],
)
def test_r3_thresholds(role: str, threshold: int, reason: str) -> None:
    bend = put(f"/roles/{role}/threshold", threshold)
    judgement = ask(root(2), successor_view(), bend=bend)
    assert reason in refusals(judgement)
    found = next(found for found in judgement.findings if found.reason == reason)
    assert found.pointer == f"/roles/{role}/threshold"


@pytest.mark.parametrize("state", ["imported", "development"])
@pytest.mark.parametrize(
    ("threshold", "reason"), [(3, "NO_SPARE_KEY"), (1, "THRESHOLD_BELOW_FLOOR")]
)
def test_r3_floors_only_warn_where_no_new_repository_starts(
    state: Any, threshold: int, reason: str
) -> None:
    bend = put("/roles/root/threshold", threshold)
    judgement = ask(root(2), successor_view(**{state: True}), bend=bend)
    assert (refusals(judgement), warnings(judgement)) == ([], [reason])


@pytest.mark.parametrize("state", ["imported", "development"])
def test_r3_impossible_thresholds_are_refused_everywhere(state: Any) -> None:
    bend = put("/roles/targets/threshold", 2)
    assert refusals(ask(root(2), successor_view(**{state: True}), bend=bend)) == [
        "THRESHOLD_ABOVE_KEYS"
    ]


def test_r3_floors_are_those_of_the_listed_role() -> None:
    strict = RoleRules(threshold_floor=2, require_spare_key=True)
    judgement = ask(root(2), successor_view(role_rules={"targets": strict}))
    assert refusals(judgement) == ["NO_SPARE_KEY", "THRESHOLD_BELOW_FLOOR"]
    assert {found.pointer for found in judgement.findings} == {"/roles/targets/threshold"}


def test_r3_floors_of_delegated_roles() -> None:
    signed = delegating(1, delegation("projects", "d1", paths=["a"]))
    about = view("targets", role_rules={"projects": RoleRules(threshold_floor=2)})
    assert refusals(ask(signed, about)) == ["THRESHOLD_BELOW_FLOOR"]


@pytest.mark.parametrize(
    ("bend", "reason", "pointer"),
    [
        (put("/roles/targets/keyids", ["ab"]), "KEYID_UNRESOLVED", "/roles/targets/keyids/0"),
        (
            put("/roles/targets/keyids", [keyid("t1"), keyid("t1")]),
            "KEYID_REPEATED",
            "/roles/targets/keyids/1",
        ),
        (put(f"/keys/{keyid('x1')}", key("x1")), "KEY_UNUSED", f"/keys/{keyid('x1')}"),
        (drop(f"/keys/{keyid('t1')}"), "KEYID_UNRESOLVED", "/roles/targets/keyids/0"),
    ],
)
def test_r4_key_ids(bend: Bend, reason: str, pointer: str) -> None:
    judgement = ask(root(2), successor_view(), bend=bend)
    found = next(found for found in judgement.refusals if found.reason == reason)
    assert found.pointer == pointer
    assert found.malformed


def test_r4_one_key_under_two_ids_is_named_before_all_else() -> None:
    twin = {**key("r1"), "x-owner": "the same person"}
    twin_id = public_keys.keyid_whole_object(twin)
    keyids = [keyid("r1"), twin_id]
    bend = both(
        put(f"/keys/{twin_id}", twin),
        put("/roles/root/keyids", keyids),
        drop(f"/keys/{keyid('r2')}"),
        drop(f"/keys/{keyid('r3')}"),
    )
    judgement = ask(root(2), successor_view(imported=True), bend=bend)
    assert refusals(judgement)[:2] == ["KEY_MATERIAL_REPEATED"] * 2
    assert {found.pointer for found in judgement.refusals[:2]} == {f"/keys/{k}" for k in keyids}
    # Two ids, one vote: the threshold of 2 cannot be reached.
    assert "NEW_THRESHOLD_UNREACHABLE" in refusals(judgement)


def owned() -> Signed:
    """A key object whose id by three members differs from its id by the whole object."""
    return {**key("t1"), "x-owner": "@somebody"}


@pytest.mark.parametrize(
    ("formula", "used", "correct"),
    [
        (KeyIdFormula.EITHER, public_keys.keyid_three_members(owned()), True),
        (KeyIdFormula.EITHER, public_keys.keyid_whole_object(owned()), True),
        (KeyIdFormula.EITHER, "ab" * 32, False),
        (KeyIdFormula.THREE_MEMBERS, public_keys.keyid_three_members(owned()), True),
        (KeyIdFormula.THREE_MEMBERS, public_keys.keyid_whole_object(owned()), False),
        (KeyIdFormula.WHOLE_OBJECT, public_keys.keyid_three_members(owned()), False),
        (KeyIdFormula.WHOLE_OBJECT, public_keys.keyid_whole_object(owned()), True),
        (KeyIdFormula.UNCHECKED, "any name", True),
    ],
)
@pytest.mark.parametrize("state", ["new", "development", "imported"])
def test_r5_key_ids_follow_their_formula(
    formula: KeyIdFormula, used: str, correct: bool, state: Any
) -> None:
    bend = both(
        drop(f"/keys/{keyid('t1')}"),
        put(f"/keys/{used}", owned()),
        put("/roles/targets/keyids", [used]),
    )
    rules = replace(default_rules("root"), keyid_formula=formula)
    about = successor_view(rules=rules, **{state: True} if state != "new" else {})
    judgement = ask(root(2), about, bend=bend)
    found = [] if correct else ["KEYID_INCORRECT"]
    if state == "imported":
        assert (refusals(judgement), warnings(judgement)) == ([], found)
    else:
        assert (refusals(judgement), warnings(judgement)) == (found, [])


P256_PEM = (
    "-----BEGIN PUBLIC KEY-----\n"
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE1wgTb0BVTvCiDlaPmnUfXOLubQMj\n"
    "UxjiafwKLMgiRD0fK+XLSKK6fJjrzNkZCIYG78AUmhbRskgJgOatWD+Z9w==\n"
    "-----END PUBLIC KEY-----\n"
)


@pytest.mark.parametrize(
    ("object_", "reason"),
    [
        ({**key("t1"), "scheme": "rot13"}, "KEY_SCHEME_UNKNOWN"),
        ({**key("t1"), "keyval": {"public": "00"}}, "KEY_UNDECODABLE"),
        (
            {
                "keytype": "ecdsa",
                "scheme": "ecdsa-sha2-nistp384",
                "keyval": {"public": P256_PEM},
            },
            "KEY_CURVE_MISMATCH",
        ),
    ],
)
def test_r6_unusable_keys(object_: Signed, reason: str) -> None:
    used = public_keys.keyid_three_members(object_)
    bend = both(
        drop(f"/keys/{keyid('t1')}"),
        put(f"/keys/{used}", object_),
        put("/roles/targets/keyids", [used]),
    )
    judgement = ask(root(2), successor_view(), bend=bend)
    assert refusals(judgement) == [reason]
    assert judgement.findings[0].pointer == f"/keys/{used}"
    assert judgement.findings[0].rule == "R6"
