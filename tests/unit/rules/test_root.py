"""Rules R1, R2, R7 to R11 and the bootstrap of a repository."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from keyd.domain.difference import change
from keyd.domain.rules import judge
from keyd.domain.trust import KeySet, Question, RepositoryView, default_rules
from tests.unit.rules.world import (
    NOW,
    Bend,
    Signed,
    ask,
    bootstrap_view,
    both,
    common,
    delegating,
    delegation,
    drop,
    fingerprint,
    in_days,
    key,
    keyid,
    keys,
    listing,
    payload,
    put,
    refusals,
    root,
    successor_view,
    view,
    warnings,
)


def test_an_honest_root_1_passes_and_needs_both_lists() -> None:
    judgement = ask(root(1), bootstrap_view())
    assert judgement.findings == ()
    assert [keys.delegator for keys in judgement.required] == ["bootstrap", "root:1"]
    assert all(keys.threshold == 2 for keys in judgement.required)
    assert judgement.change is not None


@pytest.mark.parametrize(("name", "found"), [("r3", ["KEYID_REUSED"]), ("t1", [])])
def test_r4_a_key_id_of_root_keeps_its_key(name: str, found: list[str]) -> None:
    # Where key ids are the hash of nothing (imported); other roles' files need one list alone.
    bend = put(f"/keys/{keyid(name)}", key("another"))
    judgement = ask(root(2), successor_view(imported=True), bend=bend)
    assert refusals(judgement) == found
    assert warnings(judgement) == ["KEYID_INCORRECT"]


def test_root_1_needs_no_confirmation() -> None:
    assert ask(root(1), bootstrap_view(), confirm=False).findings == ()


def test_an_honest_root_2_passes_and_needs_both_lists() -> None:
    judgement = ask(root(2), successor_view())
    assert judgement.findings == ()
    assert [keys.delegator for keys in judgement.required] == ["root:1", "root:2"]


def test_nobody_may_sign_a_first_root_that_nobody_announced() -> None:
    judgement = ask(root(1), bootstrap_view(bootstrap=None), "r1")
    assert refusals(judgement) == ["ROOT_NOT_INTENDED"]


@pytest.mark.parametrize(
    "bend",
    [
        both(
            put(f"/keys/{keyid('r4')}", key("r4")),
            put("/roles/root", listing(2, "r1", "r2", "r3", "r4")),
        ),
        both(
            put(f"/keys/{keyid('r4')}", key("r4")),
            drop(f"/keys/{keyid('r3')}"),
            put("/roles/root", listing(2, "r1", "r2", "r4")),
        ),
        both(put("/roles/root/keyids", [keyid("r1"), keyid("r2")]), drop(f"/keys/{keyid('r3')}")),
        put("/roles/root/threshold", 3),
    ],
    ids=["one more key", "another key", "one key less", "another threshold"],
)
def test_root_1_is_the_announced_one(bend: Bend) -> None:
    rules = replace(default_rules("root"), require_spare_key=False)
    judgement = ask(root(1), bootstrap_view(rules=rules), bend=bend)
    assert refusals(judgement) == ["ROOT_DIFFERS_FROM_INTENDED"]
    assert judgement.findings[0].pointer == "/roles/root"


@pytest.mark.parametrize(
    ("version", "about", "expected"),
    [
        (2, bootstrap_view(), "1"),
        (3, successor_view(), "2"),
        (9, view("root", trusted_root=payload(root(4)), high_water=4), "5"),
    ],
)
def test_r1_versions_follow_without_a_gap(
    version: int, about: RepositoryView, expected: Any
) -> None:
    judgement = ask(root(version), about)
    assert refusals(judgement) == ["ROOT_VERSION_GAP"]
    assert judgement.findings[0].details == {"next_version": expected}


def test_r1_an_old_root_version_is_also_taken() -> None:
    about = view("root", trusted_root=payload(root(4)), high_water=4)
    assert refusals(ask(root(4), about)) == ["VERSION_NOT_INCREASING", "ROOT_VERSION_GAP"]


@pytest.mark.parametrize(
    "bend",
    [
        put("/roles/mirrors", listing(1, "t1")),
        both(drop("/roles/timestamp"), drop(f"/keys/{keyid('ts1')}")),
        both(
            drop("/roles/root"),
            *(drop(f"/keys/{keyid(name)}") for name in ("r1", "r2", "r3")),
        ),
    ],
    ids=["mirrors", "no timestamp", "no root"],
)
@pytest.mark.parametrize("about", [successor_view(), bootstrap_view()], ids=["root 2", "root 1"])
def test_r2_exactly_four_roles(bend: Bend, about: RepositoryView) -> None:
    version = 2 if about.trusted_root else 1
    judgement = ask(root(version), about, bend=bend)
    assert refusals(judgement) == ["ROLE_SET_WRONG"]


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        ("", []),
        ("r1", []),
        ("r1 r2", ["OLD_THRESHOLD_UNREACHABLE", "NEW_THRESHOLD_UNREACHABLE"]),
        ("t1 s1 ts1", []),
    ],
)
def test_r7_both_thresholds_can_still_be_reached(lost: str, expected: Any) -> None:
    about = successor_view(unusable=frozenset(map(fingerprint, lost.split())))
    assert refusals(ask(root(2), about)) == expected


def test_r7_old_and_new_list_are_told_apart() -> None:
    fresh = both(
        *(drop(f"/keys/{keyid(name)}") for name in ("r1", "r2", "r3")),
        *(put(f"/keys/{keyid(name)}", key(name)) for name in ("n1", "n2", "n3")),
        put("/roles/root", listing(2, "n1", "n2", "n3")),
    )
    lost_old = successor_view(unusable=frozenset(map(fingerprint, ("r1", "r2"))))
    lost_new = successor_view(unusable=frozenset(map(fingerprint, ("n1", "n2"))))
    assert refusals(ask(root(2), lost_old, bend=fresh)) == ["OLD_THRESHOLD_UNREACHABLE"]
    assert refusals(ask(root(2), lost_new, bend=fresh)) == ["NEW_THRESHOLD_UNREACHABLE"]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (True, True, []),
        (True, False, ["CONSISTENT_SNAPSHOT_REMOVED"]),
        (True, None, ["CONSISTENT_SNAPSHOT_REMOVED"]),
        (False, False, []),
        (False, True, []),
        (None, None, []),
    ],
)
def test_r8_consistent_snapshots_stay(before: Any, after: Any, expected: Any) -> None:
    def build(version: int, value: bool | None) -> Signed:
        signed = root(version)
        del signed["consistent_snapshot"]
        return signed if value is None else {**signed, "consistent_snapshot": value}

    about = successor_view(trusted_root=payload(build(1, before)))
    assert refusals(ask(build(2, after), about)) == expected


ONE_ONLINE_KEY_FOR_TARGETS = both(
    drop(f"/keys/{keyid('t1')}"), put("/roles/targets/keyids", [keyid("s1")])
)


@pytest.mark.parametrize(
    ("role", "keyids"),
    [("targets", ["t1", "s1"]), ("targets", ["ts1", "t1"]), ("root", ["r1", "r2", "r3", "ts1"])],
)
def test_r9_online_keys_stay_out_of_offline_roles(role: str, keyids: list[str]) -> None:
    bend = put(f"/roles/{role}/keyids", [keyid(name) for name in keyids])
    judgement = ask(root(2), successor_view(), bend=bend)
    assert refusals(judgement) == ["ONLINE_KEY_IN_OFFLINE_ROLE"]
    assert judgement.findings[0].pointer == f"/roles/{role}/keyids"


def test_r9_snapshot_and_timestamp_may_share_a_key() -> None:
    bend = both(drop(f"/keys/{keyid('ts1')}"), put("/roles/timestamp/keyids", [keyid("s1")]))
    assert ask(root(2), successor_view(), bend=bend).findings == ()


@pytest.mark.parametrize("allowed", ["imported", "by its rules"])
def test_r9_only_warns_where_allowed(allowed: Any) -> None:
    if allowed == "imported":
        about = successor_view(imported=True)
    else:
        rules = replace(default_rules("targets"), allow_online_key_in_offline_role=True)
        about = successor_view(role_rules={"targets": rules})
    judgement = ask(root(2), about, bend=ONE_ONLINE_KEY_FOR_TARGETS)
    assert refusals(judgement) == []
    assert warnings(judgement) == ["ONLINE_KEY_IN_OFFLINE_ROLE"]


def test_r9_binds_development_repositories() -> None:
    judgement = ask(root(2), successor_view(development=True), bend=ONE_ONLINE_KEY_FOR_TARGETS)
    assert refusals(judgement) == ["ONLINE_KEY_IN_OFFLINE_ROLE"]


def test_r10_the_change_is_confirmed() -> None:
    about, new = successor_view(), payload(root(2))
    right = change(about.trusted_root, new).digest
    judgement = ask(root(2), about, confirm=False)
    assert refusals(judgement) == ["CHANGE_NOT_CONFIRMED"]
    assert judgement.findings[0].details == {"change": right}
    assert judgement.change == change(about.trusted_root, new)


def test_r10_another_change_is_not_this_one() -> None:
    about = successor_view()
    other = change(about.trusted_root, payload(root(2, days=300))).digest
    question = Question(payload(root(2)), NOW, confirmed_change=other)
    assert refusals(judge(question, about)) == ["CHANGE_NOT_CONFIRMED"]


@pytest.mark.parametrize(
    ("state", "rules", "refused", "warned"),
    [
        ({}, {}, ["ROOT_EXPIRY_SHORTENED"], []),
        ({"development": True}, {}, ["ROOT_EXPIRY_SHORTENED"], []),
        ({"imported": True}, {}, [], ["ROOT_EXPIRY_SHORTENED"]),
        ({}, {"allow_shorter_root_expiry": True}, [], ["ROOT_EXPIRY_SHORTENED"]),
    ],
)
def test_r11_expiry_is_not_shortened(
    state: Any, rules: dict[str, Any], refused: list[str], warned: list[str]
) -> None:
    about = successor_view(rules=replace(default_rules("root"), **rules), **state)
    judgement = ask(root(2, days=364), about)
    assert (refusals(judgement), warnings(judgement)) == (refused, warned)


def test_r11_compares_nothing_with_a_malformed_expiry() -> None:
    judgement = ask(root(2), successor_view(), bend=put("/expires", "soon"))
    assert refusals(judgement) == ["EXPIRES_MALFORMED"]


@pytest.mark.parametrize(
    ("old_expires", "allowed", "refused", "warned"),
    [
        (in_days(0), False, ["TRUSTED_ROOT_EXPIRED"], []),
        (in_days(-9), False, ["TRUSTED_ROOT_EXPIRED"], []),
        (in_days(-9), True, [], ["TRUSTED_ROOT_EXPIRED"]),
        (in_days(0.001), False, [], []),
        ("2031-01-01T00:00:00.123456789Z", False, [], []),
        ("2031-01-01T00:00:00.99008-06:00", False, [], []),
        ("who knows", False, ["TRUSTED_ROOT_EXPIRED"], []),
    ],
)
def test_r11_going_on_from_an_expired_root_takes_an_override(
    old_expires: str, allowed: Any, refused: list[str], warned: list[str]
) -> None:
    old = {**root(1), "expires": old_expires}
    rules = replace(default_rules("root"), allow_expired_trusted_root=allowed)
    judgement = ask(root(2), successor_view(rules=rules, trusted_root=payload(old)))
    assert (refusals(judgement), warnings(judgement)) == (refused, warned)


def test_imported_repositories_need_the_override_too() -> None:
    about = successor_view(imported=True)
    late = NOW + timedelta(days=366)
    assert refusals(ask({**root(2), "expires": in_days(500)}, about, now=late)) == [
        "TRUSTED_ROOT_EXPIRED"
    ]


def test_keys_of_another_repository_are_refused() -> None:
    judgement = ask(root(2), successor_view(foreign_material={fingerprint("t1"): "other"}))
    assert refusals(judgement) == ["KEY_BELONGS_TO_ANOTHER_REPOSITORY"]
    assert judgement.findings[0].pointer == f"/keys/{keyid('t1')}"
    assert judgement.findings[0].details == {}


PROJECTS_BY_D1 = payload(delegating(1, delegation("projects", "d1", paths=["*"])))
D1_SIGNS_TARGETS = both(
    put(f"/keys/{keyid('d1')}", key("d1")),
    put("/roles/targets/keyids", [keyid("t1"), keyid("d1")]),
)


@pytest.mark.parametrize(
    "fields",
    [{"targets": PROJECTS_BY_D1}, {"delegated_material": frozenset([fingerprint("d1")])}],
    ids=["now", "ever"],
)
def test_no_delegated_key_becomes_a_targets_key(fields: dict[str, Any]) -> None:
    judgement = ask(root(2), successor_view(**fields), bend=D1_SIGNS_TARGETS)
    assert refusals(judgement) == ["TARGETS_KEY_IN_DELEGATED_ROLE"]


def test_a_repository_with_such_a_key_can_still_change_its_root() -> None:
    old = root(1)
    D1_SIGNS_TARGETS(old)
    about = successor_view(trusted_root=payload(old), targets=PROJECTS_BY_D1)
    assert ask(root(2), about, bend=D1_SIGNS_TARGETS).findings == ()
    assert ask(root(2), about).findings == ()


def test_root_keys_of_the_announcement_may_be_unknown_elsewhere() -> None:
    # The intended set names keys by any label; only material counts.
    intended = {"laptop": fingerprint("r1"), "safe": fingerprint("r2"), "bank": fingerprint("r3")}
    about = bootstrap_view(bootstrap=KeySet("bootstrap", 2, intended))
    assert ask(root(1), about).findings == ()


def test_a_lone_root_role_key_table() -> None:
    signed = {
        **common("root", 1, 365),
        "keys": keys("r1", "r2", "r3"),
        "roles": {"root": listing(2, "r1", "r2", "r3")},
    }
    assert refusals(ask(signed, bootstrap_view())) == ["ROLE_SET_WRONG"]
