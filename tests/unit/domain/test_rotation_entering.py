"""Keys that enter a role: which are refused, and what their holders are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from keyd.domain.keys import KeyState
from keyd.domain.rotation.changes import ChangeSet, NewKey, RoleChange, RotationKind
from keyd.domain.rotation.plan import Plan, StepKind, table
from keyd.domain.rotation.planning import plan
from keyd.domain.rotation.standing import KeyFacts, Standing
from keyd.errors import Severity
from tests.root_versions import (
    EXPIRES,
    TARGETS,
    TIMESTAMP,
    RootVersion,
    fingerprint,
    root_file,
    signer,
)

OLD = RootVersion(keys=(1, 2, 3), threshold=2)
HOLDERS = {1: "alice", 2: "bob", 3: "carol"}
STANDING = Standing(
    repository="demo",
    development=False,
    now=EXPIRES,
    trusted={"root": root_file(1, OLD).payload},
    delegators={},
    keys={},
    holders={
        fingerprint(number): KeyFacts(f"token-{number}", fingerprint(number), holder=holder)
        for number, holder in HOLDERS.items()
    },
    next_root=2,
)


def elsewhere(number: int, holder: str) -> NewKey:
    return NewKey(f"token-{number}", holder, signer(number).public_key.to_dict())


def change(add: tuple[NewKey, ...], *remove: int, threshold: int | None = None) -> RoleChange:
    return RoleChange("root", add, tuple(fingerprint(number) for number in remove), threshold)


def planned(*changes: RoleChange, standing: Standing = STANDING) -> Plan:
    return plan(ChangeSet(RotationKind.ROOT, "demo", changes), standing)


def found(made: Plan) -> Mapping[str, Severity]:
    return {finding.reason: finding.severity for finding in made.findings}


def test_nobody_is_told_anything_of_an_ordinary_change() -> None:
    made = planned(change((elsewhere(4, "dave"),), 3))
    assert found(made) == {}
    assert "     root (old): 2 of token-1 (alice), token-2 (bob), token-3 (carol); " in "\n".join(
        table(made)
    )


def test_a_person_who_changes_tokens_signs_with_both() -> None:
    """The members stay, their tokens change: each must be asked for the old and the new one."""
    made = planned(change(tuple(elsewhere(new, HOLDERS[new - 3]) for new in (4, 5, 6)), 1, 2, 3))
    assert found(made) == {"HOLDER_SIGNS_TWICE": Severity.WARN}
    assert {finding.message.split()[0] for finding in made.findings} == set(HOLDERS.values())
    assert [(need.which, need.threshold, need.people) for need in made.needs] == [
        ("old", 2, ("alice", "bob", "carol")),
        ("new", 2, ("alice", "bob", "carol")),
    ]
    assert set(made.needs[0].keys).isdisjoint(made.needs[1].keys)


def test_other_roles_are_signed_by_the_new_token_alone() -> None:
    new = elsewhere(7, "alice")
    owned = KeyFacts("token-90", fingerprint(TARGETS), holder="alice")
    standing = replace(STANDING, holders={owned.fingerprint: owned})
    leaves = RoleChange("targets", (new,), (fingerprint(TARGETS),))
    assert found(planned(leaves, standing=standing)) == {}


def test_a_second_token_of_one_person_counts_twice() -> None:
    made = planned(change((elsewhere(4, "alice"),)))
    assert found(made) == {"HOLDER_COUNTS_TWICE": Severity.WARN}
    assert "alice would hold 2 keys of root" in made.findings[0].message


def test_two_new_tokens_for_one_old_one_are_both_told() -> None:
    made = planned(change((elsewhere(4, "alice"), elsewhere(5, "alice")), 1))
    assert set(found(made)) == {"HOLDER_COUNTS_TWICE", "HOLDER_SIGNS_TWICE"}


def test_one_key_that_leaves_and_enters_stays() -> None:
    made = planned(change((elsewhere(3, "carol"),), 3))
    assert found(made) == {"KEY_LEAVES_AND_ENTERS": Severity.WARN}
    assert made.leaves == ()


def test_a_key_of_this_daemon_that_stays_is_not_retired() -> None:
    here = KeyFacts("here", fingerprint(3), KeyState.ACTIVE, token="soft", repository="demo")
    standing = replace(STANDING, keys={"here": here}, tokens=frozenset({"soft"}))
    made = planned(change((NewKey("here", token="soft"),), 3), standing=standing)
    assert found(made) == {"KEY_LEAVES_AND_ENTERS": Severity.WARN}
    assert not [step for step in made.steps if step.kind is StepKind.RETIRE]


def test_a_listed_key_does_not_enter_once_more() -> None:
    made = planned(change((elsewhere(3, "eve"),), threshold=3))
    assert found(made)["KEY_MATERIAL_REPEATED"] is Severity.REFUSE


@pytest.mark.parametrize("now_listed", [True, False], ids=["listed now", "entering as well"])
def test_a_persons_online_key_is_no_root_key(now_listed: bool) -> None:
    number = TIMESTAMP if now_listed else 7
    new = elsewhere(number, "robot")
    online = () if now_listed else (RoleChange("timestamp", (new,)),)
    assert "ONLINE_KEY_IN_OFFLINE_ROLE" in found(planned(change((new,)), *online))


def test_a_key_that_is_yet_to_be_made_enters_one_kind_of_role_only() -> None:
    standing = replace(STANDING, tokens=frozenset({"soft"}))
    new = (NewKey("fresh", token="soft"),)
    made = planned(change(new), RoleChange("timestamp", new), standing=standing)
    assert found(made) == {"ONLINE_KEY_IN_OFFLINE_ROLE": Severity.REFUSE}


@pytest.mark.parametrize(
    ("lenient", "severity"),
    [
        ({}, Severity.REFUSE),
        ({"imported": True}, Severity.WARN),
        ({"development": True}, Severity.WARN),
    ],
    ids=["production", "imported", "development"],
)
def test_what_was_published_with_low_thresholds_is_warned_as_by_the_rules(
    lenient: Mapping[str, bool], severity: Severity
) -> None:
    standing = replace(STANDING, **lenient)  # type: ignore[arg-type]
    made = planned(change((), threshold=1), standing=standing)
    assert found(made) == {"THRESHOLD_BELOW_FLOOR": severity}
