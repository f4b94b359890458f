"""The decision itself: tables, and a model that no policy may disagree with."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.domain.methods import METHODS, Resource
from keyd.domain.policy import (
    Action,
    Caller,
    Grant,
    Policy,
    decide,
    may_call,
    principal_name,
)

CI = Caller("uri:spiffe://example.org/ci", False)
SIGN = Action("SigningService.SignMetadata", "demo", "timestamp", "timestamp-1")
TIMESTAMP = Grant(
    name="ci",
    line=7,
    principals=frozenset({CI.principal}),
    methods=frozenset({"SigningService.SignMetadata"}),
    repositories=frozenset({"demo"}),
    roles=frozenset({"timestamp"}),
    keys=frozenset({"timestamp-1"}),
)


def policy(*grants: Grant) -> Policy:
    return Policy("00" * 32, grants)


def test_empty_policy_allows_nothing() -> None:
    for method in METHODS:
        action = Action(method, "demo", "root", "root-1", "token")
        decision = decide(policy(), CI, action)
        assert not decision.allowed
        assert decision.grant is None
        assert "no grant names the principal" in decision.explanation
        assert not may_call(policy(), CI, method)


def test_a_grant_that_names_everything_allows() -> None:
    decision = decide(policy(TIMESTAMP), CI, SIGN)
    assert decision.allowed
    assert decision.grant is TIMESTAMP
    assert decision.explanation == "grant 'ci' (line 7) allows it"
    assert may_call(policy(TIMESTAMP), CI, SIGN.method)


@pytest.mark.parametrize(
    ("caller", "action", "explanation"),
    [
        (
            replace(CI, principal="uri:spiffe://example.org/CI"),
            SIGN,
            "no grant names the principal 'uri:spiffe://example.org/CI'",
        ),
        (
            CI,
            replace(SIGN, method="SigningService.CheckMetadata"),
            "(line 7) comes nearest, but does not name the method SigningService.CheckMetadata",
        ),
        (CI, replace(SIGN, method="SigningService.Signmetadata"), "there is no method"),
        (CI, replace(SIGN, method="*"), "there is no method '*'"),
        (CI, replace(SIGN, repository="demo2"), "but does not name the repository 'demo2'"),
        (CI, replace(SIGN, repository="Demo"), "but does not name the repository 'Demo'"),
        (CI, replace(SIGN, repository="demo "), "but does not name the repository 'demo '"),
        (CI, replace(SIGN, role="timestаmp"), "but does not name the role"),  # noqa: RUF001
        (CI, replace(SIGN, role="root"), "but does not name the role 'root'"),
        (CI, replace(SIGN, key="root-1"), "but does not name the key 'root-1'"),
        (CI, replace(SIGN, token="hsm"), "but does not name the token 'hsm'"),
        (CI, replace(SIGN, repository=""), "needs a repository, none was named"),
        (CI, replace(SIGN, role=""), "needs a role, none was named"),
        (CI, replace(SIGN, key=""), "needs a key, none was named"),
    ],
)
def test_one_deviation_denies_and_says_which(
    caller: Caller, action: Action, explanation: str
) -> None:
    decision = decide(policy(TIMESTAMP), caller, action)
    assert not decision.allowed
    assert explanation in decision.explanation


def test_grants_do_not_add_up() -> None:
    """Half of the permission in each of two grants is no permission."""
    snapshot = replace(TIMESTAMP, name="snapshot", line=20, roles=frozenset({"snapshot"}))
    other = replace(TIMESTAMP, name="other", line=30, repositories=frozenset({"other"}))
    decision = decide(policy(snapshot, other), CI, SIGN)
    assert not decision.allowed
    assert decision.grant is snapshot


def test_the_nearest_grant_is_named() -> None:
    far = replace(TIMESTAMP, name="far", methods=frozenset({"KeyService.ListKeys"}))
    near = replace(TIMESTAMP, name="near", keys=frozenset({"timestamp-2"}))
    for order in ((far, near), (near, far)):
        assert decide(policy(*order), CI, SIGN).grant is near


def test_the_first_allowing_grant_is_named() -> None:
    wide = replace(TIMESTAMP, name="wide", any_role=True)
    assert decide(policy(TIMESTAMP, wide), CI, SIGN).grant is TIMESTAMP
    assert decide(policy(wide, TIMESTAMP), CI, SIGN).grant is wide


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp"])
def test_any_delegated_role_covers_no_top_level_role(role: str) -> None:
    grant = replace(TIMESTAMP, roles=frozenset(), any_delegated_role=True)
    assert not decide(policy(grant), CI, replace(SIGN, role=role)).allowed
    assert decide(policy(grant), CI, replace(SIGN, role="bins-0f")).allowed


@pytest.mark.parametrize("resource", Resource)
def test_any_covers_every_name_of_its_kind_only(resource: Resource) -> None:
    flag = f"any_{resource.value}"
    grant = Grant("g", 1, frozenset(), frozenset(), **{flag: True})  # type: ignore[arg-type]
    for other in Resource:
        assert grant.covers(other, "x") is (other is resource)


def test_a_certificate_cannot_speak_for_a_socket() -> None:
    names = {principal_name(kind, "admin") for kind in ("unix", "uri", "dns")}
    assert names == {"unix:admin", "uri:admin", "dns:admin"}


# A small world makes near misses frequent.
_NAMES = st.sampled_from(["", "a", "A", "a ", "root", "targets", "á", "á", "*"])
_PRINCIPALS = st.sampled_from(["unix:a", "dns:a", "unix:A"])
_METHODS = st.sampled_from([*METHODS, "SigningService.Unknown", ""])
_LISTED = st.frozensets(_NAMES, max_size=2)
_GRANTS = st.builds(
    Grant,
    name=st.just("g"),
    line=st.integers(1, 99),
    principals=st.frozensets(_PRINCIPALS, max_size=2),
    methods=st.frozensets(_METHODS, max_size=4),
    repositories=_LISTED,
    any_repository=st.booleans(),
    roles=_LISTED,
    any_role=st.booleans(),
    any_delegated_role=st.booleans(),
    keys=_LISTED,
    any_key=st.booleans(),
    tokens=_LISTED,
    any_token=st.booleans(),
)
_ACTIONS = st.builds(Action, _METHODS, _NAMES, _NAMES, _NAMES, _NAMES)


def _named(grant: Grant, action: Action) -> bool:
    """The same question asked differently: which tuples does the grant spell out?"""
    delegated = {action.role} - {"root", "targets", "snapshot", "timestamp"}
    columns = (
        grant.methods,
        grant.repositories | ({action.repository} if grant.any_repository else set()) | {""},
        grant.roles
        | ({action.role} if grant.any_role else set())
        | (delegated if grant.any_delegated_role else set())
        | {""},
        grant.keys | ({action.key} if grant.any_key else set()) | {""},
        grant.tokens | ({action.token} if grant.any_token else set()) | {""},
    )
    row = (action.method, action.repository, action.role, action.key, action.token)
    return row in set(product(*columns))


@given(st.lists(_GRANTS, max_size=4), _PRINCIPALS, _ACTIONS)
def test_nothing_is_allowed_that_no_grant_names(
    grants: list[Grant], principal: str, action: Action
) -> None:
    caller = Caller(principal, True)
    needed = METHODS.get(action.method)
    complete = needed is not None and all(action.touches(resource) for resource in needed)
    expected = complete and any(
        principal in grant.principals and _named(grant, action) for grant in grants
    )
    decision = decide(policy(*grants), caller, action)
    assert decision.allowed is expected
    assert decision.explanation
    if decision.allowed:
        assert decision.grant in grants
        assert may_call(policy(*grants), caller, action.method)


@given(st.lists(_GRANTS, max_size=3), _PRINCIPALS, _ACTIONS)
def test_who_asks_locally_gets_nothing_extra(
    grants: list[Grant], principal: str, action: Action
) -> None:
    callers = (Caller(principal, True), Caller(principal, False))
    verdicts = {decide(policy(*grants), caller, action).allowed for caller in callers}
    assert len(verdicts) == 1
