"""Rules A2 and A6 on the key that is asked to sign, and whose signatures are required."""

from __future__ import annotations

from typing import Any

import pytest

from keyd.domain.payload import Payload
from keyd.domain.rules import judge
from keyd.domain.trust import Question, RepositoryView, SigningKey
from tests.unit.rules.world import (
    NOW,
    Signed,
    ask,
    bootstrap_view,
    both,
    delegating,
    delegation,
    drop,
    fingerprint,
    key,
    keyid,
    listing,
    payload,
    put,
    refusals,
    root,
    snapshot,
    successor_view,
    succinct,
    targets,
    timestamp,
    view,
    warnings,
)

PROJECTS = ("targets", payload(delegating(3, delegation("projects", "d1", paths=["a"]))))


@pytest.mark.parametrize(
    ("signed", "about", "right", "wrong"),
    [
        (targets(), view("targets"), "t1", "r1"),
        (snapshot(), view("snapshot"), "s1", "ts1"),
        (timestamp(), view("timestamp"), "ts1", "s1"),
        (targets(), view("projects", delegators=(PROJECTS,)), "d1", "s1"),
        (
            targets(),
            view("bin-0", delegators=(("targets", payload(succinct())),)),
            "d1",
            "s1",
        ),
        (root(1), bootstrap_view(), "r3", "t1"),
        (root(2), successor_view(), "r1", "t1"),
    ],
    ids=["targets", "snapshot", "timestamp", "delegated", "bin", "root 1", "root 2"],
)
def test_a6_the_delegator_lists_the_key(
    signed: Signed, about: RepositoryView, right: str, wrong: str
) -> None:
    assert ask(signed, about, right).findings == ()
    judgement = ask(signed, about, wrong)
    assert refusals(judgement) == ["KEY_NOT_IN_ROLE"]
    assert judgement.findings[0].details == {"kind": "key"}
    assert not judgement.findings[0].malformed


@pytest.mark.parametrize(("name", "listed"), [("r1", True), ("r4", True), ("x", False)])
def test_a6_a_root_key_of_the_old_or_the_new_list(name: str, listed: bool) -> None:
    replace_r1 = both(
        drop(f"/keys/{keyid('r1')}"),
        put(f"/keys/{keyid('r4')}", key("r4")),
        put("/roles/root", listing(2, "r4", "r2", "r3")),
    )
    judgement = ask(root(2), successor_view(), name, bend=replace_r1)
    assert refusals(judgement) == ([] if listed else ["KEY_NOT_IN_ROLE"])


def test_several_delegators_one_must_list_the_key_and_all_must_reach_their_threshold() -> None:
    other = (
        "teams",
        payload(delegating(7, delegation("projects", "d2", paths=["a"]), key_names=("d2",))),
    )
    silent = (
        "others",
        payload(delegating(1, delegation("unrelated", "d3", paths=["a"]), key_names=("d3",))),
    )
    about = view("projects", delegators=(PROJECTS, other, silent))
    for name in ("d1", "d2"):
        judgement = ask(targets(), about, name)
        assert judgement.findings == ()
        assert [keys.delegator for keys in judgement.required] == ["targets:3", "teams:7"]
    assert refusals(ask(targets(), about, "d3")) == ["KEY_NOT_IN_ROLE"]


@pytest.mark.parametrize("delegators", [(), (PROJECTS,)], ids=["nobody", "others only"])
def test_a_role_that_nobody_delegates(delegators: tuple[tuple[str, Payload], ...]) -> None:
    judgement = ask(targets(), view("nowhere", delegators=delegators), "d1")
    assert refusals(judgement) == ["ROLE_NOT_DELEGATED"]
    assert judgement.required == ()


@pytest.mark.parametrize(
    ("signed", "role"),
    [(targets(), "targets"), (snapshot(), "snapshot"), (timestamp(), "timestamp")],
)
def test_c2_nothing_is_signed_before_the_first_root(signed: Signed, role: str) -> None:
    judgement = ask(signed, view(role, trusted_root=None), "t1")
    assert refusals(judgement) == ["SIGNING_ORDER_WRONG"]
    assert judgement.findings[0].rule == "C2"


def test_a_trusted_root_without_the_role_delegates_it_to_nobody() -> None:
    old = root(1)
    del old["roles"]["timestamp"]
    judgement = ask(timestamp(), view("timestamp", trusted_root=payload(old)), "ts1")
    assert refusals(judgement) == ["ROLE_NOT_DELEGATED"]


def test_a_key_of_another_repository_signs_nothing_here() -> None:
    about = view("targets", foreign_material={fingerprint("t1"): "other"})
    judgement = ask(targets(), about, "t1")
    assert refusals(judgement) == ["KEY_BELONGS_TO_ANOTHER_REPOSITORY"]
    assert judgement.findings[0].details == {"kind": "key"}


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        (frozenset(), []),
        (frozenset(["targets", "snapshot"]), []),
        (frozenset(["snapshot"]), ["ROLE_NOT_ALLOWED_FOR_KEY"]),
    ],
)
def test_a2_a_key_may_be_bound_to_roles(roles: frozenset[str], expected: Any) -> None:
    bound = SigningKey("t1", fingerprint("t1"), roles)
    judgement = judge(Question(payload(targets()), NOW, bound), view("targets"))
    assert refusals(judgement) == expected
    assert all(found.details == {"kind": "key"} for found in judgement.findings)


PROJECTS_BY_T1 = delegating(3, delegation("projects", "t1", paths=["a"]), key_names=("t1",))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"trusted_root": None, "targets_material": frozenset([fingerprint("t1")])},
    ],
    ids=["now", "ever"],
)
def test_the_targets_key_signs_no_delegated_role(fields: dict[str, Any]) -> None:
    about = view("projects", delegators=(("targets", payload(PROJECTS_BY_T1)),), **fields)
    judgement = ask(targets(), about, "t1")
    assert refusals(judgement) == ["TARGETS_KEY_IN_DELEGATED_ROLE"]
    assert judgement.findings[0].details == {"kind": "key"}


def test_the_targets_key_is_given_no_delegated_role() -> None:
    judgement = ask(PROJECTS_BY_T1, view("targets"), "t1")
    assert refusals(judgement) == ["TARGETS_KEY_IN_DELEGATED_ROLE"]
    assert judgement.findings[0].pointer == f"/delegations/keys/{keyid('t1')}"
    assert judgement.findings[0].details == {}


def test_imported_repositories_may_list_it_but_not_sign_with_it() -> None:
    listing_it = ask(PROJECTS_BY_T1, view("targets", imported=True), "t1")
    assert (refusals(listing_it), warnings(listing_it)) == ([], ["TARGETS_KEY_IN_DELEGATED_ROLE"])
    delegators = (("targets", payload(PROJECTS_BY_T1)),)
    signing = ask(targets(), view("projects", imported=True, delegators=delegators), "t1")
    assert refusals(signing) == ["TARGETS_KEY_IN_DELEGATED_ROLE"]


def test_delegations_hold_no_key_of_another_repository() -> None:
    signed = delegating(1, delegation("projects", "d1", paths=["a"]))
    about = view("targets", foreign_material={fingerprint("d1"): "other"})
    assert refusals(ask(signed, about)) == ["KEY_BELONGS_TO_ANOTHER_REPOSITORY"]


def test_without_a_key_only_the_payload_is_judged() -> None:
    assert ask(targets(), view("targets")).findings == ()
